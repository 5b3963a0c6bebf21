//! Two threads that connect one socket at the same moment.

use std::hint;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::table::Entry;
use super::trouble::{Answer, Context};
use crate::reply::{OpError, Raced};
use crate::sys;

/// How often a thread spins for the other before it lets go of its CPU.
const SPINS: u32 = 100;

/// Results of one thread.
#[derive(Default)]
struct Run {
    connected: u32,
    first_error: Option<OpError>,
}

/// Connects `entry` to `a` and to `b` at once, `rounds` times.
pub(super) fn connect(entry: &Entry, a: SocketAddr, b: SocketAddr, rounds: u32) -> Answer<Raced> {
    let arrived = AtomicU32::new(0);
    let (run_a, run_b) = thread::scope(|scope| {
        let other = scope.spawn(|| run(entry, b, rounds, &arrived));
        let run_a = run(entry, a, rounds, &arrived);
        let run_b = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (run_a, run_b)
    });
    Ok(Raced {
        connected_a: run_a.connected,
        connected_b: run_b.connected,
        first_error: run_a.first_error.or(run_b.first_error),
        peer: sys::peer(entry.fd()),
    })
}

fn run(entry: &Entry, addr: SocketAddr, rounds: u32, arrived: &AtomicU32) -> Run {
    let mut run = Run::default();
    for round in 0..rounds {
        meet(arrived, round);
        let result = sys::connect(entry.fd(), addr)
            .at(|| format!("connect socket {} to {addr} in a race", entry.handle));
        match result {
            Ok(()) => run.connected += 1,
            Err(error) => drop(run.first_error.get_or_insert(error)),
        }
    }
    run
}

/// Returns when both threads have come to this round. Spinning lets them go within
/// nanoseconds of each other, which no sleeping barrier does.
fn meet(arrived: &AtomicU32, round: u32) {
    let both = (round + 1).wrapping_mul(2);
    arrived.fetch_add(1, Ordering::AcqRel);
    let mut spins = 0;
    // The other thread may already be one round ahead.
    while arrived.load(Ordering::Acquire).wrapping_sub(both) > u32::MAX / 2 {
        spins += 1;
        if spins % SPINS == 0 {
            thread::yield_now();
        } else {
            hint::spin_loop();
        }
    }
}
