//! The kernel's own sockets: found when an event asks for a backend to which some have connected.
//!
//! One rule for all engines. The index has no node for such a socket, as no hook would say when it is closed, and no
//! engine destroys one that it meets otherwise. Its connect leaves a note for its backend. An event on a noted
//! backend dumps the sockets of that backend, in every netns, and takes no lock of any. Subflows of MPTCP, which
//! the kernel has opened for a program's socket, are destroyed by their id, unless a rule of the service spares them.
//! All others (the client of an NFS or CIFS mount, say) are left alone: the kernel would connect again. They are counted,
//! and the report is incomplete.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use skreap_bpf::{Index, Owner, Tables, Victim, Walker};
use skreap_core::{
    EngineName, FallbackReason, FallbackRun, Incomplete, Outcome, Target, Unconnected, counted,
};

use super::destroy::Destroyer;
use super::diag::{Confirm, Scan};
use super::subflows::Subflows;
use super::{Chosen, EngineError, EngineOptions, OwnerFinder, in_tables, nanos};
use crate::sys::netns::{self, AllNetns, NetnsId};
use crate::sys::sock_diag::DiagSockets;

/// How often the sockets of a backend are dumped until it is said that there may be more, at most.
const LOOKS_MAX: usize = 8;

/// Looks for the kernel's own sockets after an engine has done its work.
#[derive(Debug)]
pub(crate) struct KernelSockets {
    index: Arc<Index>,
    scan: Scan,
    diag: DiagSockets,
    owners: OwnerFinder,
    subflows: Subflows,
    destroyer: Destroyer,
    tables: LateTables,
}

/// The tables of sockets, loaded when they are needed first, which on most machines is never.
#[derive(Debug)]
struct LateTables {
    options: EngineOptions,
    loaded: Option<Tables>,
}

impl LateTables {
    fn get(&mut self) -> Result<&mut Tables, EngineError> {
        match &mut self.loaded {
            Some(tables) => Ok(tables),
            none => Ok(none.insert(in_tables::load(&self.options)?)),
        }
    }
}

/// What a look has found.
#[derive(Default)]
struct Found {
    subflows: Vec<Victim>,
    /// All others, and those of which it cannot be said whose they are.
    kernel: u64,
    missed: Vec<Incomplete>,
}

impl KernelSockets {
    /// # Errors
    /// [`EngineError`] if the cgroup cannot be opened, or a thread that visits namespaces not be made.
    pub(crate) fn new(index: &Arc<Index>, options: &EngineOptions) -> Result<Self, EngineError> {
        let diag = DiagSockets::new()
            .map_err(|source| EngineError::Io { what: "cannot start the netns thread".to_owned(), source })?;
        Ok(Self {
            index: Arc::clone(index),
            scan: Scan::filtered(options)?,
            diag,
            owners: OwnerFinder::default(),
            subflows: Subflows::default(),
            destroyer: Destroyer::new(options)?,
            tables: LateTables { options: options.clone(), loaded: None },
        })
    }

    /// Adds the kernel's own sockets of the target to what an engine has done, if any have connected there. `unsure`:
    /// look also without a note, as the connects may have been noted under a virtual address.
    pub(crate) fn finish(
        &mut self,
        walker: &mut Walker,
        target: &Target,
        chosen: &mut Chosen,
        unsure: bool,
        outcome: &mut Outcome,
    ) {
        if let Err(e) = self.try_finish(walker, target, chosen, unsure, outcome) {
            tracing::warn!(backend = %target.backend, "cannot look for the kernel's own sockets: {e}");
            outcome.incomplete.insert(Incomplete::KernelSockets);
        }
    }

    fn try_finish(
        &mut self,
        walker: &mut Walker,
        target: &Target,
        chosen: &mut Chosen,
        unsure: bool,
        outcome: &mut Outcome,
    ) -> Result<(), EngineError> {
        // The common case: one load from memory.
        if !self.index.kernel_sockets_seen()? {
            return Ok(());
        }
        let mut recorded = Vec::new();
        let all = Target { unconnected: Unconnected::Destroy, dry_run: true, ..*target };
        if !walker.walk(&all, &mut recorded)?.incomplete_kernel && !unsure {
            return Ok(());
        }
        let mut known: HashSet<u64> = recorded.iter().map(Victim::cookie).collect();
        known.extend(outcome.victims_listed.iter().flatten().map(|socket| socket.cookie));
        let start = Instant::now();
        let mut found = self.find(target, chosen, &known)?;
        self.spare(target, chosen, &mut found, outcome);
        let looked = Instant::now();
        let more = self.destroy(target, found.subflows, &known);
        if found.kernel > 0 {
            outcome.add_kernel(found.kernel);
        }
        outcome.incomplete.extend(found.missed);
        outcome.add_fallback(FallbackRun::new(
            EngineName::DiagFilter,
            FallbackReason::KernelSockets,
            more.victims,
            more.destroyed,
            nanos(start.elapsed()),
        ));
        outcome.walk_ns += nanos(looked.duration_since(start));
        outcome.add_victims(more);
        Ok(())
    }

    /// Takes those subflows out that a rule spares. If it cannot be found out which these are, all are left alone.
    fn spare(&mut self, target: &Target, chosen: &mut Chosen, found: &mut Found, outcome: &mut Outcome) {
        if found.subflows.is_empty() {
            return;
        }
        let mut facts = self.subflows.ask(&mut self.diag);
        match chosen.spare_by(&mut facts, target, &mut found.subflows) {
            Ok(spared) => {
                outcome.visited += spared;
                outcome.skipped.spared += spared;
            }
            Err(e) => {
                let sockets = counted(found.subflows.len() as u64, "subflow");
                tracing::warn!(backend = %target.backend, "rules could not be asked about {sockets} of MPTCP: {e}");
                found.kernel += found.subflows.len() as u64;
                found.subflows.clear();
            }
        }
    }

    /// What is closed between the dump and the question whose it is, is looked for once more.
    fn find(&mut self, target: &Target, chosen: &Chosen, known: &HashSet<u64>) -> Result<Found, EngineError> {
        let mut found = self.look(target, chosen, known)?;
        if found.1 > 0 {
            found = self.look(target, chosen, known)?;
        }
        let (mut found, unknown) = found;
        found.kernel += unknown;
        Ok(found)
    }

    /// With the number of sockets of which it cannot be said whose they are.
    fn look(
        &mut self,
        target: &Target,
        chosen: &Chosen,
        known: &HashSet<u64>,
    ) -> Result<(Found, u64), EngineError> {
        let mut found = Found::default();
        let AllNetns { netns, whole } = netns::everywhere().map_err(|source| EngineError::Io {
            what: "cannot list the netns in /proc".to_owned(),
            source,
        })?;
        if !whole {
            found.missed.push(Incomplete::NetnsUnreachable);
        }
        let tables = self.tables.get()?;
        let Shown { mut sockets, undecided, missed } =
            show(&mut self.scan, &mut self.diag, tables, target, &netns)?;
        found.missed.extend(missed);
        sockets.retain(|socket| !known.contains(&socket.cookie()) && chosen.on_link(socket));
        // Their cgroup was removed, say. Nothing is destroyed that may be another's.
        let foreign = self.owners.find(&undecided)?;
        found.kernel +=
            foreign.values().filter(|owner| matches!(owner, Owner::Kernel | Owner::Subflow)).count() as u64;
        let owners = self.owners.find(&sockets)?;
        let mut unknown = 0;
        for socket in sockets {
            match owners.get(&socket.cookie()) {
                Some(Owner::Subflow) => found.subflows.push(socket),
                Some(Owner::Kernel) => found.kernel += 1,
                // Not in the index, for a reason of its own: a server's side, or no room.
                Some(Owner::Program) => {}
                Some(Owner::Unknown) | None => unknown += 1,
            }
        }
        Ok((found, unknown))
    }

    fn destroy(&mut self, target: &Target, mut subflows: Vec<Victim>, known: &HashSet<u64>) -> Outcome {
        let mut outcome = Outcome::new(EngineName::DiagFilter);
        outcome.victims = subflows.len() as u64;
        outcome.visited = outcome.victims;
        if subflows.is_empty() {
            return outcome;
        }
        let start = Instant::now();
        let Self { scan, diag, tables, destroyer, .. } = self;
        let first: HashSet<u64> = subflows.iter().map(Victim::cookie).collect();
        destroyer.finish(target.dry_run, &mut subflows, &mut outcome, |subflows| {
            let AllNetns { netns, .. } = netns::everywhere()
                .map_err(|source| EngineError::Io { what: "cannot list the netns".to_owned(), source })?;
            subflows.extend(show(scan, diag, tables.get()?, target, &netns)?.sockets);
            subflows.retain(|socket| first.contains(&socket.cookie()) && !known.contains(&socket.cookie()));
            Ok(())
        });
        outcome.destroy_ns = nanos(start.elapsed());
        outcome
    }
}

/// What there is of a backend.
#[derive(Default)]
struct Shown {
    sockets: Vec<Victim>,
    /// It cannot be said whether they are of the cgroup.
    undecided: Vec<Victim>,
    missed: Vec<Incomplete>,
}

/// A dump resumes by position, and skips sockets when others before them go meanwhile, more than once the same. So what it
/// shows is completed from the kernel's tables. There a socket may have no cookie yet: the next dump gives it one.
fn show(
    scan: &mut Scan,
    diag: &mut DiagSockets,
    tables: &mut Tables,
    target: &Target,
    netns: &[NetnsId],
) -> Result<Shown, EngineError> {
    let mut all = Shown::default();
    let mut seen = HashSet::new();
    let confirm = Confirm { target, states: scan.states(), netns };
    for _ in 0..LOOKS_MAX {
        let (mut sockets, mut undecided) = (Vec::new(), Vec::new());
        all.missed.extend(scan.all(diag, netns, &target.backend, &mut sockets, &mut undecided));
        all.sockets.extend(sockets.into_iter().filter(|socket| seen.insert(socket.cookie())));
        let undecided = undecided.into_iter().map(|(socket, _)| socket);
        all.undecided.extend(undecided.filter(|socket| seen.insert(socket.cookie())));
        let there = confirm.look(tables)?;
        let kernels = there.iter().filter(|socket| socket.is_kernel()).map(|socket| socket.victim);
        let (nameless, named): (Vec<_>, Vec<_>) = kernels.partition(|socket| socket.cookie() == 0);
        all.sockets.extend(named.into_iter().filter(|socket| seen.insert(socket.cookie())));
        if nameless.is_empty() {
            return Ok(all);
        }
    }
    all.missed.push(Incomplete::DumpInterrupted);
    Ok(all)
}
