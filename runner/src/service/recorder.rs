//! Recorders: called with every event and every socket that was destroyed.

use skreap_core::Report;

use super::source::Requester;
use crate::engine::LateResult;
use crate::upkeep::revive::RevivedEvent;

/// Gets every event and its results. It is called on the thread of the reaper, so it must not wait.
///
/// A reaper that was built with [`Builder::results`](crate::Builder::results) names each socket in
/// [`Report::results`].
pub trait Recorder: Send {
    /// An event was handled for this requester. Dry runs are events, too.
    fn event(&mut self, report: &Report, by: Requester);

    /// A socket that was reported as failed, because its owner held its lock, has come to something.
    fn late(&mut self, late: &LateResult);

    /// The destroyed sockets of an event were looked at again.
    fn revived(&mut self, _event: &RevivedEvent) {}
}
