//! One line of input: an event, or a question about the service itself.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::error::Category;

use crate::backend::{Backend, BackendError};
use crate::error::{Refusal, excerpt};
use crate::event::{Action, Event, check_id};
use crate::limits::MAX_BACKENDS;

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
    Reconcile,
    Index,
    Status,
    Top,
    Audit,
}

/// Every request type, in the order of messages.
const TYPES: &[Type] = &[
    Type {
        name: "backend-deleted",
        kind: Kind::BackendDeleted,
        takes: &["id", "type", "backend", "dry_run"],
    },
    Type {
        name: "backends-deleted",
        kind: Kind::BackendsDeleted,
        takes: &["id", "type", "backends", "dry_run"],
    },
    Type { name: "reconcile", kind: Kind::Reconcile, takes: &["id", "type", "backends", "dry_run"] },
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

const LIST_EXAMPLE: &str =
    "write an array of backends, such as [\"udp://10.0.0.1:53\",\"tcp://10.0.0.1:80\"]";

fn bad_json(line: u64, error: &serde_json::Error) -> Refusal {
    // The visitor takes any object, so a data error can only be another JSON type.
    if error.classify() == Category::Data {
        return Refusal::new(line, format!("this is not a JSON object; {EXAMPLE}"));
    }
    // serde_json counts lines within this one; ours is the number that means something.
    let text = error.to_string();
    let what = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
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
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
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
            Kind::BackendsDeleted => Action::BackendsDeleted { backends: self.backends("backends")? },
            Kind::Reconcile => Action::Reconcile { backends: self.backends("backends")? },
        };
        Ok(Request::Event(Event { id, action, dry_run: self.flag("dry_run")? }))
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

    fn get(&self, field: &str) -> Option<&'a Value> {
        let mut fields = self.fields.iter();
        fields.find(|(name, _)| name == field).map(|(_, value)| value)
    }

    /// A required string.
    fn string(&self, field: &str) -> Result<&'a str, Refusal> {
        match self.get(field) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                let message = format!("{field:?} is {}; write a string", type_of(other));
                Err(self.refuse(field, message))
            }
            None => Err(self.refuse(field, format!("{field:?} is missing; {EXAMPLE}"))),
        }
    }

    /// A required backend.
    fn backend(&self, field: &str) -> Result<Backend, Refusal> {
        let parsed = self.string(field)?.parse::<Backend>();
        parsed.map_err(|error| self.refuse(field, error.to_string()))
    }

    /// A required list of backends.
    fn backends(&self, field: &str) -> Result<Vec<Backend>, Refusal> {
        let list = match self.get(field) {
            Some(Value::Array(list)) => list,
            Some(other) => {
                let message = format!("{field:?} is {}; write an array of strings", type_of(other));
                return Err(self.refuse(field, message));
            }
            None => return Err(self.refuse(field, format!("{field:?} is missing; {LIST_EXAMPLE}"))),
        };
        // An empty list of living backends would make an end of every socket there is: surely a mistake.
        if list.is_empty() {
            return Err(self.refuse(field, format!("{field:?} is empty; {LIST_EXAMPLE}")));
        }
        if list.len() > MAX_BACKENDS {
            let message = format!("{field:?} has {} entries; write at most {MAX_BACKENDS}", list.len());
            return Err(self.refuse(field, message));
        }
        let refuse = |i: usize, message: String| self.refuse(&format!("{field}[{i}]"), message);
        list.iter()
            .enumerate()
            .map(|(i, entry)| match entry {
                Value::String(text) => text.parse().map_err(|e: BackendError| refuse(i, e.to_string())),
                other => Err(refuse(i, format!("it is {}; write a string", type_of(other)))),
            })
            .collect()
    }

    /// An optional boolean, false when it is not there.
    fn flag(&self, field: &str) -> Result<bool, Refusal> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                let message = format!("{field:?} is {}; write true or false", type_of(other));
                Err(self.refuse(field, message))
            }
        }
    }

    fn refuse(&self, field: &str, message: impl Into<String>) -> Refusal {
        let refusal = Refusal::new(self.line, message).with_field(field);
        match self.id {
            Some(id) => refusal.with_id(id),
            None => refusal,
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    fn refusal(line: &str) -> (Option<String>, Option<String>, String) {
        let refusal = Request::parse(line.as_bytes(), 9).unwrap_err();
        assert_eq!(refusal.line, 9);
        (refusal.id, refusal.field, refusal.message)
    }

    /// Asserts id, field and how the message begins.
    fn refused(line: &str, id: Option<&str>, field: Option<&str>, message: &str) {
        let got = refusal(line);
        assert_eq!(got.0.as_deref(), id, "id of {line}");
        assert_eq!(got.1.as_deref(), field, "field of {line}");
        assert!(got.2.starts_with(message), "{line}: {}", got.2);
    }

    #[test]
    fn reads_events() {
        let read = |line: &str| Request::parse(line.as_bytes(), 1).unwrap();
        let event = |dry_run| {
            Request::Event(Event {
                id: "e1".to_owned(),
                action: Action::BackendDeleted { backend: "udp://10.0.0.1:53".parse().unwrap() },
                dry_run,
            })
        };
        let line = r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53""#;
        assert_eq!(read(&format!("{line}}}\r\n")), event(false));
        assert_eq!(read(&format!("{line},\"dry_run\":false}}")), event(false));
        assert_eq!(read(&format!("{line},\"dry_run\":true}}")), event(true));
        assert_eq!(read(r#"{"type":"index","id":"q\u0031"}"#), Request::Index { id: "q1".to_owned() });
        assert_eq!(read(r#"{"type":"audit","id":"q2"}"#), Request::Audit { id: "q2".to_owned() });
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        refused("", None, None, "the line is empty; write one JSON");
        refused(" \r\n", None, None, "the line is empty;");
        for line in ["null", "true", "3", "\"x\"", "[1]", "[]"] {
            refused(line, None, None, "this is not a JSON object;");
        }
        refused("{} {}", None, None, "this is not JSON: trailing characters at column 4; write");
        refused("{\"id\":", None, None, "this is not JSON: EOF while");
        refused("{id:1}", None, None, "this is not JSON: key must be a");
        refused("\u{feff}{}", None, None, "this is not JSON: expected");
        refused("\0\u{1}\u{2}", None, None, "this is not JSON: expected");
        let deep = format!("{{\"id\":{}", "[".repeat(100_000));
        refused(&deep, None, None, "this is not JSON: recursion limit");
        let refusal = Request::parse(b"{\"id\":\"\xff\"}", 1).unwrap_err();
        assert_eq!(refusal.field, None);
        assert!(refusal.message.starts_with("byte 7 is not UTF-8;"));
    }

    #[test]
    fn refuses_fields() {
        refused("{}", None, Some("type"), "\"type\" is missing;");
        refused(
            r#"{"id":"e1","type":"backend-added"}"#,
            Some("e1"),
            Some("type"),
            "type \"backend-added\" is not known; write one of: backend-deleted, backends-deleted, reconcile, index, \
             status, top, audit",
        );
        refused(
            r#"{"id":"e1","type":"backend-deleted","bakend":"udp://10.0.0.1:53"}"#,
            Some("e1"),
            Some("bakend"),
            "field \"bakend\" is not known; \"backend-deleted\" takes: id, type, backend, dry_run",
        );
        refused(
            r#"{"id":"q1","type":"index","backend":"udp://10.0.0.1:53"}"#,
            Some("q1"),
            Some("backend"),
            "field \"backend\" is not for this type; \"index\" takes: id, type",
        );
        refused(
            r#"{"id":"e1","type":"backend-deleted"}"#,
            Some("e1"),
            Some("backend"),
            "\"backend\" is missing;",
        );
        refused(
            r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:0"}"#,
            Some("e1"),
            Some("backend"),
            "port 0 would match",
        );
        refused(
            r#"{"id":"e1","type":"backend-deleted","backend":["udp://10.0.0.1:53"]}"#,
            Some("e1"),
            Some("backend"),
            "\"backend\" is an array; write a string",
        );
        for value in ["null", "0", "\"true\"", "{}"] {
            refused(
                &format!(
                    r#"{{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":{value}}}"#
                ),
                Some("e1"),
                Some("dry_run"),
                "\"dry_run\" is ",
            );
        }
    }

    #[test]
    fn reads_lists() {
        let backends = vec!["udp://10.0.0.1:53".parse().unwrap(), "tcp://[fd00::1]:80".parse().unwrap()];
        let list = r#""backends":["udp://10.0.0.1:53","tcp://[fd00::1]:80"]"#;
        for (name, action) in [
            ("backends-deleted", Action::BackendsDeleted { backends: backends.clone() }),
            ("reconcile", Action::Reconcile { backends }),
        ] {
            let line = format!(r#"{{"id":"e1","type":"{name}",{list},"dry_run":true}}"#);
            let event = Event { id: "e1".to_owned(), action, dry_run: true };
            assert_eq!(Request::parse(line.as_bytes(), 1), Ok(Request::Event(event)));
        }
    }

    #[test]
    fn refuses_lists() {
        for name in ["backends-deleted", "reconcile"] {
            let line = |rest: &str| format!(r#"{{"id":"e1","type":"{name}"{rest}}}"#);
            let bad = |rest: &str, field: &str, message: &str| {
                refused(&line(rest), Some("e1"), Some(field), message);
            };
            bad("", "backends", "\"backends\" is missing; write an array of backends,");
            bad(r#","backends":[]"#, "backends", "\"backends\" is empty;");
            bad(r#","backends":"udp://10.0.0.1:53""#, "backends", "\"backends\" is a string; write an array");
            bad(r#","backends":["udp://10.0.0.1:53",7]"#, "backends[1]", "it is a number; write a string");
            bad(r#","backends":["udp://10.0.0.1:0"]"#, "backends[0]", "port 0 would match");
            bad(r#","backend":"udp://10.0.0.1:53""#, "backend", "field \"backend\" is not for this type;");
            let many = |n| vec!["\"udp://10.0.0.1:53\""; n].join(",");
            bad(
                &format!(r#","backends":[{}]"#, many(MAX_BACKENDS + 1)),
                "backends",
                "\"backends\" has 16385 entries; write at most 16384",
            );
            let most = line(&format!(r#","backends":[{}]"#, many(MAX_BACKENDS)));
            assert!(Request::parse(most.as_bytes(), 1).is_ok());
        }
    }

    /// The longest spelling of a backend that a request is written with, as often as it may be there.
    #[test]
    fn the_longest_list_fits_in_one_mebibyte() {
        let longest: Backend = "tcp://[1111:2222:3333:4444:5555:6666:7777:8888]:55555".parse().unwrap();
        let event = Event {
            id: "\u{10ffff}".repeat(64),
            action: Action::BackendsDeleted { backends: vec![longest; MAX_BACKENDS] },
            dry_run: true,
        };
        assert!(serde_json::to_vec(&event).unwrap().len() <= 1 << 20);
    }

    #[test]
    fn refuses_ids() {
        refused(r#"{"type":"index"}"#, None, Some("id"), "\"id\" is missing");
        refused(r#"{"id":1,"type":"index"}"#, None, Some("id"), "\"id\" is a number; write a string");
        refused(r#"{"id":"","type":"index"}"#, None, Some("id"), "the id is empty;");
        refused(
            r#"{"id":"a\u0000","type":"index"}"#,
            None,
            Some("id"),
            "the id has a control character at byte 1;",
        );
        let long = "x".repeat(257);
        refused(
            &format!(r#"{{"id":"{long}","type":"index"}}"#),
            None,
            Some("id"),
            "the id has 257 bytes; write at most 256",
        );
    }

    #[test]
    fn refuses_repeated_fields() {
        refused(
            r#"{"id":"a","type":"index","id":"b"}"#,
            None,
            Some("id"),
            "field \"id\" is there twice; write it once",
        );
        refused(
            r#"{"id":"a","type":"index","type":"index"}"#,
            Some("a"),
            Some("type"),
            "field \"type\" is there twice;",
        );
        // Escapes spell the same name.
        refused(
            r#"{"id":"a","x":1,"\u0078":2,"type":"index"}"#,
            Some("a"),
            Some("x"),
            "field \"x\" is there twice;",
        );
    }

    #[test]
    fn refusals_stay_short_for_long_input() {
        let name = "y".repeat(100_000);
        let refusal =
            Request::parse(format!(r#"{{"id":"a","type":"index","{name}":1}}"#).as_bytes(), 1).unwrap_err();
        assert!(refusal.to_string().len() < 300);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            Just("id".to_owned()),
            Just("type".to_owned()),
            Just("backend".to_owned()),
            Just("backends".to_owned()),
            Just("dry_run".to_owned()),
            any::<String>(),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(Value::from("index")),
            Just(Value::from("status")),
            Just(Value::from("top")),
            Just(Value::from("backend-deleted")),
            Just(Value::from("backends-deleted")),
            Just(Value::from("reconcile")),
            Just(Value::from("udp://10.0.0.1:53")),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn round_trip(request in strategies::request(), line in any::<u64>()) {
            let json = serde_json::to_vec(&request).unwrap();
            prop_assert_eq!(Request::parse(&json, line), Ok(request));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>(), line in any::<u64>()) {
            if let Err(refusal) = Request::parse(&bytes, line) {
                prop_assert_eq!(refusal.line, line);
            }
        }

        #[test]
        fn arbitrary_json_never_panics_and_refusals_name_the_field(json in any_json()) {
            match Request::parse(json.to_string().as_bytes(), 1) {
                Ok(request) => {
                    // Exactly what was written, apart from a spelled-out default.
                    let mut written = json;
                    if written["dry_run"] == Value::Bool(false) {
                        written.as_object_mut().unwrap().remove("dry_run");
                    }
                    prop_assert_eq!(serde_json::to_value(request).unwrap(), written);
                }
                Err(refusal) => prop_assert_eq!(refusal.field.is_some(), json.is_object()),
            }
        }

        /// Damage to a good line is read as another request or refused, never a panic.
        #[test]
        fn damaged_lines_never_panic(
            request in strategies::request(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut json = serde_json::to_vec(&request).unwrap();
            let at = at.index(json.len());
            json[at] = byte;
            let _ = Request::parse(&json, 1);
            let _ = Request::parse(&json[..at], 1);
        }
    }
}
