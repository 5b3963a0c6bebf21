//! What must hold after every event.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use skreap::core::{Incomplete, Report};
use skreap_testbed::{Selection, SocketState};

use crate::driver::{CLOSE, Driver, Slot, canonical, seen_releases};
use crate::script::{CLIENTS, Place};
use crate::truth::{Role, Truth};

impl Driver<'_> {
    pub fn check_index(&mut self) -> Result<()> {
        self.world.check_index().map(drop)
    }

    pub fn check_releases(&mut self) -> Result<()> {
        let (seen, closed) = (seen_releases(self.world)? - self.releases, self.closed());
        ensure!(seen == closed, "{closed} sockets were closed, and {seen} were seen to be");
        Ok(())
    }

    pub fn closed(&self) -> i64 {
        (self.truth.closed + self.short_lived) as i64
    }

    /// The report says it, the sockets say it, nobody else was touched, and the index is sound.
    pub fn check(&mut self, report: &Report, victims: &BTreeSet<u64>, complete: bool) -> Result<()> {
        self.check_after(report, victims, complete, |_| {})
    }

    /// As [`check`](Self::check), where something was done to victims after they were destroyed.
    pub fn check_after(
        &mut self,
        report: &Report,
        victims: &BTreeSet<u64>,
        complete: bool,
        after: impl FnOnce(&mut Truth),
    ) -> Result<()> {
        // Those with a lock that is held are destroyed when their owner lets go.
        let (late, destroyed) = match report.dry_run {
            true => Default::default(),
            false => self.split_held(victims),
        };
        destroyed.iter().for_each(|cookie| self.truth.destroyed(*cookie));
        after(&mut self.truth);
        self.tally.victims += victims.len() as u64;
        self.check_report(report, victims, &late, complete)
            .and_then(|()| self.check_sockets(&destroyed))
            .with_context(|| format!("{report:?}; victims should be {victims:?}"))?;
        self.check_index()?;
        self.check_releases()
    }

    pub fn check_report(
        &self,
        report: &Report,
        victims: &BTreeSet<u64>,
        late: &BTreeSet<u64>,
        complete: bool,
    ) -> Result<()> {
        ensure!(report.error.is_none(), "it failed");
        check_failed(report, late)?;
        ensure!(report.complete == complete, "not complete: {complete}");
        let because = &report.incomplete_because;
        let may_be = |why: &Incomplete| match why {
            Incomplete::IndexFull => true,
            Incomplete::IndexUnsure => self.world.unsure,
            Incomplete::KernelSockets => self.world.noted,
            _ => false,
        };
        ensure!(complete || because.iter().all(may_be), "there is another reason");
        let victims_count = victims.len() as u64;
        ensure!(report.victims == victims_count, "not {victims_count} victims");
        let destroyed = if report.dry_run { 0 } else { victims_count - late.len() as u64 };
        ensure!(report.destroyed == destroyed, "not {destroyed} destroyed");
        if let Some(listed) = &report.sockets {
            let mut listed: Vec<u64> = listed.iter().map(|socket| self.named_by(socket)).collect();
            listed.sort_unstable();
            ensure!(listed.iter().eq(victims), "listed are {listed:?}");
        }
        Ok(())
    }

    pub fn check_sockets(&mut self, destroyed: &BTreeSet<u64>) -> Result<()> {
        let states = self.states()?;
        let undecided = std::mem::take(&mut self.undecided);
        for state in &states {
            let connected = |to: &&SocketAddr| state.peer.map(canonical) == Some(**to);
            if let Some(to) = undecided.get(&state.cookie).filter(connected) {
                self.truth.connected_anew(state.cookie, *to);
            }
        }
        let died: BTreeSet<u64> =
            states.iter().filter(|state| state.errno == libc::ECONNABORTED).map(|s| s.cookie).collect();
        let seen: BTreeSet<u64> = states.iter().map(|state| state.cookie).collect();
        let silent = self.spend(destroyed);
        let expected =
            destroyed.intersection(&seen).copied().filter(|cookie| !silent.contains(cookie)).collect();
        ensure!(died == expected, "those that died are {died:?}, and should be {expected:?}");
        for state in &states {
            let Some(socket) = self.truth.get(state.cookie) else { bail!("nobody knows {state:?}") };
            if socket.role == Role::Client && !self.is_spent(state.cookie) {
                let (found, expected) = (state.peer.map(canonical), self.truth.peer(state.cookie));
                ensure!(found == expected, "its peer should be {expected:?}: {state:?}");
            }
        }
        Ok(())
    }

    /// The states of all sockets that a client can name, and ask without having to wait.
    pub fn states(&mut self) -> Result<Vec<SocketState>> {
        let mut states = Vec::new();
        for client in 0..CLIENTS {
            let shown = |slot: &&Slot| slot.client == client && slot.held.is_none();
            let mut handles: Vec<u32> =
                self.slots.values().filter(shown).flat_map(|slot| &slot.handles).copied().collect();
            handles.sort_unstable();
            if !handles.is_empty() {
                states.extend(self.world.client(client)?.states(Selection::List(handles))?);
            }
        }
        Ok(states)
    }

    /// Connections to the script's own listeners end when the script ends the other side: only the sockets can tell
    /// in which way. Nobody has destroyed them, or they would say so.
    pub fn see_what_others_ended(&mut self) -> Result<()> {
        for state in self.states()? {
            let is_closed = state.tcp_state == Some(CLOSE);
            if !is_closed || self.truth.peer(state.cookie) != Some(Place::Own.addr()) {
                continue;
            }
            let shut = self.slots.values().any(|slot| slot.cookie == state.cookie && slot.shut);
            ensure!(
                matches!(state.errno, libc::ECONNRESET | libc::EPIPE) || state.errno == 0 && shut,
                "nobody has ended this connection: {state:?}"
            );
            self.truth.ended(state.cookie);
        }
        Ok(())
    }
}

/// What is not destroyed by the time of the report is listed, with the reason.
fn check_failed(report: &Report, late: &BTreeSet<u64>) -> Result<()> {
    let mut listed: Vec<u64> = report.failed.sockets().iter().map(|failure| failure.socket.cookie).collect();
    listed.sort_unstable();
    ensure!(listed.iter().eq(late), "failed are {listed:?}, and should be {late:?}");
    let timed_out = report.failed.by_errno().get("ETIMEDOUT").copied().unwrap_or_default();
    ensure!(timed_out == report.failed.total(), "it failed otherwise than with ETIMEDOUT");
    Ok(())
}
