//! Terminates exactly the sockets that talk to a backend that is gone.
//!
//! Start with [`Reaper`]: it indexes the sockets of a cgroup by the backend they are connected to,
//! and on a *backend deleted* event destroys exactly those, in all network namespaces.
//!
//! ```text
//!  source ─► Event ─► daemon queue ─► Reaper ─► Target ─► Engine ─► Outcome ─► Report ─► source's client
//! ```
//!
//! A source knows no engine and an engine knows no source. [`daemon`] puts both around a [`Reaper`] for the
//! `skreap serve` command; a program that has its own events embeds the [`Reaper`] and needs neither.
//!
//! # The order of a deletion
//!
//! A program that deletes a backend keeps this order:
//!
//! 1. **Map change.** The load balancer does not choose the backend any more. skreap does not prevent new connects, and
//!    a client that gets the error connects again at once.
//! 2. **Grace period.** A hook that runs on another CPU may have read the old map and not have recorded its socket yet.
//!    Every such hook has ended after an RCU grace period: [`grace_period`] waits for one, and so does an update of a
//!    map-in-map. [`Builder::grace`] has the reaper wait, once for all events in its queue.
//! 3. **Event.** [`Reaper::handle`], or [`Handle::reap`] from any thread. The report says whether every socket was
//!    destroyed: see [`complete`](core::Report::complete), [`failed`](core::Report::failed) and
//!    [`error`](core::Report::error).
//!
//! ```no_run
//! use skreap::core::{Backend, Event, Report};
//! use skreap::{Reaper, ReaperThread};
//!
//! fn delete(
//!     remove_from_map: impl FnOnce(Backend),
//!     reaper: &skreap::Handle,
//!     backend: Backend,
//! ) -> Result<Report, Box<dyn std::error::Error>> {
//!     remove_from_map(backend);
//!     skreap::grace_period()?;
//!     Ok(reaper.reap(Event::deleted(backend))?)
//! }
//!
//! let reaper = ReaperThread::start(Reaper::builder().build()?, 1024)?;
//! let report = delete(|_backend| {}, &reaper.handle(), "udp://10.0.0.1:53".parse()?)?;
//! assert!(report.error.is_none() && report.complete && report.failed.total() == 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/dataplane.rs` is a whole program with several threads, `examples/embed.rs` one with a single thread.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod engine;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod observe;
mod reaper;
mod service;
mod sys;
mod upkeep;

pub use engine::{LateResult, VICTIM_TIMEOUT};
pub use engine::{probe, select as choice};
pub use observe::monitor::{self, Monitor};
pub use observe::observer::Observer;
pub use observe::{listing, status};
pub use reaper::batch::Batch;
pub use reaper::pending::grace_period;
pub use reaper::{Builder, Error, HEAL_AFTER, PENDING_WAIT, Reaper, Underway};
#[cfg(feature = "audit-log")]
pub use service::audit_log;
pub use service::handle::{Handle, HandleError, Pending, Queue};
#[cfg(feature = "metrics")]
pub use service::metrics;
pub use service::recorder::Recorder;
#[cfg(feature = "rules")]
pub use service::rules_file;
#[cfg(feature = "schema")]
pub use service::schema;
pub use service::systemd as supervisor;
pub use service::thread::ReaperThread;
pub use service::{daemon, source};
pub use skreap_bpf as bpf;
pub use skreap_core as core;
pub use sys::{cgroup, netns, privileges, sock_diag};
pub use upkeep::bootstrap::{self, Bootstrapped};
pub use upkeep::heal::{CONNECT_DELAY, Healed, Healer};
pub use upkeep::revive::{REVIVING_MAX, RevivedEvent, RevivedSocket};
pub use upkeep::{audit, hook_order as order};
