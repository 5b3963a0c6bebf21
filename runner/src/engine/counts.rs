//! What the counts of a walk say about its target.

use skreap_bpf::WalkCounts;
use skreap_core::{Incomplete, Outcome, Target, errno_name};

use super::Chosen;

/// Adds the counts of a walk to the outcome of its target.
pub(super) fn note_walk(counts: &WalkCounts, target: &Target, outcome: &mut Outcome) {
    outcome.visited += counts.visited;
    outcome.skipped.unconnected += counts.unconnected;
    outcome.skipped.moved_on += counts.moved_on;
    outcome.skipped.no_peer += counts.no_peer;
    outcome.skipped.state += counts.state;
    outcome.skipped.stale += counts.stale;
    outcome.skipped.frontend += counts.frontend;
    outcome.skipped.frontend_unknown += counts.frontend_unknown;
    if let Some(errno) = counts.broken_off {
        let error = errno_name(errno);
        tracing::warn!(backend = %target.backend, destroyed = counts.destroyed, "the walk was broken off: {error}");
        outcome.incomplete.insert(Incomplete::EngineFailed);
    }
    note_incomplete(counts, target, outcome);
}

/// Adds why the index may lack sockets of the target.
pub(super) fn note_incomplete(counts: &WalkCounts, target: &Target, outcome: &mut Outcome) {
    let unconnected = counts.incomplete_unconnected && Chosen::matters(target);
    let reasons = [
        (counts.incomplete_full, Incomplete::IndexFull),
        (counts.incomplete_everything, Incomplete::IndexUnsure),
        (unconnected, Incomplete::WildcardUnconnected),
    ];
    outcome.incomplete.extend(reasons.iter().filter(|(holds, _)| *holds).map(|(_, reason)| *reason));
}
