//! The verdict, from the observations of the sockets' owners.

use std::collections::{BTreeMap, HashMap, HashSet};

use skreap::core::PhaseSummary;
use skreap_testbed::{Echoed, Watched};

/// The observations of the owners, over all rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Sockets that were connected to the deleted server.
    pub victims: u64,
    /// Those of them that got ECONNABORTED.
    pub told: u64,
    /// Those that did not.
    pub missed: u64,
    /// Victims whose owner connected to a living server and got an answer.
    pub reconnected: u64,
    /// Sockets that were connected to a living server all the time.
    pub bystanders: u64,
    /// Those of them that had an error.
    pub wrongly_destroyed: u64,
    /// Sockets without an error that got no answer in time.
    pub unanswered: u64,
    /// Unexpected errors and failures, by kind.
    pub oddities: BTreeMap<String, u64>,
    /// From the event to the error, and to the answer of another server, in nanoseconds.
    until_error: Vec<u64>,
    until_answer: Vec<u64>,
}

impl Tally {
    fn odd(&mut self, what: String) {
        *self.oddities.entry(what).or_default() += 1;
    }

    /// Adds a round. `expected` has each victim's cookie and when its event was sent, in monotonic
    /// nanoseconds; `echoed` is a message on every socket, after all events were handled.
    pub(super) fn add(
        &mut self,
        sockets: u64,
        mut expected: HashMap<u64, u64>,
        watched: &[Watched],
        echoed: &[Echoed],
    ) {
        let victims = expected.len() as u64;
        self.victims += victims;
        self.bystanders += sockets.saturating_sub(victims);
        let mut missed = HashSet::new();
        for victim in watched.iter().flat_map(|w| &w.victims) {
            let Some(sent_ns) = expected.remove(&victim.cookie) else {
                self.wrongly_destroyed += 1;
                continue;
            };
            if victim.errno != libc::ECONNABORTED {
                self.odd(format!("errno {} instead of ECONNABORTED", victim.errno));
                missed.insert(victim.cookie);
                continue;
            }
            self.told += 1;
            self.until_error.push(victim.error_at_ns.saturating_sub(sent_ns));
            if let Some(at) = victim.answered_at_ns {
                self.reconnected += 1;
                self.until_answer.push(at.saturating_sub(sent_ns));
            } else if let Some(failure) = &victim.failure {
                self.odd(failure.what.clone());
            }
        }
        missed.extend(expected.into_keys());
        self.missed += missed.len() as u64;
        // A missed socket gets no answer, and is counted already.
        for lost in echoed.iter().flat_map(|e| &e.lost).filter(|lost| !missed.contains(&lost.cookie)) {
            if lost.errno == libc::ETIMEDOUT {
                self.unanswered += 1;
            } else {
                self.wrongly_destroyed += 1;
            }
        }
    }

    /// Percentiles of the time from the event to the error.
    pub(super) fn until_error(&mut self) -> PhaseSummary {
        percentiles(&mut self.until_error)
    }

    /// Percentiles of the time from the event to the answer of another server.
    pub(super) fn until_answer(&mut self) -> PhaseSummary {
        percentiles(&mut self.until_answer)
    }
}

/// Exact percentiles (nearest rank); all zero if there are no values.
fn percentiles(values: &mut [u64]) -> PhaseSummary {
    values.sort_unstable();
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or_default()
    };
    let mut summary = PhaseSummary::default();
    summary.p50_ns = at(50);
    summary.p90_ns = at(90);
    summary.p99_ns = at(99);
    summary.max_ns = at(100);
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use skreap_testbed::{Lost, Victim};

    fn victim(cookie: u64, errno: i32, answered: bool) -> Victim {
        Victim {
            socket: cookie as u32,
            cookie,
            errno,
            error_at_ns: 150,
            answered_by: answered.then(|| "10.96.0.1:53/udp".to_owned()),
            answered_at_ns: answered.then_some(250),
            failure: None,
        }
    }

    fn watched(victims: Vec<Victim>) -> Watched {
        Watched { victims, untouched: 0, rest: None, timed_out: false }
    }

    fn lost(cookie: u64, errno: i32) -> Lost {
        Lost { socket: cookie as u32, cookie, errno }
    }

    #[test]
    fn all_is_well() {
        let mut tally = Tally::default();
        let watched = watched(vec![victim(1, libc::ECONNABORTED, true), victim(2, libc::ECONNABORTED, true)]);
        tally.add(10, [(1, 100), (2, 120)].into(), &[watched], &[Echoed::default()]);
        assert_eq!((tally.victims, tally.told, tally.missed, tally.reconnected), (2, 2, 0, 2));
        assert_eq!((tally.bystanders, tally.wrongly_destroyed, tally.unanswered), (8, 0, 0));
        let summary = tally.until_error();
        assert_eq!((summary.p50_ns, summary.p90_ns, summary.max_ns), (30, 50, 50));
        assert_eq!(tally.until_answer().max_ns, 150);
    }

    #[test]
    fn every_deviation_is_counted_once() {
        let mut tally = Tally::default();
        let watched = watched(vec![
            victim(1, libc::ECONNABORTED, false), // not reconnected
            victim(2, libc::ECONNRESET, true),    // ended, but not by us
            victim(7, libc::ECONNABORTED, true),  // not a victim
        ]);
        let echoed = Echoed {
            lost: vec![
                lost(2, libc::ENOTCONN),
                lost(3, libc::ENOTCONN),
                lost(8, libc::EDESTADDRREQ),
                lost(9, libc::ETIMEDOUT),
            ],
            ..Echoed::default()
        };
        tally.add(10, [(1, 0), (2, 0), (3, 0)].into(), &[watched], &[echoed]);
        assert_eq!((tally.victims, tally.told, tally.missed, tally.reconnected), (3, 1, 2, 0));
        assert_eq!((tally.bystanders, tally.wrongly_destroyed, tally.unanswered), (7, 2, 1));
        assert_eq!(tally.oddities.values().sum::<u64>(), 1);
    }

    #[test]
    fn percentiles_are_exact() {
        let mut values: Vec<u64> = (1..=1000).rev().collect();
        let summary = percentiles(&mut values);
        assert_eq!((summary.p50_ns, summary.p90_ns, summary.p99_ns, summary.max_ns), (500, 900, 990, 1000));
        assert_eq!(percentiles(&mut []), PhaseSummary::default());
    }
}
