//! Victims that are connected to a living backend in place of their destroy.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use skreap_bpf::{Relation, Victim};
use skreap_core::{Backend, Connected, Incomplete, Instead, Move, Moved, Protocol};

use super::Reaper;
use super::done::Done;
use crate::engine::connect::{Connector, Wanted};
use crate::engine::{Chosen, EngineError, Link, nanos};

/// A backend, with its link if the event names one.
type Named = (Backend, Option<Link>);

impl Reaper {
    /// Moves the sockets of these backends; returns the backends whose sockets are destroyed then: what could not be moved,
    /// and TCP sockets.
    pub(super) fn move_victims(&mut self, how: &Move, backends: Vec<Named>, done: &mut Done) -> Vec<Named> {
        let start = Instant::now();
        let udp: Vec<Named> = backends.iter().copied().filter(|(backend, _)| is_udp(backend)).collect();
        match self.try_move(how, &udp) {
            Ok((moved, cookies)) => {
                self.monitor.moved(&moved);
                self.pace.after(moved.moved);
                done.moved = Some(moved);
                done.moved_cookies = cookies;
            }
            Err(e) => {
                tracing::warn!("cannot move sockets: {e}");
                done.fail(Incomplete::EngineFailed, format!("sockets could not be moved: {e}"));
            }
        }
        done.total.destroy_ns = done.total.destroy_ns.saturating_add(nanos(start.elapsed()));
        let is_destroyed = |backend: &Backend| {
            let instead = if is_udp(backend) { how.otherwise } else { how.tcp };
            instead == Instead::Destroy
        };
        backends.into_iter().filter(|(backend, _)| is_destroyed(backend)).collect()
    }

    fn try_move(&mut self, how: &Move, backends: &[Named]) -> Result<(Moved, HashSet<u64>), EngineError> {
        let gone: HashSet<Backend> = backends.iter().map(|(backend, _)| backend.without_zone()).collect();
        let (mut moved, mut wanted, mut turn) = (Moved::default(), Vec::new(), 0);
        for victim in self.find_udp(backends)? {
            let was = SocketAddr::new(victim.daddr().to_canonical(), victim.dport());
            match how.to.of(was.ip(), victim.cookie(), &gone, &mut turn) {
                // Bound to an interface it stays so.
                Some(to) => {
                    wanted.push(Wanted { cookie: victim.cookie(), was, connected: true, to, ifindex: 0 })
                }
                None => moved.add(Connected::Nowhere),
            }
        }
        let mut cookies = HashSet::new();
        if !wanted.is_empty() {
            let connector = match &mut self.connector {
                Some(connector) => connector,
                none => none.insert(Connector::new(&self.index)?),
            };
            for (one, end) in wanted.iter().zip(connector.run(&wanted)?) {
                moved.add(end);
                if end == Connected::Done {
                    cookies.insert(one.cookie);
                }
            }
        }
        Ok((moved, cookies))
    }

    /// The connected sockets of these backends that the index knows, in the order of their cookies.
    fn find_udp(&mut self, backends: &[Named]) -> Result<Vec<Victim>, EngineError> {
        let (mut all, mut chosen) = (Vec::new(), Chosen::default());
        for (backend, link) in backends {
            let mut victims = Vec::new();
            let target = self.target(*backend, true);
            self.walker.walk(&target, &mut victims)?;
            chosen.set_link(*link);
            victims.retain(|victim| victim.relation() == Relation::Connected && chosen.on_link(victim));
            all.append(&mut victims);
        }
        all.sort_unstable_by_key(Victim::cookie);
        all.dedup_by_key(|victim| victim.cookie());
        Ok(all)
    }
}

fn is_udp(backend: &Backend) -> bool {
    backend.protocol() == Protocol::Udp
}
