//! Selectors, as options of commands: one vocabulary for all of them.

use std::path::absolute;

use anyhow::{Context as _, anyhow};
use skreap::core::{CgroupName, Event, NetnsName, PortRange, Prefix, Protocol, Selector, Zone};

use super::{Failure, netns};

/// Heading of the options that say which sockets are meant. The options of a command that are under none come first: clap
/// puts each option under the last heading before it.
pub(super) const MEANT: &str = "Sockets that are meant: those for which all of these hold";

/// Where a socket is, and whose.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = MEANT)]
pub(super) struct PlaceArgs {
    /// Only sockets that were made in this cgroup or one below it: a directory of cgroup2, or id:N
    #[arg(long, value_name = "CGROUP", value_parser = cgroup)]
    pub(super) cgroup: Option<CgroupName>,
    /// Only sockets in this network namespace: a name under /run/netns, a path, the id of a process in it, or cookie:N
    #[arg(long, value_name = "NETNS", value_parser = netns::named)]
    pub(super) netns: Option<NetnsName>,
    /// Only sockets of this user
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Only sockets that are bound to this interface of --netns
    #[arg(long, value_name = "INTERFACE", requires = "netns")]
    interface: Option<Zone>,
}

impl PlaceArgs {
    /// The conditions that are given.
    pub(super) fn selector(&self) -> Selector {
        Selector {
            cgroup: self.cgroup.clone(),
            netns: self.netns.clone(),
            uid: self.uid,
            interface: self.interface,
            ..Selector::default()
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sockets that stay: those for which all of these hold")]
pub(super) struct ExceptArgs {
    /// Sockets of this protocol: tcp or udp
    #[arg(long, value_name = "PROTOCOL")]
    except_protocol: Option<Protocol>,
    /// Sockets that are connected to these addresses or prefixes, as 10.0.0.0/8,fd00::1
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    except_to: Vec<Prefix>,
    /// Sockets that are connected to these ports, as 53,8000-9000
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    except_port: Vec<PortRange>,
    /// As --cgroup
    #[arg(long, value_name = "CGROUP", value_parser = cgroup)]
    except_cgroup: Option<CgroupName>,
    /// As --netns
    #[arg(long, value_name = "NETNS", value_parser = netns::named)]
    except_netns: Option<NetnsName>,
    /// As --uid
    #[arg(long, value_name = "UID")]
    except_uid: Option<u32>,
    /// As --interface, of --except-netns
    #[arg(long, value_name = "INTERFACE", requires = "except_netns")]
    except_interface: Option<Zone>,
}

impl ExceptArgs {
    fn selector(&self) -> Selector {
        Selector {
            protocol: self.except_protocol,
            to: self.except_to.clone(),
            ports: self.except_port.clone(),
            cgroup: self.except_cgroup.clone(),
            netns: self.except_netns.clone(),
            uid: self.except_uid,
            interface: self.except_interface,
        }
    }
}

/// Restricts the event to the sockets that `selector` selects, without those that are excepted. Nothing is said by a
/// selector without conditions.
pub(super) fn restrict(event: &mut Event, selector: Selector, except: &ExceptArgs) -> Result<(), Failure> {
    let given = |selector: Selector| (!selector.is_empty()).then(|| Box::new(selector));
    event.selector = given(selector);
    event.except = given(except.selector());
    event.check_selectors().map_err(|e| Failure::Misused(anyhow!("{e}")))
}

/// The event's restriction, as words behind what it is about.
pub(super) fn words(event: &Event) -> String {
    let words = |word: &str, selector: &Option<Box<Selector>>| {
        selector.as_ref().map_or_else(String::new, |selector| format!(" {word} {selector}"))
    };
    words("where", &event.selector) + &words("except", &event.except)
}

/// A cgroup as people name one: also by a path that is not absolute.
fn cgroup(given: &str) -> anyhow::Result<CgroupName> {
    if given.starts_with("id:") || !given.contains('/') {
        return Ok(given.parse()?);
    }
    let path = absolute(given).context("no absolute path")?;
    Ok(path.to_str().context("the working directory is not UTF-8")?.parse()?)
}
