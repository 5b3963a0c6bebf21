//! `skreap serve`: sources of requests, the reaper, metrics, and the notifications of a service
//! manager.

pub(crate) mod answers;
#[cfg(feature = "audit-log")]
pub mod audit_log;
pub mod daemon;
mod deferred;
mod event_log;
pub(crate) mod handle;
#[cfg(feature = "metrics")]
pub mod metrics;
pub(crate) mod recorder;
#[cfg(feature = "rules")]
pub mod rules_file;
#[cfg(feature = "schema")]
pub mod schema;
pub mod source;
pub mod systemd;
pub(crate) mod thread;
mod unconfirmed;
