//! Loading, attaching and pinning the programs of the index, with the capabilities that takes.
//!
//! A directory of pins may be reached through `/proc/PID/fd` of another process. The types of modules, and the names of
//! programs, are asked for by their ids.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use skreap_bpf::attach_order::{Hook, Order, Program, foreign_before};
use skreap_bpf::hooks::Hooks;
use skreap_bpf::pin::{Origin, Pins};
use skreap_bpf::{Config, Error, Index, RevivingCount};

use super::privileges;

/// As [`Pins::lock`].
pub(crate) fn lock_pins(directory: &Path) -> Result<Pins, Error> {
    let _raised = privileges::raise();
    Pins::lock(directory)
}

/// An index, new or taken over from the pins.
pub(crate) fn load(
    config: &Config,
    pins: Option<&Pins>,
    cgroup: BorrowedFd<'_>,
) -> Result<(Index, Origin), Error> {
    let _raised = privileges::raise();
    match pins {
        Some(pins) => pins.load(config, cgroup),
        None => Ok((Index::load(config)?, Origin::New)),
    }
}

/// The hooks of an index, also taken over if it was.
pub(crate) fn attach(
    index: &Index,
    cgroup: BorrowedFd<'_>,
    pins: Option<(&Pins, &Origin)>,
) -> Result<Hooks, Error> {
    let _raised = privileges::raise();
    match pins {
        Some((pins, origin)) => Hooks::attach_pinned(index, cgroup, pins, origin),
        None => Hooks::attach(index, cgroup),
    }
}

/// As [`Pins::publish`].
pub(crate) fn publish(pins: &Pins, hooks: &mut Hooks) -> Result<(), Error> {
    let _raised = privileges::raise();
    pins.publish(hooks)
}

/// As [`Pins::abandon`].
pub(crate) fn abandon(pins: &Pins) -> Result<(), Error> {
    let _raised = privileges::raise();
    pins.abandon()
}

/// As [`Pins::reviving`].
pub(crate) fn reviving(pins: &Pins) -> Result<RevivingCount, Error> {
    let _raised = privileges::raise();
    pins.reviving()
}

/// As [`Pins::take_reviving`].
pub(crate) fn take_reviving(pins: &Pins) -> Result<u64, Error> {
    let _raised = privileges::raise();
    pins.take_reviving()
}

/// As [`Pins::remove`].
pub(crate) fn remove(pins: Pins) -> Result<bool, Error> {
    let _raised = privileges::raise();
    pins.remove()
}

/// As [`Hooks::become_last`].
pub(crate) fn become_last(
    hooks: &mut Hooks,
    index: &Index,
    hook: Hook,
    cgroup: BorrowedFd<'_>,
) -> Result<(), Error> {
    let _raised = privileges::raise();
    hooks.become_last(index, hook, cgroup)
}

/// As [`Hooks::become_first`].
pub(crate) fn become_first(
    hooks: &mut Hooks,
    index: &Index,
    hook: Hook,
    cgroup: BorrowedFd<'_>,
) -> Result<(), Error> {
    let _raised = privileges::raise();
    hooks.become_first(index, hook, cgroup)
}

/// The programs of others before the first one of these hooks; `None` if that one is not attached.
pub(crate) fn before_first(
    hooks: &Hooks,
    hook: Hook,
    cgroup: BorrowedFd<'_>,
) -> io::Result<Option<Vec<Program>>> {
    let _raised = privileges::raise();
    foreign_before(cgroup, hook, hooks.first_program_id(hook)?)
}

/// The order of the programs around the one of these hooks.
pub(crate) fn order(hooks: &Hooks, hook: Hook, cgroup: BorrowedFd<'_>) -> io::Result<Order> {
    let _raised = privileges::raise();
    Order::read(cgroup, hook, hooks.program_id(hook)?)
}
