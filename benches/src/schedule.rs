//! In which order the measures of one round run.

/// How often a measure runs in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// `repeats` times: it takes microseconds, and its tail is of interest.
    Fast,
    /// Once: it takes up to seconds.
    Slow,
    /// Once in every second round, and not in the one that warms up: it takes longer.
    Rare,
}

impl Pace {
    fn runs_in(self, round: usize) -> bool {
        self != Self::Rare || round % 2 == 1
    }
}

/// The order of round `round`: indexes into `paces`.
///
/// A round has `repeats` turns. Every fast measure runs in every turn; the slow ones are
/// distributed over the turns. Each turn begins one measure later than the turn before it, so that
/// no measure always follows the same one.
pub fn of_round(paces: &[Pace], round: usize, repeats: usize) -> Vec<usize> {
    let repeats = repeats.max(1);
    let mut slow_seen = 0;
    let mut turns = vec![Vec::new(); repeats];
    for (measure, pace) in paces.iter().enumerate() {
        match pace {
            Pace::Fast => turns.iter_mut().for_each(|turn| turn.push(measure)),
            Pace::Slow | Pace::Rare if !pace.runs_in(round) => {}
            Pace::Slow | Pace::Rare => {
                // Another turn in each round.
                if let Some(turn) = turns.get_mut((slow_seen + round) % repeats) {
                    turn.push(measure);
                }
                slow_seen += 1;
            }
        }
    }
    for (number, turn) in turns.iter_mut().enumerate() {
        if !turn.is_empty() {
            let by = (round * repeats + number) % turn.len();
            turn.rotate_left(by);
        }
    }
    turns.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Pace::{Fast, Slow};

    #[test]
    fn fast_ones_run_in_every_turn_and_slow_ones_once() {
        let paces = [Fast, Slow, Fast, Slow, Slow];
        let order = of_round(&paces, 0, 2);
        assert_eq!(order, [0, 1, 2, 4, 2, 3, 0]);
        for round in 0..7 {
            let order = of_round(&paces, round, 3);
            let count = |m: usize| order.iter().filter(|&&x| x == m).count();
            assert_eq!([0, 1, 2, 3, 4].map(count), [3, 1, 3, 1, 1]);
        }
    }

    #[test]
    fn rare_ones_run_in_every_second_round() {
        let of = |round| of_round(&[Pace::Rare, Slow], round, 5);
        assert_eq!([0, 1, 2, 3].map(|round| of(round).len()), [1, 2, 1, 2]);
    }

    #[test]
    fn every_measure_comes_first_once() {
        let firsts: Vec<usize> =
            (0..4).filter_map(|round| of_round(&[Slow; 4], round, 1).first().copied()).collect();
        assert_eq!(firsts, [0, 1, 2, 3]);
    }

    #[test]
    fn nothing_to_run() {
        assert!(of_round(&[], 3, 2).is_empty());
    }
}
