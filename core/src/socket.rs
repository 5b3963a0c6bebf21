//! One socket, as reports name it.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::backend::Protocol;

/// Everything that names one socket on this machine. Ports are in host byte order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SocketTuple {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local address.
    pub saddr: IpAddr,
    /// Local port.
    pub sport: u16,
    /// Peer address; unspecified if the socket is not connected.
    pub daddr: IpAddr,
    /// Peer port; 0 if the socket is not connected.
    pub dport: u16,
    /// Interface that the socket is bound to, 0 if none.
    pub ifindex: u32,
    /// Socket cookie (`SO_COOKIE`), unique since boot.
    pub cookie: u64,
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`), unique since boot.
    pub netns: u64,
    /// Inode number of the network namespace, as in `/proc/PID/ns/net`; reused after its end.
    pub netns_inum: u32,
    /// Kernel name of the state, see [`state_name`].
    pub state: Cow<'static, str>,
    /// Whose it is, where that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<Box<Attribution>>,
    /// The frontend that it came through: its address, `direct` or `unknown`. Left out where frontends
    /// are not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
}

/// Whose socket it is, as far as it could be found. All of it may have changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Attribution {
    /// Name of the network namespace under `/run/netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_name: Option<String>,
    /// Path of the cgroup that the socket was made in, below the root of the hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// User that made the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// A process that has it open; others may too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The name of that process (`/proc/PID/comm`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// `netns blue cgroup /app uid 1000 pid 42 (curl)`, without what is not known.
impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.netns_name.as_ref().map(|name| format!("netns {name}")));
        parts.extend(self.cgroup.as_ref().map(|path| format!("cgroup {path}")));
        parts.extend(self.uid.map(|uid| format!("uid {uid}")));
        parts.extend(self.pid.map(|pid| format!("pid {pid}")));
        parts.extend(self.command.as_ref().map(|command| format!("({command})")));
        f.write_str(&parts.join(" "))
    }
}

impl SocketTuple {
    /// A socket of which no more is known than its two ends.
    #[must_use]
    pub fn new(protocol: Protocol, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            protocol,
            saddr: local.ip(),
            sport: local.port(),
            daddr: peer.ip(),
            dport: peer.port(),
            ifindex: 0,
            cookie: 0,
            netns: 0,
            netns_inum: 0,
            state: state_name(0).into(),
            attribution: None,
            frontend: None,
        }
    }
}

/// `udp 10.0.0.2:4000 -> 10.0.0.1:53 cookie 7 netns 12`, where netns is the cookie, and the owner
/// if known.
impl fmt::Display for SocketTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} -> {} cookie {} netns {}",
            self.protocol,
            SocketAddr::new(self.saddr, self.sport),
            SocketAddr::new(self.daddr, self.dport),
            self.cookie,
            self.netns
        )?;
        if let Some(frontend) = &self.frontend {
            write!(f, " frontend {frontend}")?;
        }
        match &self.attribution {
            Some(attribution) => write!(f, ", {attribution}"),
            None => Ok(()),
        }
    }
}

/// Kernel name of a socket state without its `TCP_` (`include/net/tcp_states.h`); UDP sockets
/// use `ESTABLISHED` and `CLOSE` of the same list.
pub const fn state_name(state: u8) -> &'static str {
    match state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        12 => "NEW_SYN_RECV",
        13 => "BOUND_INACTIVE",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_both_families() {
        let socket = SocketTuple {
            protocol: Protocol::Udp,
            saddr: "10.0.0.2".parse().unwrap(),
            sport: 4000,
            daddr: "10.0.0.1".parse().unwrap(),
            dport: 53,
            ifindex: 0,
            cookie: 7,
            netns: 12,
            netns_inum: 4026531840,
            state: state_name(1).into(),
            attribution: None,
            frontend: None,
        };
        assert_eq!(socket.to_string(), "udp 10.0.0.2:4000 -> 10.0.0.1:53 cookie 7 netns 12");
        let v6 = SocketTuple {
            protocol: Protocol::Tcp,
            saddr: "fd00::2".parse().unwrap(),
            daddr: "fd00::1".parse().unwrap(),
            ..socket.clone()
        };
        assert_eq!(v6.to_string(), "tcp [fd00::2]:4000 -> [fd00::1]:53 cookie 7 netns 12");
        assert_eq!(
            serde_json::to_string(&socket).unwrap(),
            r#"{"protocol":"udp","saddr":"10.0.0.2","sport":4000,"daddr":"10.0.0.1","dport":53,"ifindex":0,"cookie":7,"netns":12,"netns_inum":4026531840,"state":"ESTABLISHED"}"#
        );
    }

    #[test]
    fn an_attribution_is_shown_as_far_as_it_is_known() {
        let attribution = Attribution {
            netns_name: Some("blue".to_owned()),
            cgroup: Some("/app".to_owned()),
            uid: Some(1000),
            pid: Some(42),
            command: Some("curl".to_owned()),
        };
        assert_eq!(attribution.to_string(), "netns blue cgroup /app uid 1000 pid 42 (curl)");
        assert_eq!(
            serde_json::to_string(&attribution).unwrap(),
            r#"{"netns_name":"blue","cgroup":"/app","uid":1000,"pid":42,"command":"curl"}"#
        );
        let attribution = Attribution { uid: Some(0), ..Attribution::default() };
        assert_eq!(serde_json::to_string(&attribution).unwrap(), r#"{"uid":0}"#);
        let socket =
            SocketTuple { attribution: Some(Box::new(attribution)), ..crate::strategies::a_socket(7) };
        assert_eq!(socket.to_string(), "udp 10.0.0.2:4000 -> 10.0.0.1:53 cookie 7 netns 12, uid 0");
        assert_eq!(serde_json::to_value(&socket).unwrap()["attribution"], serde_json::json!({"uid": 0}));
    }

    #[test]
    fn a_frontend_is_shown_where_it_is_recorded() {
        let socket = SocketTuple {
            frontend: Some("udp://10.96.0.10:53".to_owned()),
            ..crate::strategies::a_socket(7)
        };
        assert_eq!(
            socket.to_string(),
            "udp 10.0.0.2:4000 -> 10.0.0.1:53 cookie 7 netns 12 frontend udp://10.96.0.10:53"
        );
        assert_eq!(serde_json::to_value(&socket).unwrap()["frontend"], "udp://10.96.0.10:53");
    }

    #[test]
    fn state_names() {
        assert_eq!(state_name(6), "TIME_WAIT");
        assert_eq!(state_name(7), "CLOSE");
        assert_eq!(state_name(0), "UNKNOWN");
        assert_eq!(state_name(14), "UNKNOWN");
    }
}
