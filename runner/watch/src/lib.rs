//! Watches etcd or Kubernetes and tells skreap which backends are gone: a process of its own without privileges, and
//! the only part of skreap that touches the network.
//!
//! ```text
//!  etcd ──────────┐ changes   ┌───────┐ decisions   ┌────────┐ events     skreap serve
//!  API server ────┴─────────► │ state │ ──────────► │ outbox │ ─────────► (unix socket)
//!                             └───────┘             └────────┘
//! ```
//!
//! `state` and `outbox` do no I/O; [`run`] drives both.

pub mod backoff;
pub mod clock;
pub mod etcd;
pub mod kubernetes;
pub mod metrics;
pub mod outbox;
pub mod run;
pub mod service;
pub mod source;
pub mod state;
