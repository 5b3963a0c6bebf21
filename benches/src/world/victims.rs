//! The sockets that an engine has to find and destroy, opened anew for every sample.

use std::collections::HashSet;

use anyhow::{Result, bail};
use skreap::core::Protocol;
use skreap_testbed::{Cgroup, Client, Op, OpenMany, Reply, Selection, SpawnOptions};

use super::space::Space;
use super::{Verdict, backends};
use crate::grid::share;

/// How long TCP may take to connect.
const TIMEOUT_MS: u64 = 10_000;

/// Numbers of the netns that `count` victims are in: as many as can be, evenly spaced.
pub fn places(count: u32, netns: u32) -> impl Iterator<Item = u32> {
    let used = count.min(netns);
    // netns * used fits: neither is above 2^16 in any world that could be built.
    (0..used).map(move |number| (u64::from(number) * u64::from(netns) / u64::from(used)) as u32)
}

/// The victims of one sample.
pub struct Victims {
    proto: Protocol,
    client: Client,
    cookies: HashSet<u64>,
    open: bool,
}

impl Victims {
    /// None yet.
    pub fn new(proto: Protocol, cgroup: &Cgroup) -> Result<Self> {
        let client = Client::spawn(&SpawnOptions { label: "victims", cgroup: Some(cgroup), netns: None })?;
        Ok(Self { proto, client, cookies: HashSet::new(), open: false })
    }

    /// The cookies of those that are open.
    pub fn cookies(&self) -> &HashSet<u64> {
        &self.cookies
    }

    /// Opens `count`, spread over the namespaces.
    pub fn raise(&mut self, count: u32, space: &Space) -> Result<()> {
        self.close()?;
        let used = count.min(space.len());
        self.open = true;
        // Sent ahead: the client works while the next request is written.
        for (number, place) in (0..).zip(places(count, space.len())) {
            let Some(netns) = space.netns().get(place as usize) else { bail!("there is no netns {place}") };
            let many = OpenMany {
                netns: netns.reference()?,
                protocol: self.proto,
                count: share(count, number, used),
                connect: backends::GONE,
                timeout_ms: TIMEOUT_MS,
            };
            self.client.send(&Op::OpenMany(many))?;
        }
        for _ in 0..used {
            match self.client.receive()? {
                Reply::OpenedMany(opened) if opened.failed == 0 => self.cookies.extend(opened.cookies),
                Reply::OpenedMany(opened) => {
                    let why = opened.first_error.map_or_else(String::new, |e| e.to_string());
                    bail!("{} victims could not be opened: {why}", opened.failed);
                }
                other => bail!("the client answered {other:?}"),
            }
        }
        Ok(())
    }

    /// Whether the kernel shows every one of them as destroyed.
    pub fn all_destroyed(&mut self) -> Result<Verdict> {
        let states = match self.client.call(&Op::States { sockets: Selection::All })? {
            Reply::States(states) => states,
            other => bail!("the client answered {other:?}"),
        };
        let found: HashSet<u64> = states.iter().map(|state| state.cookie).collect();
        if found != self.cookies {
            bail!("the client has other sockets than it opened");
        }
        Ok(match states.iter().find(|state| !state.destroyed()) {
            None => Ok(()),
            Some(alive) => {
                let count = states.iter().filter(|state| !state.destroyed()).count();
                Err(format!("{count} of {} victims are not destroyed, such as {alive:?}", states.len()))
            }
        })
    }

    /// Closes all of them.
    pub fn close(&mut self) -> Result<()> {
        if self.open {
            self.client.call(&Op::Close { sockets: Selection::All })?;
            self.cookies.clear();
            self.open = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread() {
        assert_eq!(places(4, 8).collect::<Vec<_>>(), [0, 2, 4, 6]);
        assert_eq!(places(9, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(places(3, 10).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(places(0, 10).count(), 0);
    }
}
