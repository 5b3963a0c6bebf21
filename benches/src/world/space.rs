//! The namespaces of a world, and the hash tables of their sockets.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use skreap::core::Protocol;
use skreap::netns::NetnsId;
use skreap_testbed::Netns;

use super::backends;
use crate::grid::{Tables, WorldSpec};

/// Table sizes that the kernel accepts for a netns: `UDP_HTABLE_SIZE_MIN_PERNET` to the largest
/// useful one.
const ENTRIES: std::ops::RangeInclusive<u32> = 128..=65_536;

/// All namespaces of a world.
pub struct Space {
    netns: Vec<Netns>,
    table_entries: Option<u32>,
    /// The netns in which the others are created. Its sysctls set their tables, so that no sysctl
    /// of the host is changed.
    _nursery: Netns,
}

impl Space {
    /// Makes the namespaces, with the addresses of all backends on `lo`.
    ///
    /// # Errors
    /// When the kernel refuses, or does not give the namespaces the requested tables.
    pub fn make(spec: &WorldSpec, per_netns: u32) -> Result<Self> {
        let nursery = Netns::create("nursery")?;
        let table_entries = match spec.tables {
            Tables::Shared => None,
            Tables::PerNetns => Some(per_netns.next_power_of_two().clamp(*ENTRIES.start(), *ENTRIES.end())),
        };
        let (child, own) = match spec.proto {
            Protocol::Udp => ("net.ipv4.udp_child_hash_entries", "net/ipv4/udp_hash_entries"),
            Protocol::Tcp => ("net.ipv4.tcp_child_ehash_entries", "net/ipv4/tcp_ehash_entries"),
        };
        nursery.set_sysctl(child, &table_entries.unwrap_or(0).to_string())?;
        let mut netns = Vec::with_capacity(spec.netns as usize);
        for number in 0..spec.netns {
            // A new netns takes the setting of the one that its maker is in.
            let made = nursery.run(|| Netns::create(&number.to_string()))??;
            for ip in backends::addresses() {
                made.add_address(IpAddr::V4(ip))?;
            }
            made.set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
            netns.push(made);
        }
        if let Some(one) = netns.first() {
            let path = format!("/proc/sys/{own}");
            let text = one.run(|| fs::read_to_string(&path))?.with_context(|| format!("read {path}"))?;
            // The kernel shows the size of a shared table as a negative number.
            let found: i64 = text.trim().parse().with_context(|| format!("{path} is {text:?}"))?;
            if table_entries.map(i64::from) != (found > 0).then_some(found) {
                bail!("asked for {table_entries:?} table entries per netns with {child}, {path} is {found}");
            }
        }
        Ok(Self { netns, table_entries, _nursery: nursery })
    }

    /// The namespaces.
    pub fn netns(&self) -> &[Netns] {
        &self.netns
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        // WorldSpec has it as u32.
        self.netns.len() as u32
    }

    /// Cookies and inode numbers.
    pub fn ids(&self) -> impl Iterator<Item = NetnsId> {
        self.netns.iter().map(|netns| NetnsId { cookie: netns.cookie(), inum: netns.inum() })
    }

    /// Size of a netns's own table; `None` with shared tables.
    pub fn table_entries(&self) -> Option<u32> {
        self.table_entries
    }
}
