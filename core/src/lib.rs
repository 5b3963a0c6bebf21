//! The vocabulary of skreap.
//!
//! skreap destroys exactly the sockets that are connected to a deleted backend. This crate has the
//! types for that, and nothing that touches a kernel: no I/O, no libbpf, no `unsafe`.
//!
//! Data flows one way:
//!
//! ```text
//! line ─► Request ─► Event ─► Target ─► walk ─► Outcome ─► Report ─► line
//!           │                        (engine)      │
//!           └► Refusal ─► line                     └► Phases ─► Timings
//! ```
//!
//! * [`Request`]: the request in one line of input. A bad line becomes a [`Refusal`] that names
//!   line and field.
//! * [`Event`]: something happened to a [`Backend`].
//! * [`Target`]: the sockets that a walk matches. The walk itself is an engine's work, in other
//!   crates.
//! * [`Outcome`]: the result of an engine, with counters that must add up ([`Outcome::balanced`]).
//! * [`Report`]: event, outcome and [`Phases`] together, one JSON object a line.
//! * [`Timings`]: the phases of many events as histograms.
//!
//! ```
//! use skreap_core::{EngineName, Outcome, Phases, Report, Request};
//!
//! let line = br#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53"}"#;
//! let Request::Event(event) = Request::parse(line, 1)? else {
//!     return Ok(());
//! };
//! let outcome = Outcome::new(EngineName::Netlink); // an engine does its work here
//! outcome.balanced(event.dry_run)?;
//! let phases = outcome.phases(800, 2_000);
//! println!("{}", serde_json::to_string(&Report::new(&event, outcome, phases))?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod action;
mod backend;
mod engine;
mod errno;
mod error;
mod event;
mod failures;
mod fallback;
mod frontend;
mod guard;
mod held;
mod incomplete;
mod limits;
mod log_filter;
mod network;
mod outcome;
mod plural;
mod radius;
mod report;
mod request;
mod result;
mod revived;
mod rules;
#[cfg(feature = "schema")]
mod schema;
mod selector;
mod skipped;
mod socket;
#[cfg(test)]
mod strategies;
mod target;
mod text;
mod timing;
mod zone;

pub use action::{
    ACTION_FIELDS, ActionError, ActionName, Destinations, Directions, Instead, Move, REVIVE_AFTER_MAX_MS,
    REVIVE_AFTER_MS, Revive, STATEFUL_PORTS, Spread, VictimAction,
};
pub use backend::{Backend, BackendError, Protocol};
pub use engine::EngineName;
pub use errno::{errno_name, errno_reason};
pub use error::{Refusal, UnknownName, excerpt};
pub use event::{Action, CONFIRM_AFTER_MAX_MS, Event, IdError, LinkError, MAX_ID_BYTES, check_id};
pub use failures::{Failure, Failures, MAX_FAILURES_LISTED};
pub use fallback::{FallbackReason, FallbackRun};
pub use frontend::{Frontend, FrontendError, MAX_FRONTENDS, Through, UnknownFrontend};
pub use guard::{Guarded, Limit, Pacer, ReconcileMax};
pub use held::HeldStatus;
pub use incomplete::Incomplete;
pub use limits::MAX_BACKENDS;
pub use log_filter::check_log_filter;
pub use network::{MAX_NETWORKS, Network, NetworkError};
pub use outcome::{Imbalance, Outcome};
pub use plural::{counted, grouped, plural};
pub use radius::Radius;
pub use report::{BackendReport, Report};
pub use request::Request;
pub use result::{Results, SocketEnd, SocketResult};
pub use revived::{Connected, Moved, Revived, Reviving};
pub use rules::{
    ActionRule, ActionRules, CommandError, CommandName, Finding, MAX_RULES, Review, RuleCount, RuleError,
};
pub use selector::{
    CgroupName, FieldError, MAX_ALLOWED, MAX_PORT_RANGES, MAX_PREFIXES, NetnsName, PlaceError, PortRange,
    PortsError, Prefix, PrefixError, Selector,
};
pub use skipped::Skipped;
pub use socket::{Attribution, SocketTuple, state_name};
pub use target::{Target, Unconnected};
pub use timing::{MAX_RECORDED_NS, PhaseSummary, Phases, Summary, Timings, TimingsError, nanos};
pub use zone::Zone;
