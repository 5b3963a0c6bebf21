//! The sockets of a client process, by handle.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::trouble::{Answer, refused};
use crate::op::{Family, Protocol, Selection};
use crate::reply::OpError;

/// One socket.
pub(super) struct Entry {
    /// Its handle, for errors.
    pub(super) handle: u32,
    pub(super) fd: OwnedFd,
    pub(super) protocol: Protocol,
    pub(super) family: Family,
}

impl Entry {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All sockets. A handle is an index and is never used again.
#[derive(Default)]
pub(super) struct Table(Vec<Option<Entry>>);

impl Table {
    /// The handle the next socket will have.
    pub(super) fn next(&self) -> u32 {
        // 2^32 sockets do not fit a process's life.
        self.0.len() as u32
    }

    pub(super) fn add(&mut self, fd: OwnedFd, protocol: Protocol, family: Family) -> u32 {
        let handle = self.next();
        self.0.push(Some(Entry { handle, fd, protocol, family }));
        handle
    }

    pub(super) fn get(&self, handle: u32) -> Answer<&Entry> {
        self.0.get(handle as usize).and_then(Option::as_ref).ok_or_else(|| unknown(handle))
    }

    /// Puts another descriptor in the place of a socket, and returns the old one.
    pub(super) fn replace(&mut self, handle: u32, fd: OwnedFd) -> Answer<OwnedFd> {
        let slot = self.0.get_mut(handle as usize).and_then(Option::as_mut);
        let entry = slot.ok_or_else(|| unknown(handle))?;
        Ok(std::mem::replace(&mut entry.fd, fd))
    }

    /// Takes a socket out; it closes when the entry is dropped.
    pub(super) fn take(&mut self, handle: u32) -> Answer<Entry> {
        self.0.get_mut(handle as usize).and_then(Option::take).ok_or_else(|| unknown(handle))
    }

    /// The handles of a selection, each of which is open.
    pub(super) fn select(&self, selection: &Selection) -> Answer<Vec<u32>> {
        let handles: Vec<u32> = match selection {
            Selection::All => {
                return Ok(self.0.iter().flatten().map(|entry| entry.handle).collect());
            }
            Selection::Range { first, count } => (*first..first.saturating_add(*count)).collect(),
            Selection::List(handles) => handles.clone(),
        };
        for &handle in &handles {
            self.get(handle)?;
        }
        Ok(handles)
    }
}

fn unknown(handle: u32) -> OpError {
    refused(format!("find socket {handle}"), libc::EBADF)
}
