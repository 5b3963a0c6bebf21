//! Something that happened to a backend.

use serde::{Deserialize, Serialize};

use crate::backend::Backend;

/// Longest accepted event or request id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 256;

/// One event. Serializes to its wire form, one JSON object:
/// `{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":true}`.
///
/// Events are read with [`Request::parse`](crate::Request::parse) only, which refuses what it
/// does not know; that is why this type is not `Deserialize`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Event {
    /// The sender's name for this event; the report mirrors it. See [`check_id`].
    pub id: String,
    /// What happened.
    #[serde(flatten)]
    pub action: Action,
    /// Report what would be destroyed, destroy nothing. Left out of the wire form when false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What happened. A new kind is one variant here, and one row and one arm in `request.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// The backend is gone: nobody answers at this address and port any more.
    BackendDeleted {
        /// The backend that is gone.
        backend: Backend,
    },
    /// Several backends are gone, all in one event with one report.
    BackendsDeleted {
        /// The backends that are gone: 1 to [`MAX_BACKENDS`](crate::MAX_BACKENDS). Naming one twice is the same as once.
        backends: Vec<Backend>,
    },
    /// These backends live: everything else that the index has sockets of is gone. For a sender that has lost
    /// events.
    Reconcile {
        /// The backends that live: 1 to [`MAX_BACKENDS`](crate::MAX_BACKENDS).
        backends: Vec<Backend>,
    },
}

impl Action {
    /// The `type` on the wire, such as `backend-deleted`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BackendDeleted { .. } => "backend-deleted",
            Self::BackendsDeleted { .. } => "backends-deleted",
            Self::Reconcile { .. } => "reconcile",
        }
    }

    /// The backends that this action names as gone; none for a reconcile, which names those that live.
    pub fn gone(&self) -> &[Backend] {
        match self {
            Self::BackendDeleted { backend } => std::slice::from_ref(backend),
            Self::BackendsDeleted { backends } => backends,
            Self::Reconcile { .. } => &[],
        }
    }
}

/// Checks an event or request id: 1 to [`MAX_ID_BYTES`] bytes, no control characters, so that it
/// is safe in a log line.
///
/// # Errors
/// [`IdError`] says which of these does not hold.
pub fn check_id(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { bytes: id.len() });
    }
    match id.char_indices().find(|(_, c)| c.is_control()) {
        Some((offset, _)) => Err(IdError::Control { offset }),
        None => Ok(()),
    }
}

/// Why a string is not an id, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The id is empty.
    #[error("the id is empty; write any text that names this request, such as \"e1\"")]
    Empty,
    /// The id is longer than [`MAX_ID_BYTES`].
    #[error("the id has {bytes} bytes; write at most {MAX_ID_BYTES}")]
    TooLong {
        /// Length in bytes of UTF-8.
        bytes: usize,
    },
    /// The id contains a control character.
    #[error("the id has a control character at byte {offset}; write printable text only")]
    Control {
        /// Offset of the first one, in bytes of UTF-8.
        offset: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(dry_run: bool) -> Event {
        Event {
            id: "e1".to_owned(),
            action: Action::BackendDeleted { backend: "udp://10.0.0.1:53".parse().unwrap() },
            dry_run,
        }
    }

    #[test]
    fn wire_form() {
        assert_eq!(
            serde_json::to_string(&event(true)).unwrap(),
            r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":true}"#
        );
        assert_eq!(
            serde_json::to_string(&event(false)).unwrap(),
            r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53"}"#
        );
    }

    #[test]
    fn name_is_the_wire_type() {
        let action = event(false).action;
        let json = serde_json::to_value(&action).unwrap();
        assert_eq!(json["type"], action.name());
        assert_eq!(action.gone().len(), 1);
        assert_eq!(action.gone()[0].to_string(), "udp://10.0.0.1:53");
        for action in [
            Action::BackendsDeleted { backends: action.gone().to_vec() },
            Action::Reconcile { backends: action.gone().to_vec() },
        ] {
            let json = serde_json::to_value(&action).unwrap();
            assert_eq!(json["type"], action.name());
            assert_eq!(json["backends"], serde_json::json!(["udp://10.0.0.1:53"]));
        }
    }

    #[test]
    fn ids() {
        assert_eq!(check_id("e1"), Ok(()));
        assert_eq!(check_id("ä \"quoted\""), Ok(()));
        assert_eq!(check_id(&"x".repeat(256)), Ok(()));
        assert_eq!(check_id(&"x".repeat(257)), Err(IdError::TooLong { bytes: 257 }));
        assert_eq!(check_id(&"é".repeat(129)), Err(IdError::TooLong { bytes: 258 }));
        assert_eq!(check_id(""), Err(IdError::Empty));
        assert_eq!(check_id("ab\n"), Err(IdError::Control { offset: 2 }));
        assert_eq!(check_id("\u{7f}"), Err(IdError::Control { offset: 0 }));
        assert_eq!(check_id("a\u{85}"), Err(IdError::Control { offset: 1 }));
    }
}
