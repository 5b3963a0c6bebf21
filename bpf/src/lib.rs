//! The kernel side of skreap, and the thinnest safe face over it.
//!
//! ```text
//!  Config ─► Index::load ─► hooks::attach   connect/sendmsg/close keep the index up to date
//!               │
//!               ├─► Walker::walk(target)    one bucket: the victims, and why others were skipped
//!               ├─► Walker::walk_all        every node, for listings
//!               ├─► Walker::destroy         one bucket: the victims are destroyed (kernel module)
//!               └─► Index::counters         what was inserted, removed, dropped
//!  Pins::lock ─► Pins::load ─► Hooks::attach_pinned ─► Pins::publish
//!                                            the same, outliving the process
//! ```
//!
//! The C side is in `progs/` (entry points in `skreap.bpf.c`, one subject per `*.bpf.h`), the
//! structs that cross the border in `include/abi.h`; Rust knows those only through the generated
//! skeleton.
#![deny(unsafe_op_in_unsafe_fn)]

mod address;
pub mod attach_order;
mod bootstrap;
mod bpffs;
mod config;
mod connects;
mod cost;
mod counters;
mod error;
#[doc(hidden)]
pub mod fault;
mod filter;
mod frontends;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod hooks;
mod incompatible;
mod incomplete;
mod index;
mod iterator;
mod log;
mod mapping;
pub mod module;
mod netns;
mod object;
mod openers;
mod owner;
pub mod pin;
#[doc(hidden)]
pub mod plumbing;
mod pod;
mod prog;
mod rekey;
mod reviving;
mod scan;
mod select;
mod sent;
mod shape;
mod share;
mod skel;
mod sockopt;
mod tables;
mod trie;
mod version;
mod victim;
mod walk;
mod watched;

pub use bootstrap::{Bootstrap, BootstrapCounts, BootstrapPass, Seer};
pub use config::{BUCKETS, Config, MAX_SOCKETS};
pub use connects::{CONNECTS_MAX, Connects, ConnectsCounter, ConnectsLooker, Counting, Theirs};
pub use cost::HookCost;
pub use counters::Counters;
pub use error::Error;
pub use filter::{Filter, Place, Rule};
pub use frontends::{FRONTENDS_MAX, FrontendCounters, Frontends};
pub use incomplete::{IncompleteBits, IncompleteWriter};
pub use index::Index;
pub use netns::{NetnsEntry, NetnsList};
pub use openers::{Opener, Openers};
pub use owner::{Owner, Owners};
pub use rekey::{Rekeyed, Rekeyer};
pub use reviving::RevivingCount;
pub use scan::{Scan, ScanCounts, ScanHit, ScanPass};
pub use select::{Select, Selected};
pub use sent::{Sent, SentLooker};
pub use shape::ABI_VERSION;
pub use sockopt::socket_option;
pub use tables::{Question, TableSocket, Tables};
pub use version::libbpf_version;
pub use victim::{Relation, Victim};
pub use walk::{PendingCheck, PendingConnect, Undestroyed, WalkCounts, Walker};
