//! When a backend counts as gone, and what is done then.

use std::time::Duration;

use skreap_core::Protocol;

use super::action::Action;
use super::change::Conditions;

/// The change by which a Service loses a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// No slice of the Service names it any more.
    Removed,
    /// It is neither ready nor serving. One that terminates and still serves is left alone.
    #[default]
    NotServing,
    /// It is not ready, also if it still serves.
    NotReady,
}

/// What the beginning of its end means for a UDP backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UdpTerminating {
    /// As for TCP: it may finish what it has begun.
    #[default]
    Drain,
    /// It counts as not serving from then on, unless its Service publishes it as ready still.
    Now,
}

/// The choices of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When a Service has lost a backend.
    pub when: When,
    /// UDP backends that terminate.
    pub udp_terminating: UdpTerminating,
    /// The action of Services that name none.
    pub action: Action,
    /// How long a backend has to stay away.
    pub settle: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            when: When::default(),
            udp_terminating: UdpTerminating::default(),
            action: Action::default(),
            settle: Duration::from_secs(1),
        }
    }
}

impl Policy {
    /// True if clients may stay with an endpoint in these conditions. What is not said counts in favour of the
    /// endpoint: `ready` absent is ready, and `serving` absent is what `ready` says.
    pub fn keeps(&self, protocol: Protocol, conditions: Conditions) -> bool {
        let ready = conditions.ready.unwrap_or(true);
        let terminating = conditions.terminating.unwrap_or(false);
        match self.when {
            When::Removed => true,
            // A Service that publishes addresses that are not ready wants clients to use them: ready is true then.
            When::NotReady => ready,
            When::NotServing if ready => true,
            When::NotServing => {
                let cut =
                    protocol == Protocol::Udp && self.udp_terminating == UdpTerminating::Now && terminating;
                conditions.serving.unwrap_or(false) && !cut
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(text: &str) -> Conditions {
        let one = |c| match c {
            'T' => Some(true),
            'F' => Some(false),
            _ => None,
        };
        let mut said = text.chars().map(one);
        let mut next = || said.next().flatten();
        Conditions { ready: next(), serving: next(), terminating: next() }
    }

    /// ready, serving, terminating (T, F, - for absent); kept by removed, not-serving, not-ready, and by not-serving
    /// with UDP that is cut at once.
    #[test]
    fn every_condition_that_servers_were_seen_to_send() {
        for (said, removed, not_serving, not_ready, cut) in [
            ("TTF", true, true, true, true),
            ("FTT", true, true, false, false),
            ("FFT", true, false, false, false),
            ("FFF", true, false, false, false),
            // No conditions at all; a mirrored slice; a server without the terminating condition.
            ("---", true, true, true, true),
            ("T--", true, true, true, true),
            ("F--", true, false, false, false),
            // publishNotReadyAddresses: not ready in truth, and under deletion.
            ("TFF", true, true, true, true),
            ("TTT", true, true, true, true),
            // Serving, and not ready for another reason than its deletion.
            ("FTF", true, true, false, true),
            ("-F-", true, true, true, true),
        ] {
            let kept = |when, udp_terminating| {
                Policy { when, udp_terminating, ..Policy::default() }.keeps(Protocol::Udp, conditions(said))
            };
            assert_eq!(kept(When::Removed, UdpTerminating::Now), removed, "removed {said}");
            assert_eq!(kept(When::NotServing, UdpTerminating::Drain), not_serving, "not-serving {said}");
            assert_eq!(kept(When::NotReady, UdpTerminating::Drain), not_ready, "not-ready {said}");
            assert_eq!(kept(When::NotServing, UdpTerminating::Now), cut, "udp now {said}");
            let tcp = Policy { udp_terminating: UdpTerminating::Now, ..Policy::default() };
            assert_eq!(tcp.keeps(Protocol::Tcp, conditions(said)), not_serving, "tcp {said}");
        }
    }
}
