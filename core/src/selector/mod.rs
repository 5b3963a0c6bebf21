//! Which sockets an event is about, by more than an address.
//!
//! One vocabulary for events and the command line: `where` says which sockets are meant, `except` which of them are
//! not. All conditions of a selector must hold; a list means any of its entries.

mod names;
mod ports;
mod prefix;
mod read;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::backend::{Backend, Protocol};
use crate::zone::Zone;

pub use names::{CgroupName, NetnsName, PlaceError};
pub use ports::{PortRange, PortsError};
pub use prefix::{Prefix, PrefixError};
pub(crate) use read::ALLOW_FIELDS;
use read::FIELDS;
pub use read::FieldError;
pub(crate) use read::{read_allow, read_selector};

/// Most prefixes that one event may name, in all of its selectors together.
pub const MAX_PREFIXES: usize = 1024;
/// Most port ranges that one event may name, in all of its selectors together.
pub const MAX_PORT_RANGES: usize = 256;
/// Most entries in the `allow` list of a policy.
pub const MAX_ALLOWED: usize = 62;

/// Conditions on a socket, all of which must hold. Never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(deny_unknown_fields, extend("minProperties" = 1))
)]
pub struct Selector {
    /// Its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Protocol"))]
    pub protocol: Option<Protocol>,
    /// It is connected to an address in one of these prefixes; to any if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_PREFIXES)))]
    pub to: Vec<Prefix>,
    /// It is connected to a port in one of these ranges; to any if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_PORT_RANGES)))]
    pub ports: Vec<PortRange>,
    /// It was made in this cgroup or one below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "CgroupName"))]
    pub cgroup: Option<CgroupName>,
    /// It is in this network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "NetnsName"))]
    pub netns: Option<NetnsName>,
    /// It belongs to this user: who made it, or to whom `fchown` has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "u32", range(max = 4_294_967_294_u32)))]
    pub uid: Option<u32>,
    /// It is bound to this interface of `netns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Zone"))]
    pub interface: Option<Zone>,
}

impl Selector {
    /// True if it has no condition: it would select every socket.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True if it says something of a socket that its protocol and peer do not say.
    pub const fn has_place(&self) -> bool {
        self.cgroup.is_some() || self.netns.is_some() || self.uid.is_some() || self.interface.is_some()
    }

    /// True if the sockets that it selects are those of some place, or connected to some part of the network: a protocol,
    /// a port, or every address of a family is everywhere.
    pub fn is_bounded(&self) -> bool {
        self.has_place() || !self.to.is_empty() && !self.to.iter().any(Prefix::is_everything)
    }

    /// Whether its conditions on protocol and peer hold.
    pub fn admits_peer(&self, protocol: Protocol, addr: IpAddr, port: u16) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port)))
            && (self.to.is_empty() || self.to.iter().any(|prefix| prefix.contains(addr)))
    }

    /// The backends that it names, each once, if each is named exactly: by protocol, address and port.
    pub fn exact(&self) -> Option<Vec<Backend>> {
        const MOST: usize = 64;
        let protocol = self.protocol?;
        if self.to.is_empty() || self.ports.is_empty() || self.to.len() * self.ports.len() > MOST {
            return None;
        }
        let pairs = self.to.iter().flat_map(|to| self.ports.iter().map(move |ports| (to, ports)));
        let named = pairs.map(|(to, ports)| Backend::new(protocol, to.single()?, ports.single()?).ok());
        let mut named = named.collect::<Option<Vec<_>>>()?;
        // One address has several spellings, and ranges overlap.
        named.sort_unstable();
        named.dedup();
        Some(named)
    }

    /// Checks what no single condition shows.
    ///
    /// # Errors
    /// [`FieldError`] names the field at fault.
    pub fn check(&self) -> Result<(), FieldError> {
        if self.is_empty() {
            return Err(FieldError::whole(format!(
                "it has no condition, and would select every socket; write at least one of: {}",
                FIELDS.join(", ")
            )));
        }
        if self.interface.is_some() && self.netns.is_none() {
            return Err(FieldError::of(
                "interface",
                "every network namespace may have an interface of that name; add the namespace, as in \
                 \"netns\":\"/run/netns/blue\"",
            ));
        }
        if self.interface.is_none()
            && let Some(i) = self.to.iter().position(Prefix::is_one_link_local)
        {
            return Err(FieldError::of(
                format!("to[{i}]"),
                "it is link-local, and every link may have a host of that address; add \"interface\" and \"netns\", \
                 or write fe80::/10 for all of them",
            ));
        }
        Ok(())
    }

    /// Checks an entry of what a policy allows.
    ///
    /// # Errors
    /// [`FieldError`] names the field at fault.
    pub fn check_allowed(&self) -> Result<(), FieldError> {
        if self.is_empty() {
            return Err(FieldError::whole(format!(
                "it has no condition, and would allow everything; write at least one of: {}",
                ALLOW_FIELDS.join(", ")
            )));
        }
        match self.to.iter().position(Prefix::is_one_link_local) {
            // Nothing else in an entry says which.
            Some(i) => Err(FieldError::of(
                format!("to[{i}]"),
                "it is link-local, and every link may have a host of that address; write fe80::/10 to allow all of \
                 them, or restrict \"where\" or \"except\" to one link",
            )),
            None => Ok(()),
        }
    }
}

/// `udp to 10.0.0.0/8 ports 53,8000-9000 netns blue`: the first entries of a list, and how many more there are.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(entries: &[T]) -> Option<String> {
            const NAMED: usize = 4;
            let mut text = entries.iter().take(NAMED).map(T::to_string).collect::<Vec<_>>().join(",");
            if entries.len() > NAMED {
                text.push_str(&format!(" and {} more", entries.len() - NAMED));
            }
            (!entries.is_empty()).then_some(text)
        }
        let parts = [
            ("", self.protocol.map(|protocol| protocol.to_string())),
            ("to ", list(&self.to)),
            ("ports ", list(&self.ports)),
            ("cgroup ", self.cgroup.as_ref().map(ToString::to_string)),
            ("netns ", self.netns.as_ref().map(ToString::to_string)),
            ("uid ", self.uid.map(|uid| uid.to_string())),
            ("interface ", self.interface.map(|zone| zone.to_string())),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter_map(|(name, text)| Some(format!("{name}{}", text?))).collect();
        f.write_str(&parts.join(" "))
    }
}

/// Counts what has a limit for all selectors of an event together.
///
/// # Errors
/// The message says how many there are, and how many there may be.
pub fn check_limits<'a>(selectors: impl Iterator<Item = &'a Selector> + Clone) -> Result<(), String> {
    let prefixes: usize = selectors.clone().map(|selector| selector.to.len()).sum();
    if prefixes > MAX_PREFIXES {
        return Err(format!("the event has {prefixes} prefixes in all; write at most {MAX_PREFIXES}"));
    }
    let ranges: usize = selectors.map(|selector| selector.ports.len()).sum();
    if ranges > MAX_PORT_RANGES {
        return Err(format!("the event has {ranges} port ranges in all; write at most {MAX_PORT_RANGES}"));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_selector(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
