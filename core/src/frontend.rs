//! Frontends: the addresses that clients named, before a load balancer translated them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::backend::{Backend, BackendError};
use crate::text::{names, serde_as_text};

/// Most frontends that one event may name.
pub const MAX_FRONTENDS: usize = 1024;

/// The name of [`Frontend::Direct`].
const DIRECT: &str = "direct";

/// The way on which a socket came to its backend: the address that its owner passed to `connect()`
/// or `sendmsg()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// The owner named the backend itself; nothing was translated.
    Direct,
    /// The owner named this address, and a load balancer translated it to the backend.
    Address(Backend),
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.pad(DIRECT),
            Self::Address(address) => f.pad(&address.to_string()),
        }
    }
}

impl FromStr for Frontend {
    type Err = FrontendError;

    fn from_str(text: &str) -> Result<Self, FrontendError> {
        if text == DIRECT {
            return Ok(Self::Direct);
        }
        let address: Backend = text.parse().map_err(FrontendError::Address)?;
        if address.is_link_local() {
            return Err(FrontendError::LinkLocal(address));
        }
        Ok(Self::Address(address))
    }
}

serde_as_text!(Frontend);

/// Why a text is not a frontend, or does not fit its event, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrontendError {
    /// Neither `direct` nor an address.
    #[error("{0}; or write \"direct\", for clients that named the backend itself")]
    Address(BackendError),
    /// No load balancer serves it for the whole machine.
    #[error("{0} is link-local, and a frontend is matched in every network namespace; leave it out")]
    LinkLocal(Backend),
    /// No backend of the event has its protocol.
    #[error("{0} has another protocol than every backend of this event; write the address that clients name")]
    Protocol(Backend),
    /// A policy for unknown frontends, where all clients are meant.
    #[error("\"unknown_frontend\" is for events with a \"frontend\" only; leave it out, or add the frontend")]
    NoFrontend,
    /// More than [`MAX_FRONTENDS`].
    #[error("{0} frontends; write at most {MAX_FRONTENDS}")]
    TooMany(usize),
    /// Not a kind of event that frontends restrict.
    #[error("{0:?} takes no \"frontend\"; leave it out")]
    NotHere(&'static str),
}

impl FrontendError {
    /// The field of an event that is at fault.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::NoFrontend => "unknown_frontend",
            _ => "frontend",
        }
    }
}

/// Policy for sockets of which it is not known which frontend they came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum UnknownFrontend {
    /// Leave them alone, and report how many there are.
    #[default]
    Preserve,
    /// Destroy them as if they had come through a frontend of the event.
    Destroy,
}

names!(UnknownFrontend, "a policy for unknown frontends", Preserve => "preserve", Destroy => "destroy");

impl UnknownFrontend {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Restricts an event to the clients that came through certain frontends. The default restricts
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Through {
    /// The frontends; all clients if there are none. Written as one string if it is one.
    #[serde(rename = "frontend", skip_serializing_if = "Vec::is_empty", serialize_with = "one_or_list")]
    pub frontends: Vec<Frontend>,
    /// What is done with sockets whose frontend is not known.
    #[serde(rename = "unknown_frontend", skip_serializing_if = "UnknownFrontend::is_default")]
    pub unknown: UnknownFrontend,
}

impl Through {
    /// True if every client is meant, however it came.
    pub const fn is_any(&self) -> bool {
        self.frontends.is_empty()
    }

    /// Checks that the restriction makes sense for an action of this name, which says that these backends are gone.
    ///
    /// # Errors
    /// [`FrontendError`] says what does not fit.
    pub fn check(&self, action: &'static str, gone: &[Backend]) -> Result<(), FrontendError> {
        if self.is_any() {
            return if self.unknown.is_default() { Ok(()) } else { Err(FrontendError::NoFrontend) };
        }
        if self.frontends.len() > MAX_FRONTENDS {
            return Err(FrontendError::TooMany(self.frontends.len()));
        }
        if gone.is_empty() {
            return Err(FrontendError::NotHere(action));
        }
        for frontend in &self.frontends {
            let Frontend::Address(address) = frontend else {
                continue;
            };
            if address.is_link_local() {
                return Err(FrontendError::LinkLocal(*address));
            }
            if gone.iter().all(|backend| backend.protocol() != address.protocol()) {
                return Err(FrontendError::Protocol(*address));
            }
        }
        Ok(())
    }
}

fn one_or_list<S: Serializer>(frontends: &[Frontend], serializer: S) -> Result<S::Ok, S::Error> {
    match frontends {
        [one] => one.serialize(serializer),
        list => list.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Event};

    fn frontend(text: &str) -> Frontend {
        text.parse().unwrap()
    }

    #[test]
    fn is_read_as_it_is_written() {
        for text in ["direct", "udp://10.96.0.10:53", "tcp://[fd00::1]:80"] {
            assert_eq!(frontend(text).to_string(), text);
            let json = serde_json::to_string(&frontend(text)).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Frontend>(&json).unwrap(), frontend(text));
        }
        assert_eq!(frontend("udp://[::ffff:10.96.0.10]:53"), frontend("udp://10.96.0.10:53"));
        let refused = |text: &str| text.parse::<Frontend>().unwrap_err();
        assert!(
            refused("Direct")
                .to_string()
                .ends_with("or write \"direct\", for clients that named the backend itself")
        );
        assert!(matches!(refused("udp://0.0.0.0:53"), FrontendError::Address(BackendError::Unspecified(_))));
        assert!(matches!(refused("udp://[fe80::1]:53"), FrontendError::LinkLocal(_)));
        assert!(matches!(refused("udp://[fe80::1%eth0]:53"), FrontendError::LinkLocal(_)));
    }

    #[test]
    fn policy_names() {
        for policy in UnknownFrontend::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{policy}\""));
        }
        assert!("keep".parse::<UnknownFrontend>().is_err());
    }

    #[test]
    fn a_restriction_fits_its_event() {
        let backends = || vec!["udp://10.0.0.1:53".parse().unwrap(), "tcp://10.0.0.1:53".parse().unwrap()];
        let one = Action::BackendDeleted { backend: "udp://10.0.0.1:53".parse().unwrap() };
        let both = Action::BackendsDeleted { backends: backends() };
        let living = Action::Reconcile { backends: backends(), within: Vec::new(), max_victims: None };
        let through = |frontends: &[&str], unknown| Through {
            frontends: frontends.iter().map(|text| frontend(text)).collect(),
            unknown,
        };
        let (preserve, destroy) = (UnknownFrontend::Preserve, UnknownFrontend::Destroy);
        let tcp = || "tcp://10.96.0.10:53".parse().unwrap();
        for (frontends, unknown, action, expected) in [
            (&[][..], preserve, &one, Ok(())),
            (&[], preserve, &living, Ok(())),
            (&["direct"], destroy, &one, Ok(())),
            (&["udp://10.96.0.10:53", "direct"], preserve, &one, Ok(())),
            (&["tcp://10.96.0.10:53"], preserve, &both, Ok(())),
            (&["tcp://10.96.0.10:53"], preserve, &one, Err(FrontendError::Protocol(tcp()))),
            (&["direct"], preserve, &living, Err(FrontendError::NotHere("reconcile"))),
            (&[], destroy, &one, Err(FrontendError::NoFrontend)),
        ] {
            assert_eq!(
                through(frontends, unknown).check(action.name(), action.gone()),
                expected,
                "{frontends:?}"
            );
        }
        let many = Through { frontends: vec![Frontend::Direct; MAX_FRONTENDS + 1], unknown: preserve };
        assert_eq!(many.check(one.name(), one.gone()), Err(FrontendError::TooMany(1025)));
        assert_eq!(
            (FrontendError::NoFrontend.field(), FrontendError::TooMany(1).field()),
            ("unknown_frontend", "frontend")
        );
    }

    #[test]
    fn wire_form() {
        let backend = "udp://10.0.0.1:53".parse().unwrap();
        let event = |frontends: &[&str], unknown| Event {
            through: Through { frontends: frontends.iter().map(|text| frontend(text)).collect(), unknown },
            ..Event::new("e1", Action::BackendDeleted { backend })
        };
        let head = r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53""#;
        for (frontends, unknown, tail) in [
            (&[][..], UnknownFrontend::Preserve, "}"),
            (&["direct"], UnknownFrontend::Preserve, r#","frontend":"direct"}"#),
            (
                &["direct", "udp://10.96.0.10:53"],
                UnknownFrontend::Destroy,
                r#","frontend":["direct","udp://10.96.0.10:53"],"unknown_frontend":"destroy"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event(frontends, unknown)).unwrap(), format!("{head}{tail}"));
        }
    }
}
