//! Cgroup, user and process of the subflows of MPTCP, for the conditions of rules. No subflow is in the index.
//!
//! The kernel opens a subflow for the MPTCP socket of a program, and gives it the cgroup and the inode of that socket. So
//! the processes that have the MPTCP socket open are found by the inode of the subflow. A thread of the kernel opens those
//! that are added to a connection later, so the user is that of the open file.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Instant;

use skreap_bpf::{Place, Rule, Tables, Victim};
use skreap_core::{Backend, PortRange, SocketTuple};

use super::EngineError;
use super::assign::{Facts, filter};
use super::named::{netns_id, tuple};
use crate::sys::netns::NetnsId;
use crate::sys::processes::{self, OpenSocket};
use crate::sys::sock_diag::{DiagSockets, Made};

/// Finds out what rules ask of subflows.
#[derive(Debug, Default)]
pub(super) struct Subflows {
    /// Loaded on first use.
    tables: Option<Tables>,
}

impl Subflows {
    /// For one pass over the sockets of a backend.
    pub(super) fn ask<'a>(&'a mut self, diag: &'a mut DiagSockets) -> Asked<'a> {
        Asked { tables: &mut self.tables, diag, open: HashMap::new() }
    }
}

/// What was found out in one pass.
pub(super) struct Asked<'a> {
    tables: &'a mut Option<Tables>,
    diag: &'a mut DiagSockets,
    /// The MPTCP socket as processes have it open, by the cookie of the subflow.
    open: HashMap<u64, OpenSocket>,
}

impl Facts for Asked<'_> {
    fn sift(
        &mut self,
        place: Place,
        backend: &Backend,
        sockets: &mut Vec<Victim>,
    ) -> Result<(), EngineError> {
        if place.cgroup.is_some() {
            let inside = self.inside(place, backend)?;
            sockets.retain(|socket| inside.contains(&socket.cookie()));
        }
        if let Some(uid) = place.uid {
            self.look(sockets)?;
            sockets.retain(|socket| self.open.get(&socket.cookie()).is_some_and(|open| open.uid == uid));
        }
        Ok(())
    }

    fn names(&mut self, sockets: &[Victim]) -> Result<HashMap<u64, Vec<String>>, EngineError> {
        self.look(sockets)?;
        let names = |socket: &Victim| Some((socket.cookie(), self.open.get(&socket.cookie())?.names.clone()));
        Ok(sockets.iter().filter_map(names).collect())
    }
}

impl Asked<'_> {
    /// The cookies of the backend's sockets in the cgroup of this place.
    fn inside(&mut self, place: Place, backend: &Backend) -> Result<HashSet<u64>, EngineError> {
        let rule = Rule {
            protocol: Some(backend.protocol()),
            to: vec![backend.addr().into()],
            ports: PortRange::new(backend.port(), backend.port()).into_iter().collect(),
            place: Place { cgroup: place.cgroup, ..Place::default() },
        };
        let tables = match &mut *self.tables {
            Some(tables) => tables,
            none => none.insert(Tables::load(None)?),
        };
        Ok(tables.select(&filter(rule)?)?.iter().map(|socket| socket.victim.cookie()).collect())
    }

    /// Looks who has the MPTCP sockets of these subflows open, once for each.
    fn look(&mut self, sockets: &[Victim]) -> Result<(), EngineError> {
        let new: Vec<Victim> =
            sockets.iter().filter(|socket| !self.open.contains_key(&socket.cookie())).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let made = self.made(&new).map_err(|source| EngineError::Io {
            what: "cannot look whose the subflows of MPTCP are".to_owned(),
            source,
        })?;
        let opened = processes::with_names(made.values().map(|made| made.inode).collect());
        self.open.extend(made.into_iter().map(|(cookie, Made { inode, uid, .. })| {
            // No visible process has it open.
            let hidden = || OpenSocket { uid, names: Vec::new() };
            (cookie, opened.get(&inode).cloned().unwrap_or_else(hidden))
        }));
        Ok(())
    }

    /// What sock_diag says of these, by cookie.
    fn made(&mut self, sockets: &[Victim]) -> io::Result<HashMap<u64, Made>> {
        let mut by_netns: HashMap<NetnsId, Vec<SocketTuple>> = HashMap::new();
        for socket in sockets {
            by_netns.entry(netns_id(socket)).or_default().push(tuple(socket));
        }
        let ids: Vec<NetnsId> = by_netns.keys().copied().collect();
        let mut all = HashMap::new();
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let (opened, failed) = self.diag.open_some(rest);
            let (some, others) = rest.split_at(opened);
            rest = others;
            for id in some {
                match (self.diag.get(id.cookie), failed.get(&id.cookie)) {
                    (Some(diag), _) => {
                        let asked: Vec<&SocketTuple> = by_netns.get(id).into_iter().flatten().collect();
                        let made = diag.made(&asked, Instant::now());
                        // An open diag socket keeps the netns alive.
                        self.diag.forget(id.cookie);
                        let found = asked.iter().zip(made?);
                        all.extend(found.filter_map(|(socket, made)| Some((socket.cookie, made?))));
                    }
                    // It is gone, and its sockets with it.
                    (None, Some(&libc::ESTALE) | None) => {}
                    (None, Some(&errno)) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
        Ok(all)
    }
}
