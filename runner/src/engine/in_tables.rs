//! How engines without the index find the sockets of a selection: in the kernel's own tables of sockets.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use skreap_bpf::{Filter, TableSocket, Tables, Victim};
use skreap_core::{Backend, EngineName, Incomplete, Outcome, Protocol};

use super::destroy::Destroyer;
use super::selection::Selection;
use super::{EngineError, EngineOptions, StateMask, membership, nanos};

/// Loads what reads the tables.
///
/// # Errors
/// [`EngineError`] if the cgroup cannot be looked at, or the programs cannot be loaded.
pub(super) fn load(options: &EngineOptions) -> Result<Tables, EngineError> {
    let cgroup = match &options.cgroup {
        Some(path) => membership::id_of(path)?,
        None => None,
    };
    Ok(Tables::load(cgroup)?)
}

/// What the search needs.
pub(super) struct InTables<'a> {
    pub(super) name: EngineName,
    pub(super) tables: &'a mut Tables,
    pub(super) states: StateMask,
    /// Dumps the sockets of a backend, for nothing but that each then has a cookie. Returns why some may have none.
    pub(super) dump: &'a mut dyn FnMut(&Backend) -> Vec<Incomplete>,
}

/// What the tables have of a selection.
struct Found {
    victims: Vec<Victim>,
    /// Left alone: the server's side of a connection.
    accepted: u64,
    /// Left alone: in a state that is not wanted.
    state: u64,
    /// Why some of them are not among the victims: they have no cookie to be destroyed by.
    missed: BTreeSet<Incomplete>,
}

impl InTables<'_> {
    /// Finds the sockets of the selection, and destroys them by their ids.
    pub(super) fn run(
        mut self,
        selection: &Selection,
        destroyer: &mut Destroyer,
    ) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(self.name);
        if selection.has_senders() {
            // Only the index has the destinations of an unconnected socket.
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        let filter = selection.rules.filter(self.states)?;
        let Found { mut victims, accepted, state, missed } = self.look(&filter)?;
        outcome.incomplete.extend(missed);
        outcome.skipped.accepted = accepted;
        outcome.skipped.state = state;
        let walked = Instant::now();
        outcome.victims = victims.len() as u64;
        outcome.visited = outcome.victims + outcome.skipped.total();
        destroyer.finish(selection.dry_run, &mut victims, &mut outcome, |victims| {
            victims.append(&mut self.look(&filter)?.victims);
            Ok(())
        });
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    /// The sockets in the tables to which the filter applies.
    fn look(&mut self, filter: &Filter) -> Result<Found, EngineError> {
        let mut sockets = self.tables.select(filter)?;
        let mut found = Found { victims: Vec::new(), accepted: 0, state: 0, missed: BTreeSet::new() };
        // Nobody has asked for its cookie yet. A dump does.
        let unnamed: Vec<Victim> =
            sockets.iter().filter(|socket| self.is_unnamed(socket)).map(|s| s.victim).collect();
        if !unnamed.is_empty() {
            let backends: BTreeSet<Backend> = unnamed.iter().filter_map(Victim::backend).collect();
            let missed: BTreeSet<Incomplete> = backends.iter().flat_map(&mut *self.dump).collect();
            sockets = self.tables.select(filter)?;
            let before: HashSet<Ends> = unnamed.iter().map(ends).collect();
            // Others have come since.
            let is_left = |s: &TableSocket| self.is_unnamed(s) && before.contains(&ends(&s.victim));
            if sockets.iter().any(is_left) {
                found.missed = missed;
                if found.missed.is_empty() {
                    // The dump has passed it over, or there is none for such a peer.
                    found.missed.insert(Incomplete::DumpInterrupted);
                }
            }
        }
        // The kernel's own are the index's matter: whether there are any is said there.
        for socket in sockets.iter().filter(|socket| socket.victim.cookie() != 0 && !socket.is_kernel()) {
            let tcp = socket.victim.protocol() == Some(Protocol::Tcp);
            if socket.is_accepted() {
                found.accepted += 1;
            } else if tcp && !self.states.contains(socket.victim.state()) {
                found.state += 1;
            } else {
                found.victims.push(socket.victim);
            }
        }
        Ok(found)
    }

    /// True for a socket that would be a victim if it had a cookie.
    fn is_unnamed(&self, socket: &TableSocket) -> bool {
        let tcp = socket.victim.protocol() == Some(Protocol::Tcp);
        socket.is_client()
            && socket.victim.cookie() == 0
            && (!tcp || self.states.contains(socket.victim.state()))
    }
}

/// Netns and both ends of a socket.
pub(super) type Ends = (u64, IpAddr, u16, IpAddr, u16);

pub(super) fn ends(victim: &Victim) -> Ends {
    (victim.netns(), victim.saddr(), victim.sport(), victim.daddr(), victim.dport())
}
