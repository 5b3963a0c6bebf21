//! One line of input: an event, or a question about the service itself.

mod action;
mod fields;
#[cfg(feature = "schema")]
mod schema;
mod strict;

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::error::Category;

use crate::error::{Refusal, excerpt, type_of};
use crate::event::{Action, CONFIRM_AFTER_MAX_MS, Event, check_id};
use strict::{Strict, TWICE};

/// One request type.
struct Type {
    name: &'static str,
    kind: Kind,
    /// The fields it takes, in the order of messages.
    takes: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Kind {
    BackendDeleted,
    BackendsDeleted,
    BackendAdded,
    Reconcile,
    Terminate,
    Policy,
    Index,
    Status,
    Top,
    Audit,
}

/// The fields of a deletion, which names what is gone in the field `$gone`.
macro_rules! deletion {
    ($gone:literal) => {
        &[
            "id",
            "type",
            $gone,
            "where",
            "except",
            "dry_run",
            "netns",
            "confirm_after_ms",
            "action",
            "to",
            "spread",
            "force",
            "after_ms",
            "tcp",
            "else",
            "frontend",
            "unknown_frontend",
        ]
    };
}

/// These fields, and those that say what is done with the victims.
macro_rules! with_action {
    ($($field:literal),+) => {
        &[$($field,)+ "action", "to", "spread", "force", "after_ms", "tcp", "else"]
    };
}

/// Every request type, in the order of messages.
const TYPES: &[Type] = &[
    Type { name: "backend-deleted", kind: Kind::BackendDeleted, takes: deletion!("backend") },
    Type { name: "backends-deleted", kind: Kind::BackendsDeleted, takes: deletion!("backends") },
    Type {
        name: "reconcile",
        kind: Kind::Reconcile,
        takes: with_action!(
            "id",
            "type",
            "backends",
            "within",
            "where",
            "except",
            "max_victims",
            "dry_run",
            "confirm_after_ms"
        ),
    },
    Type {
        name: "terminate",
        kind: Kind::Terminate,
        takes: with_action!("id", "type", "where", "except", "max_victims", "dry_run"),
    },
    Type {
        name: "policy",
        kind: Kind::Policy,
        takes: with_action!("id", "type", "where", "except", "allow", "max_victims", "dry_run"),
    },
    Type { name: "backend-added", kind: Kind::BackendAdded, takes: &["id", "type", "backend", "netns"] },
    Type { name: "index", kind: Kind::Index, takes: &["id", "type"] },
    Type { name: "status", kind: Kind::Status, takes: &["id", "type"] },
    Type { name: "top", kind: Kind::Top, takes: &["id", "type"] },
    Type { name: "audit", kind: Kind::Audit, takes: &["id", "type"] },
];

/// What one line of input asks for. Serializes to the wire form that [`Request::parse`] reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Request {
    /// Something happened to a backend.
    Event(Event),
    /// How the index is doing: `{"id":"q1","type":"index"}`.
    Index {
        /// The sender's name for this question; the answer mirrors it.
        id: String,
    },
    /// How the service is doing: `{"id":"q1","type":"status"}`.
    Status {
        /// The sender's name for this question; the answer mirrors it.
        id: String,
    },
    /// Whether the index is right: `{"id":"q2","type":"audit"}`.
    Audit {
        /// The sender's name for this question; the answer mirrors it.
        id: String,
    },
    /// The status and the largest backends: `{"id":"q1","type":"top"}`.
    Top {
        /// The sender's name for this question; the answer mirrors it.
        id: String,
    },
}

impl Request {
    /// Reads one line: exactly one JSON object, without unknown or repeated fields. `line` is the
    /// line's number in its source, counted from 1, and is only used in the refusal. A line end
    /// may be included.
    ///
    /// # Errors
    /// A [`Refusal`] that names the line, the field at fault (unless it is the whole line), and
    /// the id of the request if there is exactly one valid one. Input never causes a panic.
    pub fn parse(line_bytes: &[u8], line: u64) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(line_bytes).map_err(|error| {
            let offset = error.valid_up_to();
            Refusal::new(line, format!("byte {offset} is not UTF-8; {EXAMPLE}"))
        })?;
        if text.trim_ascii().is_empty() {
            return Err(Refusal::new(line, format!("the line is empty; {EXAMPLE}")));
        }
        let Object(fields) = serde_json::from_str(text).map_err(|error| bad_json(line, &error))?;
        Reader::new(line, &fields).request()
    }

    /// The sender's name for this request.
    pub fn id(&self) -> &str {
        match self {
            Self::Event(event) => &event.id,
            Self::Index { id } | Self::Status { id } | Self::Top { id } | Self::Audit { id } => id,
        }
    }
}

impl From<Event> for Request {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (id, name) = match self {
            Self::Event(event) => return event.serialize(serializer),
            Self::Index { id } => (id, "index"),
            Self::Status { id } => (id, "status"),
            Self::Top { id } => (id, "top"),
            Self::Audit { id } => (id, "audit"),
        };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("type", name)?;
        map.end()
    }
}

const EXAMPLE: &str = "write one JSON object a line, such as \
    {\"id\":\"e1\",\"type\":\"backend-deleted\",\"backend\":\"udp://10.0.0.1:53\"}";

fn bad_json(line: u64, error: &serde_json::Error) -> Refusal {
    // serde_json counts lines within this one; ours is the number that means something.
    let text = error.to_string();
    let what = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
    if let Some(name) = what.strip_prefix(TWICE) {
        return Refusal::new(line, format!("field {name} is there twice; write it once"));
    }
    // The visitor takes any object, so a data error can only be another JSON type.
    if error.classify() == Category::Data {
        return Refusal::new(line, format!("this is not a JSON object; {EXAMPLE}"));
    }
    let column = error.column();
    Refusal::new(line, format!("this is not JSON: {what} at column {column}; {EXAMPLE}"))
}

/// A JSON object as it was written: fields in order, repeated ones included.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, Strict(value))) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// Reads a request out of an object's fields; every refusal it makes carries line, id and field.
struct Reader<'a> {
    line: u64,
    fields: &'a [(String, Value)],
    /// The id, if there is exactly one and it is valid.
    id: Option<&'a str>,
}

impl<'a> Reader<'a> {
    fn new(line: u64, fields: &'a [(String, Value)]) -> Self {
        let mut ids = fields.iter().filter(|(name, _)| name == "id");
        let id = match (ids.next(), ids.next()) {
            (Some((_, Value::String(id))), None) if check_id(id).is_ok() => Some(&**id),
            _ => None,
        };
        Self { line, fields, id }
    }

    fn request(&self) -> Result<Request, Refusal> {
        self.refuse_repeated()?;
        // The type first: it decides which fields there may be.
        let ty = self.known_type()?;
        self.refuse_fields_outside(ty)?;
        let id = self.string("id")?;
        check_id(id).map_err(|error| self.refuse("id", error.to_string()))?;
        let id = id.to_owned();

        let action = match ty.kind {
            Kind::Index => return Ok(Request::Index { id }),
            Kind::Status => return Ok(Request::Status { id }),
            Kind::Top => return Ok(Request::Top { id }),
            Kind::Audit => return Ok(Request::Audit { id }),
            Kind::BackendDeleted => Action::BackendDeleted { backend: self.backend("backend")? },
            Kind::BackendAdded => Action::BackendAdded { backend: self.backend("backend")? },
            Kind::BackendsDeleted => Action::BackendsDeleted { backends: self.backends("backends")? },
            Kind::Reconcile => Action::Reconcile {
                backends: self.backends("backends")?,
                within: self.networks("within")?,
                max_victims: self.number("max_victims")?,
            },
            Kind::Terminate => Action::Terminate { max_victims: self.number("max_victims")? },
            Kind::Policy => {
                Action::Policy { allow: self.allow("allow")?, max_victims: self.number("max_victims")? }
            }
        };
        let event = Event {
            dry_run: self.flag("dry_run")?,
            netns: self.path("netns")?,
            confirm_after_ms: self.milliseconds("confirm_after_ms", 0, CONFIRM_AFTER_MAX_MS)?,
            selector: self.selector("where")?,
            except: self.selector("except")?,
            victim_action: self.victim_action()?,
            through: self.through()?,
            ..Event::new(id, action)
        };
        event.check_selectors().map_err(|error| self.refuse(&error.field, error.message))?;
        event.check_links().map_err(|error| self.refuse(error.field(&event.action), error.to_string()))?;
        event.check_action().map_err(|error| self.refuse("to", error.to_string()))?;
        event.check_through().map_err(|error| self.refuse(error.field(), error.to_string()))?;
        Ok(Request::Event(event))
    }

    fn known_type(&self) -> Result<&'static Type, Refusal> {
        let given = self.string("type")?;
        TYPES.iter().find(|ty| ty.name == given).ok_or_else(|| {
            let known = TYPES.iter().map(|ty| ty.name).collect::<Vec<_>>();
            let message = format!("type {} is not known; write one of: {}", excerpt(given), known.join(", "));
            self.refuse("type", message)
        })
    }

    fn refuse_repeated(&self) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        match self.fields.iter().find(|(name, _)| !seen.insert(name)) {
            Some((name, _)) => {
                let message = format!("field {} is there twice; write it once", excerpt(name));
                Err(self.refuse(name, message))
            }
            None => Ok(()),
        }
    }

    fn refuse_fields_outside(&self, ty: &Type) -> Result<(), Refusal> {
        let takes = |ty: &Type, name: &str| ty.takes.contains(&name);
        let Some((name, _)) = self.fields.iter().find(|(name, _)| !takes(ty, name)) else {
            return Ok(());
        };
        let what = if TYPES.iter().any(|other| takes(other, name)) {
            "is not for this type"
        } else {
            "is not known"
        };
        let message = format!("field {} {what}; {:?} takes: {}", excerpt(name), ty.name, ty.takes.join(", "));
        Err(self.refuse(name, message))
    }

    fn refuse(&self, field: &str, message: impl Into<String>) -> Refusal {
        let refusal = Refusal::new(self.line, message).with_field(field);
        match self.id {
            Some(id) => refusal.with_id(id),
            None => refusal,
        }
    }
}

#[cfg(test)]
mod selector_tests;
#[cfg(test)]
mod tests;
