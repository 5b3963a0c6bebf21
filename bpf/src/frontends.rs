//! Frontends: the addresses that clients named before a load balancer translated them. The C side is
//! `frontend.bpf.h`.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use libbpf_rs::{Object, OpenObject};
use serde::{Deserialize, Serialize};
use skreap_core::{Backend, Frontend, Protocol, Through, UnknownFrontend};

use crate::fault::{self, Point};
use crate::mapping::Mapping;
use crate::object::{self, failure};
use crate::prog::run;
use crate::skel::frontends_types::{
    skreap_frontend, skreap_frontend_entry, skreap_frontend_filter, skreap_frontend_id, skreap_frontend_op,
    skreap_frontend_state,
};
use crate::skel::{frontends_types, types};
use crate::{Error, address};

/// Most distinct frontends of an index (`SKREAP_FRONTENDS_MAX` of `abi.h`).
pub const FRONTENDS_MAX: u32 = 16_384;
/// The program that does what is asked for here.
/// The memory of their epoch and counters.
const STATE: &str = ".bss.frontstate";
const PROGRAM: &str = "skreap_frontends";

/// The table of distinct frontends, and the size of an element.
pub(crate) const TABLE: &str = ".bss.frontends";
pub(crate) const ENTRY_SIZE: u32 = size_of::<skreap_frontend_entry>() as u32;

/// Both objects are filled in as one type: what they have in common must have one layout.
const _: () = {
    assert!(size_of::<types::rodata>() == size_of::<frontends_types::rodata>());
    assert!(size_of::<types::bss_counters>() == size_of::<frontends_types::bss_counters>());
};

/// Bytes of one node.
pub(crate) const fn node_size(frontends: u32) -> u32 {
    (if frontends == 0 { size_of::<types::node>() } else { size_of::<frontends_types::node>() }) as u32
}

/// Tells the programs of an object how many elements the table has. Does nothing for one without.
pub(crate) fn configure(open: &mut OpenObject, frontends: u32) -> Result<(), Error> {
    const SECTION: &str = ".rodata.front";
    let Some(mut map) = open.maps_mut().find(|map| map.name() == SECTION) else {
        return Ok(());
    };
    let at = offset_of!(frontends_types::rodata_front, cfg_frontends);
    let value = map.initial_value_mut().and_then(|value| value.get_mut(at..at + size_of::<u32>()));
    let value = value.ok_or(io::ErrorKind::UnexpectedEof.into()).map_err(failure(SECTION))?;
    value.copy_from_slice(&frontends.to_ne_bytes());
    Ok(())
}

/// Numbers of one index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FrontendCounters {
    /// Distinct frontends that clients have come through.
    pub known: u64,
    /// Room for so many.
    pub room: u64,
    /// Calls whose frontend is not known, because another program ran before the first of ours, or
    /// may have.
    pub not_first: u64,
    /// The same, because another call came between the first and the last program.
    pub no_note: u64,
    /// The same, because there was no room for another frontend.
    pub table_full: u64,
}

/// What an index knows of frontends; from [`Index::frontends`](crate::Index::frontends).
#[derive(Debug)]
pub struct Frontends {
    program: OwnedFd,
    version: u32,
    table: Mapping,
    state: Mapping,
    filters: Mapping,
    emitted: Mapping,
    room: u32,
}

impl Frontends {
    /// `None` for an index that records none.
    pub(crate) fn of(
        object: &Object,
        version: u32,
        room: u32,
        slots: u32,
        emitted: usize,
    ) -> Result<Option<Arc<Self>>, Error> {
        let Some(program) = object.progs().find(|program| program.name() == PROGRAM) else {
            return Ok(None);
        };
        let map = |name: &str, length: usize| object::memory(object, name, length);
        Ok(Some(Arc::new(Self {
            program: program.as_fd().try_clone_to_owned().map_err(failure(PROGRAM))?,
            version,
            table: map(TABLE, room as usize * size_of::<skreap_frontend_entry>())?,
            state: map(STATE, size_of::<skreap_frontend_state>())?,
            filters: map(".bss.wanted", slots as usize * size_of::<skreap_frontend_filter>())?,
            emitted: map(".bss.emitfront", emitted * size_of::<u32>())?,
            room,
        })))
    }

    /// The last epoch in which what was recorded could be trusted; 0 if there was none.
    ///
    /// # Errors
    /// [`Error::Object`] if the memory of the programs cannot be read.
    pub fn last_epoch(&self) -> Result<u32, Error> {
        Ok(self.state()?.last)
    }

    /// Begins an epoch: what is recorded from now on can be trusted, as far as is known now; 0: not.
    ///
    /// # Errors
    /// [`Error::Object`] if the program cannot run.
    pub fn set_epoch(&self, epoch: u32) -> Result<(), Error> {
        self.ask(&mut skreap_frontend {
            op: skreap_frontend_op::SKREAP_FRONTEND_SET_EPOCH,
            value: epoch,
            ..skreap_frontend::default()
        })
    }

    /// What was counted since the index was made.
    ///
    /// # Errors
    /// [`Error::Object`] if the memory of the programs cannot be read.
    pub fn counters(&self) -> Result<FrontendCounters, Error> {
        let state = self.state()?;
        Ok(FrontendCounters {
            known: state.used.into(),
            room: self.room.into(),
            not_first: state.n.not_first,
            no_note: state.n.no_note,
            table_full: state.n.table_full,
        })
    }

    /// The frontend that a walk has found; `None` if it is not known.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<Frontend> {
        match skreap_frontend_id(id) {
            skreap_frontend_id::SKREAP_FRONTEND_UNKNOWN => None,
            skreap_frontend_id::SKREAP_FRONTEND_DIRECT => Some(Frontend::Direct),
            _ => {
                let at = id.checked_sub(skreap_frontend_id::SKREAP_FRONTEND_FIRST.0)?;
                let mut entry: Vec<skreap_frontend_entry> = Vec::with_capacity(1);
                self.table.copy_to(at as usize, 1, &mut entry).ok()?;
                named(entry.first()?).map(Frontend::Address)
            }
        }
    }

    /// Walks on this slot that ask for it find the sockets of these frontends only.
    pub(crate) fn filter(&self, slot: u16, through: &Through) -> Result<(), Error> {
        let ask = |op| skreap_frontend { op, slot: slot.into(), ..skreap_frontend::default() };
        self.ask(&mut ask(skreap_frontend_op::SKREAP_FRONTEND_FILTER_CLEAR))?;
        let by_id = |id: skreap_frontend_id| skreap_frontend {
            value: id.0,
            ..ask(skreap_frontend_op::SKREAP_FRONTEND_FILTER_ID)
        };
        if through.unknown == UnknownFrontend::Destroy {
            self.ask(&mut by_id(skreap_frontend_id::SKREAP_FRONTEND_UNKNOWN))?;
        }
        for frontend in &through.frontends {
            self.ask(&mut match frontend {
                Frontend::Direct => by_id(skreap_frontend_id::SKREAP_FRONTEND_DIRECT),
                Frontend::Address(named) => {
                    let (family, daddr) = address::words(named.addr());
                    skreap_frontend {
                        daddr,
                        dport: named.port().to_be(),
                        family,
                        protocol: named.protocol().number(),
                        ..ask(skreap_frontend_op::SKREAP_FRONTEND_FILTER_ADDRESS)
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Walks on this slot that ask for it forget what was recorded in this epoch and later.
    pub(crate) fn forget_since(&self, slot: u16, epoch: u32) -> Result<(), Error> {
        self.ask(&mut skreap_frontend {
            op: skreap_frontend_op::SKREAP_FRONTEND_FILTER_CLEAR,
            slot: slot.into(),
            value: epoch,
            ..skreap_frontend::default()
        })
    }

    /// How many sockets the last call of a walk on this slot has skipped: those of other frontends,
    /// and those whose frontend is unknown.
    pub(crate) fn left_out(&self, slot: u16) -> Result<(u64, u64), Error> {
        let mut filter: Vec<skreap_frontend_filter> = Vec::with_capacity(1);
        self.filters.copy_to(slot.into(), 1, &mut filter).map_err(Error::Walk)?;
        Ok(filter.first().map_or((0, 0), |filter| (filter.other, filter.unknown)))
    }

    /// The ids of the victims that the last call of a walk has emitted.
    pub(crate) fn emitted(&self, first: usize, count: usize, ids: &mut Vec<u32>) -> Result<(), Error> {
        self.emitted.copy_to(first, count, ids).map_err(Error::Walk)
    }

    fn state(&self) -> Result<skreap_frontend_state, Error> {
        let mut state: Vec<skreap_frontend_state> = Vec::with_capacity(1);
        self.state.copy_to(0, 1, &mut state).map_err(failure(STATE))?;
        state.pop().ok_or(io::ErrorKind::UnexpectedEof.into()).map_err(failure(STATE))
    }

    fn ask(&self, ctx: &mut skreap_frontend) -> Result<(), Error> {
        ctx.version = self.version;
        fault::at(Point::Frontend)
            .and_then(|()| run(self.program.as_fd(), ctx))
            .map_err(failure("program skreap_frontends"))
    }
}

/// `None` while the program that has taken the element is still writing it.
fn named(entry: &skreap_frontend_entry) -> Option<Backend> {
    let addr = address::from_words(entry.peer.family, entry.peer.daddr);
    Backend::new(Protocol::from_number(entry.peer.protocol)?, addr, u16::from_be(entry.peer.dport)).ok()
}
