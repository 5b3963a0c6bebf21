//! Cases of one kind, each measured once in every round.

use anyhow::Result;

use crate::progress::Progress;
use crate::stop::Stop;

/// Measures each case once in each round. Each round begins with another case, and the first does not count. Returns the samples of
/// each case, round by round.
///
/// # Errors
/// When a measurement fails, or the user stops.
pub fn in_rounds<C, S>(
    rounds: u32,
    cases: &mut [C],
    progress: &Progress,
    stop: &Stop,
    mut measure: impl FnMut(&mut C) -> Result<S>,
) -> Result<Vec<Vec<S>>> {
    let mut samples: Vec<Vec<S>> = cases.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds as usize {
        for turn in 0..cases.len() {
            stop.check()?;
            let number = (turn + round) % cases.len();
            let (Some(case), Some(samples)) = (cases.get_mut(number), samples.get_mut(number)) else {
                continue;
            };
            let sample = measure(case)?;
            if round > 0 {
                samples.push(sample);
            }
        }
        progress.step();
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_case_and_the_first_does_not_count() {
        let mut order = Vec::new();
        let samples = in_rounds(2, &mut [0, 1, 2], &Progress::new(3), &Stop::default(), |case| {
            order.push(*case);
            Ok(order.len())
        });
        assert_eq!(samples.unwrap(), [vec![6, 8], vec![4, 9], vec![5, 7]]);
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1]);
    }
}
