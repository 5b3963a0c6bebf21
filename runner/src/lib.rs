//! Terminates exactly the sockets that talk to a backend that is gone.
//!
//! Start with [`Reaper`]: it indexes the sockets of a cgroup by the backend they are connected to, and on a
//! *backend deleted* event destroys exactly those, wherever they are.
//!
//! ```text
//!  source ─► Event ─► daemon queue ─► Reaper ─► Target ─► Engine ─► Outcome ─► Report ─► source's client
//! ```
//!
//! A source knows no engine and an engine knows no source. [`daemon`] puts both around a [`Reaper`] for the
//! `skreap serve` command; a program that has its own events embeds the [`Reaper`] and needs neither.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod audit;
mod batch;
pub mod bootstrap;
pub mod cgroup;
pub mod choice;
pub mod daemon;
pub mod demo;
pub mod engine;
mod epoll;
mod fallback;
#[doc(hidden)]
pub mod fuzz;
mod heal;
pub mod lab;
pub mod listing;
pub mod metrics;
pub mod monitor;
pub mod netns;
mod observer;
pub mod order;
pub mod privileges;
pub mod probe;
mod rcu;
mod reaper;
mod recheck;
mod reconcile;
pub mod sock_diag;
pub mod source;
pub mod status;
pub mod supervisor;

pub use batch::Batch;
pub use bootstrap::Bootstrapped;
pub use heal::{Healed, Healer, SETTLE};
pub use monitor::Monitor;
pub use observer::Observer;
pub use reaper::{Builder, Error, HEAL_AFTER, RECHECK, Reaper};
pub use skreap_bpf as bpf;
pub use skreap_core as core;
