//! Makes a failing script as short and plain as it gets.

use std::time::{Duration, Instant};

use anyhow::Error;

use crate::random::Worlds;
use crate::script::{Op, Open, Script};

/// How long that may take.
const TIME: Duration = Duration::from_secs(90);

/// A failing script, and how it fails.
pub struct Failure {
    pub script: Script,
    pub error: Error,
}

/// `failed` are the operations that were carried out, up to the one that showed the failure. Any failure of a shorter
/// script counts, in whatever way.
pub fn shorten(worlds: &mut Worlds, failed: Script, first: Failure) -> Failure {
    let deadline = Instant::now() + TIME;
    let mut best = first;
    let mut attempt = |best: &mut Failure, script: Script| {
        if Instant::now() > deadline || script == best.script {
            return false;
        }
        let Err(error) = worlds.run(&script) else { return false };
        *best = Failure { script, error };
        true
    };
    attempt(&mut best, failed);
    let mut chunk = best.script.ops.len() / 2;
    while chunk > 0 {
        let mut end = best.script.ops.len();
        while end > 0 {
            let start = end.saturating_sub(chunk);
            let mut script = best.script.clone();
            script.ops.drain(start..end);
            attempt(&mut best, script);
            end = start;
        }
        chunk /= 2;
    }
    for at in 0..best.script.ops.len() {
        for op in plainer(&best.script.ops[at]) {
            let mut script = best.script.clone();
            script.ops[at] = op;
            attempt(&mut best, script);
        }
    }
    best
}

/// What the operation might as well be.
fn plainer(op: &Op) -> Vec<Op> {
    match op {
        Op::Open(open) => vec![
            Op::Open(Open { mptcp: false, ..*open }),
            Op::Open(Open { bound: false, nonblocking: false, ..*open }),
            Op::Open(Open { client: 0, netns: 0, bound: false, nonblocking: false, ..*open }),
        ],
        Op::SendMany { slot, to } => to.iter().map(|to| Op::SendTo { slot: *slot, to: *to }).collect(),
        Op::DryRun(gone) => vec![Op::Gone(gone.clone())],
        Op::Gone(gone) if gone.len() > 1 => gone.iter().map(|one| Op::Gone(vec![*one])).collect(),
        _ => Vec::new(),
    }
}
