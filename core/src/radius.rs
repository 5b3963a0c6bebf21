//! The radius of a dry run: its victims by cgroup, netns, backend and command.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Protocol};
use crate::event::Event;
use crate::socket::SocketTuple;

/// The victims of a dry run, counted by what people ask for before they say yes. What is not known of a socket is
/// counted as `-`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Radius {
    /// By the cgroup they were made in.
    pub cgroup: BTreeMap<String, u64>,
    /// By network namespace: its name, or else its inode number.
    pub netns: BTreeMap<String, u64>,
    /// By the peer.
    pub backend: BTreeMap<String, u64>,
    /// By the name of a process that has it open.
    pub command: BTreeMap<String, u64>,
    /// Of a policy: by what of the peer no entry allows, `protocol`, `address` or `port`. Left out otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_allowed: BTreeMap<String, u64>,
}

impl Radius {
    /// Of these victims of the event.
    pub fn new(event: &Event, victims: &[SocketTuple]) -> Self {
        let mut radius = Self::default();
        // One netns has one name here, also for sockets of which no more is known.
        let mut names: HashMap<u32, String> = HashMap::new();
        for socket in victims {
            let name = socket.attribution.as_deref().and_then(|whose| whose.netns_name.as_ref());
            if let Some(name) = name.filter(|_| !names.contains_key(&socket.netns_inum)) {
                names.insert(socket.netns_inum, name.clone());
            }
        }
        let name_of = |inum: u32| names.get(&inum).cloned().unwrap_or_else(|| inum.to_string());
        for socket in victims {
            let whose = socket.attribution.as_deref().cloned().unwrap_or_default();
            let peer = Backend::new(socket.protocol, socket.daddr, socket.dport).ok();
            let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            for (by, name) in [
                (&mut radius.cgroup, known(whose.cgroup)),
                (&mut radius.netns, name_of(socket.netns_inum)),
                (&mut radius.backend, known(peer.map(|backend| backend.to_string()))),
                (&mut radius.command, known(whose.command)),
            ] {
                *by.entry(name).or_default() += 1;
            }
            if !event.action.allowed().is_empty() {
                *radius.not_allowed.entry(reason(event, socket).to_owned()).or_default() += 1;
            }
        }
        radius
    }
}

/// The first part of the peer that no entry with the parts before it allows.
fn reason(event: &Event, socket: &SocketTuple) -> &'static str {
    let protocol = |wanted: Option<Protocol>| wanted.is_none_or(|wanted| wanted == socket.protocol);
    let mut reason = "protocol";
    for allowed in event.action.allowed().iter().filter(|allowed| protocol(allowed.protocol)) {
        if !allowed.to.is_empty() && !allowed.to.iter().any(|prefix| prefix.contains(socket.daddr)) {
            if reason == "protocol" {
                reason = "address";
            }
            continue;
        }
        reason = "port";
    }
    reason
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategies::a_socket;
    use crate::{Action, Attribution};

    #[test]
    fn counts_by_what_is_known() {
        let whose = Attribution {
            netns_name: Some("blue".to_owned()),
            cgroup: Some("/app".to_owned()),
            command: Some("curl".to_owned()),
            ..Attribution::default()
        };
        let known = SocketTuple { attribution: Some(Box::new(whose)), ..a_socket(1) };
        let elsewhere = SocketTuple { netns_inum: 4_026_532_179, ..a_socket(3) };
        let event = Event::new("e", Action::Terminate { max_victims: None });
        // Of the first one nothing is known but its netns, which others have named.
        let radius = Radius::new(&event, &[a_socket(2), known.clone(), known, elsewhere]);
        let expected = json!({
            "cgroup": {"-": 2, "/app": 2}, "netns": {"4026532179": 1, "blue": 3},
            "backend": {"udp://10.0.0.1:53": 4}, "command": {"-": 2, "curl": 2},
        });
        assert_eq!(serde_json::to_value(radius).unwrap(), expected);
    }

    #[test]
    fn says_what_is_not_allowed() {
        let not_allowed = |allow: serde_json::Value| {
            let allow = allow.as_array().unwrap().iter().map(|s| serde_json::from_value(s.clone()).unwrap());
            let action = Action::Policy { allow: allow.collect(), max_victims: None };
            reason(&Event::new("e", action), &a_socket(1))
        };
        assert_eq!(not_allowed(json!([{"protocol": "tcp"}])), "protocol");
        assert_eq!(not_allowed(json!([{"protocol": "tcp"}, {"to": ["10.1.0.0/16"]}])), "address");
        assert_eq!(
            not_allowed(json!([{"to": ["10.0.0.0/8"], "ports": ["80"]}, {"to": ["10.1.0.0/16"]}])),
            "port"
        );
        assert_eq!(not_allowed(json!([{"ports": ["80"]}])), "port");
    }
}
