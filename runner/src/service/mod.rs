//! `skreap serve`: sources of requests, the reaper, metrics, and the notifications of a service
//! manager.

pub(crate) mod answers;
pub mod daemon;
mod deferred;
mod event_log;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod source;
pub mod systemd;
