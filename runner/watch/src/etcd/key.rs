//! Keys and values.

use serde::{Deserialize, Serialize};
use skreap_core::{Backend, BackendError};

use crate::state::{Action, Conditions, Kind, Member, Name, Object, Service, Slice};

/// The keys below a prefix, which always ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

/// Why a key stands for no backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not of the form.
    #[error("it is not of the form PREFIX/udp/10.0.0.1:53")]
    Form,
    /// No backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// One link of many.
    #[error("a link-local address says nothing without its link")]
    LinkLocal,
}

impl Keys {
    /// The keys below this prefix, with or without a slash at its end.
    pub fn below(prefix: &str) -> Self {
        Self { prefix: format!("{}/", prefix.trim_end_matches('/')) }
    }

    /// The first possible key.
    pub fn first(&self) -> &str {
        &self.prefix
    }

    /// The key behind the last possible one: the slash at the end becomes the character after it.
    pub fn end(&self) -> String {
        format!("{}0", &self.prefix[..self.prefix.len() - 1])
    }

    /// The key of a backend.
    pub fn of(&self, backend: Backend) -> String {
        format!("{}{}/{}", self.prefix, backend.protocol(), backend.socket_addr())
    }

    /// The backend of a key.
    ///
    /// # Errors
    /// When it has another form; the message says which part is wrong.
    pub fn backend(&self, key: &str) -> Result<Backend, KeyError> {
        let rest = key.strip_prefix(&self.prefix).ok_or(KeyError::Form)?;
        let (protocol, address) = rest.split_once('/').ok_or(KeyError::Form)?;
        let backend: Backend = format!("{protocol}://{address}").parse()?;
        if backend.is_link_local() { Err(KeyError::LinkLocal) } else { Ok(backend) }
    }
}

/// What a value may say, as a JSON object; an empty value says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Clients that have named one of these are concerned when the key is deleted, and no others; all clients of the
    /// backend if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frontends: Vec<Backend>,
    /// What is done to their sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// Why a value cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; write nothing, or an object such as {{\"frontends\":[\"udp://10.96.0.10:53\"],\"action\":\"destroy\"}}"
)]
pub struct ValueError(String);

impl Value {
    /// Reads a value.
    fn read(bytes: &[u8]) -> Result<(Vec<Backend>, Option<Action>), ValueError> {
        if bytes.is_empty() {
            return Ok((Vec::new(), None));
        }
        // A list would be read as the fields in their order.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(ValueError("it is not a JSON object".to_owned()));
        }
        let value: Self = serde_json::from_slice(bytes).map_err(|e| ValueError(e.to_string()))?;
        let action = value.action.map(|name| name.parse()).transpose();
        Ok((value.frontends, action.map_err(|e: crate::state::UnknownAction| ValueError(e.to_string()))?))
    }
}

/// A key as a slice of one backend, and what its value says as a Service of the same name. A value that cannot be
/// understood may have meant to spare somebody, so nothing is done when its key is deleted.
pub(super) fn objects(
    name: &Name,
    backend: Backend,
    created: i64,
    value: &[u8],
) -> (Slice, Option<Service>, Option<ValueError>) {
    let member = Member {
        backend,
        port: "".into(),
        conditions: Conditions::default(),
        instance: Some(created.to_string().into()),
    };
    let slice = Slice { service: Some(name.clone()), members: vec![member] };
    match Value::read(value) {
        Ok((frontends, None)) if frontends.is_empty() => (slice, None, None),
        Ok((frontends, action)) => {
            let only_its_clients = !frontends.is_empty();
            let frontends = [("".into(), frontends)].into();
            (slice, Some(Service { frontends, action, only_its_clients }), None)
        }
        Err(e) => (slice, Some(Service { action: Some(Action::None), ..Service::default() }), Some(e)),
    }
}

/// Which kinds of objects a key stands for, in the order in which a deletion is reported.
pub(super) const KINDS: [Kind; 2] = [Kind::Slices, Kind::Services];

/// An object of either kind.
pub(super) fn each(slice: Slice, service: Option<Service>) -> impl Iterator<Item = Object> {
    service.map(Object::Service).into_iter().chain([Object::Slice(slice)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

    use super::*;

    #[test]
    fn keys_and_backends() {
        let keys = Keys::below("/skreap");
        assert_eq!(keys, Keys::below("/skreap/"));
        assert_eq!((keys.first(), &*keys.end()), ("/skreap/", "/skreap0"));
        for text in ["udp://10.0.0.1:53", "tcp://[fd00::1]:80"] {
            let backend: Backend = text.parse().unwrap();
            assert_eq!(keys.backend(&keys.of(backend)), Ok(backend));
        }
        assert_eq!(keys.of("udp://10.0.0.1:53".parse().unwrap()), "/skreap/udp/10.0.0.1:53");
        for key in ["/other/udp/10.0.0.1:53", "/skreap/10.0.0.1:53", "/skreap/", "/skreap2/udp/10.0.0.1:53"] {
            assert_eq!(keys.backend(key), Err(KeyError::Form), "{key}");
        }
        assert_eq!(keys.backend("/skreap/udp/[fe80::1]:53"), Err(KeyError::LinkLocal));
        for key in ["sctp/10.0.0.1:53", "udp/10.0.0.1", "udp/name:53", "udp/10.0.0.1:0", "udp/10.0.0.1:53/x"]
        {
            let wrong = keys.backend(&format!("/skreap/{key}"));
            assert!(matches!(wrong, Err(KeyError::Backend(_))), "{key}: {wrong:?}");
        }
    }

    #[test]
    fn values() {
        let backend: Backend = "udp://10.0.0.1:53".parse().unwrap();
        let of = |value: &str| {
            let (slice, service, error) = objects(&"k".into(), backend, 7, value.as_bytes());
            assert_eq!(slice.members.len(), 1);
            assert_eq!(slice.members[0].instance.as_deref(), Some("7"));
            (service, error.is_some())
        };
        assert_eq!(of(""), (None, false));
        assert_eq!(of("{}"), (None, false));
        let (service, _) = of(r#"{"frontends":["udp://10.96.0.10:53"],"action":"revive"}"#);
        let service = service.unwrap();
        assert_eq!((service.action, service.only_its_clients), (Some(Action::Revive), true));
        assert_eq!(service.frontends[""], ["udp://10.96.0.10:53".parse().unwrap()]);
        let (service, _) = of(r#"{"action":"none"}"#);
        assert_eq!(service.map(|s| (s.action, s.only_its_clients)), Some((Some(Action::None), false)));
        let unclear = Service { action: Some(Action::None), ..Service::default() };
        for value in
            ["up", "{", "[]", r#"{"frontend":"x"}"#, r#"{"action":"Destroy"}"#, r#"{"frontends":["x"]}"#]
        {
            assert_eq!(of(value), (Some(unclear.clone()), true), "{value}");
        }
    }
}
