//! Running the walk program.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use skreap_core::{Target, Through, Unconnected, UnknownFrontend};

use crate::fault::{self, Point};
use crate::frontends::Frontends;
use crate::mapping::Mapping;
use crate::prog::run;
use crate::skel::frontends_types::skreap_frontend_id;
use crate::skel::types::{skreap_abi, skreap_incomplete, skreap_walk, skreap_walk_flags};
use crate::{Error, Relation, Victim, address};

/// Sums over all calls of one walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalkCounts {
    /// Calls of the program: one, and one more for each time the emit buffer was full.
    pub calls: u64,
    /// Nodes recorded under the target.
    pub visited: u64,
    /// Nodes of other backends in the same bucket.
    pub passed_over: u64,
    /// Skipped: has only sent to the target.
    pub unconnected: u64,
    /// Skipped: connected to another peer by now.
    pub moved_on: u64,
    /// Skipped: recorded by `connect()`, has no peer.
    pub no_peer: u64,
    /// Skipped: TCP state that cannot be destroyed.
    pub state: u64,
    /// Skipped: the node has lost its socket. An alarm.
    pub stale: u64,
    /// Skipped: came through another frontend than the walk was [restricted](Walker::restrict) to.
    pub frontend: u64,
    /// Skipped: which frontend they came through is not known.
    pub frontend_unknown: u64,
    /// Victims destroyed by the walk itself, see [`Walker::destroy`].
    pub destroyed: u64,
    /// Victims that were closed before such a walk had their lock.
    pub gone: u64,
    /// The index lacks a membership of the target: the pool was full.
    pub incomplete_full: bool,
    /// Some unconnected socket has sent to too many peers to know whether the target was one of
    /// them, or was not recorded when it sent to the target.
    pub incomplete_unconnected: bool,
    /// Sockets of any backend may be missing.
    pub incomplete_everything: bool,
    /// The kernel's own sockets have connected to the target, or to a backend with the same note; the index has none.
    pub incomplete_kernel: bool,
    /// Errno of the call that ended a destroying walk early, if it was not the first call. The
    /// counts cover the calls before it; the rest of the bucket was not visited.
    pub broken_off: Option<i32>,
}

impl WalkCounts {
    /// Adds those of one call.
    fn add(&mut self, ctx: &skreap_walk) {
        self.calls += 1;
        self.visited += ctx.visited;
        self.passed_over += ctx.passed_over;
        self.unconnected += ctx.unconnected;
        self.moved_on += ctx.moved_on;
        self.no_peer += ctx.no_peer;
        self.state += ctx.state;
        self.stale += ctx.stale;
        self.destroyed += ctx.destroyed;
        self.gone += ctx.gone;
        self.incomplete_full |= ctx.incomplete & skreap_incomplete::SKREAP_INCOMPLETE_FULL.0 != 0;
        self.incomplete_everything |= ctx.incomplete & skreap_incomplete::SKREAP_INCOMPLETE_EVERYTHING.0 != 0;
        self.incomplete_kernel |= ctx.incomplete & skreap_incomplete::SKREAP_INCOMPLETE_KERNEL.0 != 0;
        self.incomplete_unconnected |=
            ctx.incomplete & skreap_incomplete::SKREAP_INCOMPLETE_UNCONNECTED.0 != 0;
    }
}

/// Treatment of sockets that may be connecting to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingCheck {
    /// Begins to watch them.
    Watch,
    /// Only list them.
    Look,
    /// End the wait for the watched ones: they are not listed again until they connect anew.
    Expire,
}

/// A socket that may be connecting to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingConnect {
    /// Its cookie.
    pub cookie: u64,
    /// It is connected to another peer: [`Relation::MovedOn`].
    pub elsewhere: bool,
}

/// A victim of [`Walker::destroy`].
#[derive(Clone, Copy, Debug)]
pub struct Undestroyed {
    /// The socket, as it was before.
    pub victim: Victim,
    /// Positive errno, 0 if it was destroyed. `ENODATA`: the index has no reference to it; `EBUSY`:
    /// another program is recording or destroying it at this moment; `EOPNOTSUPP`: it cannot be
    /// aborted.
    pub errno: i32,
}

/// The maps into which the programs write victims and the results of destroys.
#[derive(Debug)]
pub(crate) struct Emit {
    pub victims: Mapping,
    pub results: Mapping,
}

/// Which walk slots are taken.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: AtomicU32,
    count: u32,
}

impl Slots {
    pub(crate) fn new(count: u32) -> Self {
        Self { taken: AtomicU32::new(0), count }
    }

    fn take(&self) -> Result<u16, Error> {
        (0..self.count)
            .find(|slot| self.taken.fetch_or(1 << slot, Ordering::AcqRel) & 1 << slot == 0)
            .and_then(|slot| u16::try_from(slot).ok())
            .ok_or(Error::NoSlot(self.count))
    }

    fn give(&self, slot: u16) {
        self.taken.fetch_and(!(1 << slot), Ordering::AcqRel);
    }
}

/// Walks the index. Each walker has its own slot (cursor and emit buffer), so several threads can
/// walk at once, even in the same bucket.
#[derive(Debug)]
pub struct Walker {
    program: OwnedFd,
    emit: Arc<Emit>,
    frontends: Option<Arc<Frontends>>,
    /// Only sockets of some frontends are victims.
    restricted: bool,
    /// And those whose frontend is not known: the cookies of the latter.
    unknown: Option<HashSet<u64>>,
    slots: Arc<Slots>,
    slot: u16,
    emit_max: u32,
    version: u32,
    batch: Vec<Victim>,
    results: Vec<i32>,
}

impl Walker {
    pub(crate) fn new(
        program: OwnedFd,
        emit: Arc<Emit>,
        frontends: Option<Arc<Frontends>>,
        slots: Arc<Slots>,
        abi: &skreap_abi,
    ) -> Result<Self, Error> {
        let slot = slots.take()?;
        Ok(Self {
            program,
            emit,
            frontends,
            restricted: false,
            unknown: None,
            slots,
            slot,
            emit_max: abi.emit_max,
            version: abi.version,
            batch: Vec::with_capacity(abi.emit_max as usize),
            results: Vec::new(),
        })
    }

    /// From now on only sockets that came through these frontends are victims of a walk for a target.
    ///
    /// # Errors
    /// [`Error::NoFrontends`] if the index records none; [`Error::Object`] if the program cannot run.
    pub fn restrict(&mut self, through: &Through) -> Result<(), Error> {
        self.restricted = !through.is_any();
        self.unknown = (self.restricted && through.unknown == UnknownFrontend::Destroy).then(HashSet::new);
        match &self.frontends {
            Some(frontends) if self.restricted => frontends.filter(self.slot, through),
            None if self.restricted => Err(Error::NoFrontends),
            _ => Ok(()),
        }
    }

    /// Cookies of the sockets that walks have shown since they were restricted, and that are among their victims although
    /// their frontend is not known; `None` if none of those are.
    #[must_use]
    pub fn unknown_frontends(&self) -> Option<&HashSet<u64>> {
        self.unknown.as_ref()
    }

    /// Walks the bucket of the target and appends its victims to `victims`.
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno. The sockets found until then are in `victims`.
    pub fn walk(&mut self, target: &Target, victims: &mut Vec<Victim>) -> Result<WalkCounts, Error> {
        self.walk_states(target, 0, None, victims)
    }

    /// As [`walk`](Self::walk); only TCP sockets in one of these states (bit `1 << TCP_*`, 0 for
    /// all that can be destroyed) are victims. Begins to watch the sockets that may be connecting to the target, and appends
    /// them to `watched`, if there is one; see [`pending`](Self::pending).
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn walk_states(
        &mut self,
        target: &Target,
        states: u32,
        watched: Option<&mut Vec<PendingConnect>>,
        victims: &mut Vec<Victim>,
    ) -> Result<WalkCounts, Error> {
        let mut ctx = context(target);
        ctx.states = states;
        self.watching(&mut ctx, watched, &mut |batch, _| victims.extend_from_slice(batch))
    }

    /// Walks the bucket of the target and destroys its victims in place, each under its lock, if it
    /// is still connected to the target then. Sleeps while the owner of a socket holds its lock.
    ///
    /// `states` are the TCP states (bit `1 << TCP_*`) whose sockets are victims. Those that could
    /// not be destroyed are appended to `left`; with `list`, all are. `watched` is as in
    /// [`walk_states`](Self::walk_states).
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno: `EOPNOTSUPP` if the index
    /// [cannot](crate::Index::can_destroy). Nothing was destroyed then. If a call after the first
    /// fails, this returns the counts, with the errno in [`WalkCounts::broken_off`].
    pub fn destroy(
        &mut self,
        target: &Target,
        states: u32,
        list: bool,
        watched: Option<&mut Vec<PendingConnect>>,
        left: &mut Vec<Undestroyed>,
    ) -> Result<WalkCounts, Error> {
        let mut ctx = context(target);
        ctx.states = states;
        ctx.flags |= flag(skreap_walk_flags::SKREAP_WALK_DESTROY);
        if list {
            ctx.flags |= flag(skreap_walk_flags::SKREAP_WALK_LIST);
        }
        self.watching(&mut ctx, watched, &mut |batch, results| {
            left.extend(batch.iter().zip(results).map(|(&victim, &errno)| Undestroyed { victim, errno }));
        })
    }

    /// The sockets that `connect()` has recorded under the target and that are not connected to it,
    /// without those whose wait has expired; and how many nodes without their socket were found and
    /// removed.
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno.
    pub fn pending(
        &mut self,
        target: &Target,
        what: PendingCheck,
    ) -> Result<(Vec<PendingConnect>, u64), Error> {
        let mut ctx = context(target);
        ctx.flags = flag(skreap_walk_flags::SKREAP_WALK_PENDING);
        ctx.flags |= match what {
            PendingCheck::Watch => flag(skreap_walk_flags::SKREAP_WALK_WATCH),
            PendingCheck::Look => 0,
            PendingCheck::Expire => flag(skreap_walk_flags::SKREAP_WALK_EXPIRE),
        };
        let mut sockets = Vec::new();
        let counts = self.pass(&mut ctx, Some(&mut sockets), &mut |_, _| {})?;
        Ok((sockets, counts.stale))
    }

    /// A pass for a target that also watches pending connects, if they are wanted.
    fn watching(
        &mut self,
        ctx: &mut skreap_walk,
        watched: Option<&mut Vec<PendingConnect>>,
        each: &mut dyn FnMut(&[Victim], &[i32]),
    ) -> Result<WalkCounts, Error> {
        if watched.is_some() {
            ctx.flags |= flag(skreap_walk_flags::SKREAP_WALK_WATCH);
        }
        self.pass(ctx, watched, each)
    }

    /// Walks the whole index and hands over every node, 2048 at most at a time. The relation of
    /// each is to the backend it is recorded under.
    /// [`WalkCounts::incomplete_unconnected`] says that there are unconnected sockets whose
    /// destinations are not known.
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno.
    pub fn walk_all(&mut self, mut each: impl FnMut(&[Victim])) -> Result<WalkCounts, Error> {
        let mut ctx =
            skreap_walk { flags: flag(skreap_walk_flags::SKREAP_WALK_ALL), ..skreap_walk::default() };
        self.pass(&mut ctx, None, &mut |batch, _| each(batch))
    }

    /// As [`walk_all`](Self::walk_all), but a socket that has [moved on](crate::Relation::MovedOn)
    /// carries the backend it is recorded under in place of its peer, if that backend is known: see
    /// [`Victim::backend`].
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno.
    pub fn walk_recorded(&mut self, mut each: impl FnMut(&[Victim])) -> Result<WalkCounts, Error> {
        let flags = flag(skreap_walk_flags::SKREAP_WALK_ALL) | flag(skreap_walk_flags::SKREAP_WALK_RECORDED);
        let mut ctx = skreap_walk { flags, ..skreap_walk::default() };
        self.pass(&mut ctx, None, &mut |batch, _| each(batch))
    }

    /// Walks the whole index and hands over every node with the id of the frontend that its socket
    /// came through ([`Frontends::name`]); 0, which is unknown, if the index records none.
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno.
    pub fn walk_all_with_frontends(&mut self, each: impl FnMut(&Victim, u32)) -> Result<WalkCounts, Error> {
        let flags = flag(skreap_walk_flags::SKREAP_WALK_ALL);
        self.pass_with_frontends(skreap_walk { flags, ..skreap_walk::default() }, each)
    }

    /// What the index knows of frontends; `None` for one that records none.
    #[must_use]
    pub fn frontends(&self) -> Option<&Frontends> {
        self.frontends.as_deref()
    }

    /// The same for the victims of a target.
    ///
    /// # Errors
    /// [`Error::Walk`] with the kernel's errno.
    pub fn walk_with_frontends(
        &mut self,
        target: &Target,
        each: impl FnMut(&Victim, u32),
    ) -> Result<WalkCounts, Error> {
        self.pass_with_frontends(context(target), each)
    }

    fn pass_with_frontends(
        &mut self,
        mut ctx: skreap_walk,
        mut each: impl FnMut(&Victim, u32),
    ) -> Result<WalkCounts, Error> {
        let frontends = self.frontends.clone();
        let first = (u32::from(self.slot) * self.emit_max) as usize;
        let (mut ids, mut failed) = (Vec::new(), Ok(()));
        let counts = self.pass(&mut ctx, None, &mut |batch, _| {
            ids.clear();
            if let Some(frontends) = &frontends
                && let Err(e) = frontends.emitted(first, batch.len(), &mut ids)
            {
                failed = Err(e);
            }
            ids.resize(batch.len(), 0);
            batch.iter().zip(&ids).for_each(|(victim, id)| each(victim, *id));
        })?;
        failed.map(|()| counts)
    }

    /// As [`walk_all`](Self::walk_all), and forgets which frontends the sockets came through that were
    /// recorded in this epoch ([`Frontends::set_epoch`]) or later.
    ///
    /// # Errors
    /// [`Error::NoFrontends`] if the index records none; otherwise as [`walk_all`](Self::walk_all).
    pub fn walk_forgetting(
        &mut self,
        epoch: u32,
        mut each: impl FnMut(&[Victim]),
    ) -> Result<WalkCounts, Error> {
        self.frontends.as_ref().ok_or(Error::NoFrontends)?.forget_since(self.slot, epoch)?;
        let flags = flag(skreap_walk_flags::SKREAP_WALK_ALL) | flag(skreap_walk_flags::SKREAP_WALK_FORGET);
        let mut ctx = skreap_walk { flags, ..skreap_walk::default() };
        self.pass(&mut ctx, None, &mut |batch, _| each(batch))
    }

    /// Calls the program until it is done; `each` gets the emitted sockets of a call, and the
    /// results of destroys, `pending` those that may be connecting to the target.
    fn pass(
        &mut self,
        ctx: &mut skreap_walk,
        mut pending: Option<&mut Vec<PendingConnect>>,
        each: &mut dyn FnMut(&[Victim], &[i32]),
    ) -> Result<WalkCounts, Error> {
        let mut counts = WalkCounts::default();
        ctx.version = self.version;
        ctx.slot = self.slot;
        let for_target =
            flag(skreap_walk_flags::SKREAP_WALK_ALL) | flag(skreap_walk_flags::SKREAP_WALK_PENDING);
        let restricted = self.restricted && ctx.flags & for_target == 0;
        if restricted {
            ctx.flags |= flag(skreap_walk_flags::SKREAP_WALK_FRONTENDS);
        }
        loop {
            let called = fault::at(Point::Walk).and_then(|()| run(self.program.as_fd(), ctx));
            if let Err(error) = called {
                let destroys = ctx.flags & flag(skreap_walk_flags::SKREAP_WALK_DESTROY) != 0;
                if !destroys || counts.calls == 0 {
                    return Err(Error::Walk(error));
                }
                counts.broken_off = Some(error.raw_os_error().unwrap_or(libc::EIO));
                return Ok(counts);
            }
            counts.add(ctx);
            if let Some(frontends) = self.frontends.as_ref().filter(|_| restricted) {
                let (other, unknown) = frontends.left_out(self.slot)?;
                counts.frontend += other;
                counts.frontend_unknown += unknown;
            }
            if ctx.emitted > 0 {
                self.batch.clear();
                self.results.clear();
                let first = (u32::from(self.slot) * self.emit_max) as usize;
                let emitted = ctx.emitted as usize;
                self.emit.victims.copy_to(first, emitted, &mut self.batch).map_err(Error::Walk)?;
                if restricted {
                    self.note_unknown(first)?;
                }
                if ctx.flags & flag(skreap_walk_flags::SKREAP_WALK_DESTROY) != 0 {
                    self.emit.results.copy_to(first, emitted, &mut self.results).map_err(Error::Walk)?;
                }
                if let Some(pending) = &mut pending {
                    self.take_pending(pending);
                }
                each(&self.batch, &self.results);
            }
            if ctx.more == 0 {
                return Ok(counts);
            }
            ctx.flags |= flag(skreap_walk_flags::SKREAP_WALK_RESUME);
        }
    }

    /// Takes note of the sockets in the batch whose frontend is not known, if that makes them victims.
    fn note_unknown(&mut self, first: usize) -> Result<(), Error> {
        if let (Some(unknown), Some(frontends)) = (&mut self.unknown, &self.frontends) {
            let mut ids = Vec::with_capacity(self.batch.len());
            frontends.emitted(first, self.batch.len(), &mut ids)?;
            let is_unknown = |id: u32| id == skreap_frontend_id::SKREAP_FRONTEND_UNKNOWN.0;
            let found = self.batch.iter().zip(ids).filter(|(_, id)| is_unknown(*id));
            unknown.extend(found.map(|(victim, _)| victim.cookie()));
        }
        Ok(())
    }

    /// Moves what may be connecting out of the batch; what is a victim, too, stays in it as well.
    fn take_pending(&mut self, sockets: &mut Vec<PendingConnect>) {
        let (batch, results) = (&mut self.batch, &mut self.results);
        let mut kept = 0;
        for i in 0..batch.len() {
            let mut victim = batch[i];
            let (pending, is_victim) = victim.take_pending();
            if pending {
                let elsewhere = victim.relation() == Relation::MovedOn;
                sockets.push(PendingConnect { cookie: victim.cookie(), elsewhere });
            }
            if is_victim {
                batch[kept] = victim;
                if let Some(&result) = results.get(i) {
                    results[kept] = result;
                }
                kept += 1;
            }
        }
        batch.truncate(kept);
        results.truncate(kept);
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        self.slots.give(self.slot);
    }
}

/// The context of a walk of the target's bucket.
fn context(target: &Target) -> skreap_walk {
    let (family, daddr) = address::words(target.backend.addr());
    let mut ctx = skreap_walk {
        daddr,
        dport: target.backend.port().to_be(),
        family,
        protocol: target.backend.protocol().number(),
        ..skreap_walk::default()
    };
    if target.unconnected == Unconnected::Destroy {
        ctx.flags |= flag(skreap_walk_flags::SKREAP_WALK_UNCONNECTED);
    }
    ctx
}

fn flag(flag: skreap_walk_flags) -> u16 {
    // The enum's values are single low bits (abi.h).
    flag.0 as u16
}
