//! The lab: real netns, real processes and real sockets in which a reap can be shown.
//!
//! ```text
//!   this process                                      client process (same binary)
//!  ┌───────────────────────────┐    ops, replies     ┌──────────────────────────────┐
//!  │ Client ───────────────────┼─────────────────────┼── serves ops until EOF       │
//!  │ Echo   one thread, epoll  │     socketpair      │   up to RLIMIT_NOFILE sockets│
//!  └───┬───────────────────────┘                     └───┬──────────────────────────┘
//!      │ listens at 10.96.0.1:53 in every netns          │ each socket opened in any
//!      ▼                                                 ▼ netns, the process in a Cgroup
//!  ┌─ Netns skreap-PID-a ────────┐ ┌─ Netns skreap-PID-b ─┐
//!  │ lo: 10.96.0.1, fd00::1      │ │ lo: 10.96.0.1, ...   │ ...
//!  └─────────────────────────────┘ └──────────────────────┘
//! ```
//!
//! The demo, the kernel tests and the benchmarks build their worlds from these parts. The testbed
//! itself knows nothing of BPF: it opens sockets, and can report afterwards exactly which of them
//! were destroyed. BPF programs that tests attach beside the hooks are in the module `bpf`, which
//! the feature of that name enables.
//!
//! A binary that uses clients must call [`become_client_if_asked`] first thing in `main`: it
//! is started once more for each of them, with a command line that says so.
//!
//! # Nothing stays behind
//! Every part undoes itself on drop. Clients end when their control socket closes, and so also when
//! this process is killed. Named objects (netns, cgroups) are then left over, and [`sweep`] of the
//! next run removes them.
//!
//! # Limits
//! A process has at most RLIMIT_NOFILE sockets: spread many over several clients, and see
//! [`Mode::Frozen`] for TCP backends that need no descriptor for a connection. A netns
//! has about 28,000 ephemeral ports for one backend address unless
//! `net.ipv4.ip_local_port_range` is widened with [`Netns::set_sysctl`]; once half of them
//! are taken, each further TCP connect searches that half first and takes 0.7 ms (6.18).

mod backend;
#[cfg(feature = "bpf")]
pub mod bpf;
mod bpffs;
mod calls;
mod cgroup;
mod client;
mod epoll;
mod late_memory;
mod name;
mod netns;
mod op;
mod reply;
mod rtnetlink;
mod serve;
mod sweep;
mod sys;
mod waker;
mod wire;

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use backend::{Echo, Mode};
pub use bpffs::Bpffs;
pub use cgroup::{Cgroup, root as cgroup2_root};
pub use client::{CallError, Client, SpawnOptions, call_all};
pub use late_memory::{LateMemory, LatePage};
pub use netns::Netns;
pub use op::{Family, Holding, NetnsRef, Op, OpenMany, OpenSpec, Protocol, Selection, Watch};
pub use reply::{Echoed, Lost, OpError, OpenedMany, Raced, Reply, SocketState, Victim, Watched};
pub use serve::become_client_if_asked;
pub use sweep::{Swept, sweep};
pub use sys::monotonic_ns;

/// The default of a type but for what `set` changes: a `#[non_exhaustive]` struct cannot be written out here.
pub fn with<T: Default>(set: impl FnOnce(&mut T)) -> T {
    let mut value = T::default();
    set(&mut value);
    value
}

/// Raises this process's soft limit of open files to its hard limit and returns it.
/// Clients inherit it.
///
/// # Errors
/// When the kernel refuses, which it does not without a security module.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}
