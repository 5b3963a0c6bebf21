//! The owners of sockets, in any netns: programs, or the kernel.

use std::collections::HashMap;

use skreap_bpf::{Owner, Owners, Victim};

use super::EngineError;
use super::named::netns_id;
use crate::sys::netns;

/// Distinguishes sockets of programs from the kernel's own; its BPF program is loaded on first use.
#[derive(Debug, Default)]
pub struct OwnerFinder(Option<Owners>);

impl OwnerFinder {
    /// The owners of these connected sockets, by cookie. Takes no socket lock. Those in a netns
    /// that cannot be entered are [`Owner::Unknown`].
    ///
    /// # Errors
    /// [`EngineError`] if the program cannot be loaded or run, or the thread that visits namespaces not be made.
    pub fn find(&mut self, sockets: &[Victim]) -> Result<HashMap<u64, Owner>, EngineError> {
        if sockets.is_empty() {
            return Ok(HashMap::new());
        }
        let owners = match &mut self.0 {
            Some(owners) => owners,
            none => none.insert(Owners::load()?),
        };
        let mut sorted = sockets.to_vec();
        sorted.sort_unstable_by_key(Victim::netns);
        netns::on_own_thread("skreap-owners", || look(owners, &sorted)).map_err(|source| EngineError::Io {
            what: "cannot look for owners on a thread of its own".to_owned(),
            source,
        })?
    }
}

/// Goes from netns to netns, in which order the sockets are.
fn look(owners: &Owners, sorted: &[Victim]) -> Result<HashMap<u64, Owner>, EngineError> {
    let mut found = HashMap::with_capacity(sorted.len());
    for group in sorted.chunk_by(|a, b| a.netns() == b.netns()) {
        let Some(first) = group.first() else { continue };
        if let Err(e) = netns::open_and_enter(netns_id(first)) {
            tracing::debug!(netns = first.netns(), "cannot look whose sockets are there: {e}");
            found.extend(group.iter().map(|socket| (socket.cookie(), Owner::Unknown)));
            continue;
        }
        for socket in group {
            found.insert(socket.cookie(), owners.of(socket)?);
        }
    }
    Ok(found)
}
