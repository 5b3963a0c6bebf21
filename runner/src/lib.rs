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

pub use engine::VICTIM_TIMEOUT;
pub use engine::{probe, select as choice};
pub use observe::monitor::{self, Monitor};
pub use observe::observer::Observer;
pub use observe::{listing, status};
pub use reaper::batch::Batch;
pub use reaper::{Builder, Error, HEAL_AFTER, RECHECK, Reaper, Underway};
#[cfg(feature = "metrics")]
pub use service::metrics;
pub use service::systemd as supervisor;
pub use service::{daemon, source};
pub use skreap_bpf as bpf;
pub use skreap_core as core;
pub use sys::{cgroup, netns, privileges, sock_diag};
pub use upkeep::bootstrap::{self, Bootstrapped};
pub use upkeep::heal::{Healed, Healer, SETTLE};
pub use upkeep::{audit, hook_order as order};
