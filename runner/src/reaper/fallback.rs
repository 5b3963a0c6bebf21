//! The fallback: a full scan after the walk, where the index is incomplete.
//!
//! A membership that could not be recorded (the pool was full) makes its backend incomplete, or
//! all backends if the backend is unknown. Sockets may also be recorded under a virtual address. So
//! an incomplete index costs time, and never a socket. A [`Healer`](crate::Healer) clears that.

use std::collections::HashSet;
use std::time::Instant;

use skreap_bpf::Select;
use skreap_core::{FallbackReason, FallbackRun, Incomplete, Outcome, Target};

use crate::engine::{Chosen, Engine, EngineError, Selection, nanos};

/// The reasons that a scan can repair, the most important first.
const REASONS: [(Incomplete, FallbackReason); 3] = [
    (Incomplete::IndexFull, FallbackReason::IndexFull),
    (Incomplete::HookOrder, FallbackReason::HookOrder),
    (Incomplete::IndexUnsure, FallbackReason::IndexUnsure),
];

/// The fallback scan.
pub(crate) struct Fallback {
    engine: Box<dyn Engine>,
}

impl Fallback {
    pub(crate) fn new(engine: Box<dyn Engine>) -> Self {
        Self { engine }
    }

    /// As [`run`](Self::run), for a selection.
    pub(crate) fn run_selection(
        &mut self,
        selection: &Selection,
        select: &mut Select,
        outcome: &mut Outcome,
    ) {
        self.run_by(outcome, |engine| engine.select(selection, select, &mut Chosen::default()));
    }

    /// Scans for the rest of the target's sockets, if the index may lack some. If the scan fails,
    /// the outcome stays incomplete.
    pub(crate) fn run(&mut self, target: &Target, chosen: &mut Chosen, outcome: &mut Outcome) {
        let walked = chosen.left_alone();
        self.run_by(outcome, |engine| engine.run(target, chosen));
        // The scan meets those again that the walk has left alone, and others that the index lacks.
        chosen.left_alone().note_since(walked, outcome);
    }

    fn run_by(
        &mut self,
        outcome: &mut Outcome,
        scan: impl FnOnce(&mut dyn Engine) -> Result<Outcome, EngineError>,
    ) {
        let Some((_, because)) = REASONS.into_iter().find(|(why, _)| outcome.incomplete.contains(why)) else {
            return;
        };
        let start = Instant::now();
        let mut scan = match scan(self.engine.as_mut()) {
            Ok(scan) => scan,
            Err(e) => {
                tracing::warn!("the fallback scan failed: {e}");
                return;
            }
        };
        // Sockets that the scan itself could not see are a separate reason.
        for (why, _) in &REASONS {
            outcome.incomplete.remove(why);
        }
        if let Some(listed) = &mut scan.victims_listed {
            // A dry run leaves the victims of the walk where they are, and the scan sees them too.
            let known: HashSet<u64> = outcome.victims_listed.iter().flatten().map(|s| s.cookie).collect();
            listed.retain(|socket| !known.contains(&socket.cookie));
            scan.victims = listed.len() as u64;
        }
        if scan.is_complete() {
            // A socket that the first engine could not destroy is one of the scan's victims, or
            // gone, or in no hash table.
            outcome.forget_failures_of_scan();
        } else {
            outcome.forget_failures_of(&scan.failed);
        }
        outcome.add_fallback(FallbackRun::new(
            scan.engine,
            because,
            scan.victims,
            scan.destroyed,
            nanos(start.elapsed()),
        ));
        // The index knows none of these, so they were not counted before.
        outcome.visited += scan.skipped.accepted;
        outcome.skipped.accepted += scan.skipped.accepted;
        outcome.add_victims(scan);
    }
}
