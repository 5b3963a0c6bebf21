//! Errors that go back to the author of the input.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limits::MAX_BACKENDS;

/// Maximum number of characters of the input that a message repeats.
const EXCERPT_CHARS: usize = 64;

/// A line that is not a request: its number, the field at fault, and the expected input.
///
/// On the wire, one JSON object: `{"error":{"line":3,"field":"backend","message":"…"},"id":"…"}`.
/// `id` is left out when the line had no usable one, `field` is null when the refusal concerns the
/// whole line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Wire", from = "Wire")]
#[non_exhaustive]
pub struct Refusal {
    /// Line number in its source, counted from 1.
    pub line: u64,
    /// Id of the refused request, if it could be read and is valid.
    pub id: Option<String>,
    /// The field at fault, or `None` for the whole line. Cut after 64 characters.
    pub field: Option<String>,
    /// The defect, and the expected input.
    pub message: String,
}

impl Refusal {
    /// A refusal of the whole line.
    pub fn new(line: u64, message: impl Into<String>) -> Self {
        Self { line, id: None, field: None, message: message.into() }
    }

    /// The line was longer than `limit_bytes` and was therefore not read.
    pub fn line_too_long(line: u64, limit_bytes: usize) -> Self {
        let message = format!(
            "the line is longer than {limit_bytes} bytes; write one request a line, with at most \
             {MAX_BACKENDS} backends"
        );
        Self::new(line, message)
    }

    /// The same refusal, naming the field at fault.
    #[must_use]
    pub fn with_field(mut self, field: &str) -> Self {
        self.field = Some(cut(field));
        self
    }

    /// The JSON Schema of its shape on the wire.
    #[cfg(feature = "schema")]
    pub(crate) fn wire_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        <Wire as schemars::JsonSchema>::json_schema(generator)
    }

    /// The same refusal, naming the request.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(id) = &self.id {
            write!(f, ", id {id:?}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ", field {field:?}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Refusal {}

/// The shape of a [`Refusal`] on the wire.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct Wire {
    error: WireError,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct WireError {
    line: u64,
    field: Option<String>,
    message: String,
}

impl From<Refusal> for Wire {
    fn from(refusal: Refusal) -> Self {
        Self {
            error: WireError { line: refusal.line, field: refusal.field, message: refusal.message },
            id: refusal.id,
        }
    }
}

impl From<Wire> for Refusal {
    fn from(wire: Wire) -> Self {
        Self { line: wire.error.line, id: wire.id, field: wire.error.field, message: wire.error.message }
    }
}

/// A name that is not in a closed list (protocol, engine, policy); the message lists the names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given} is not {what}; write one of: {known}")]
#[non_exhaustive]
pub struct UnknownName {
    what: &'static str,
    given: String,
    known: String,
}

/// Finds the value with this name, or says which names there are.
pub(crate) fn by_name<T: Copy>(
    what: &'static str,
    given: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    all.iter().copied().find(|value| name(*value) == given).ok_or_else(|| UnknownName {
        what,
        given: excerpt(given),
        known: all.iter().map(|value| name(*value)).collect::<Vec<_>>().join(", "),
    })
}

/// What a JSON value is, for use in a message.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Quotes a part of the input for use in a message: control characters escaped, cut after 64 characters.
pub fn excerpt(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form() {
        let refusal = Refusal::new(3, "bad").with_field("backend").with_id("e1");
        let json = r#"{"error":{"line":3,"field":"backend","message":"bad"},"id":"e1"}"#;
        assert_eq!(serde_json::to_string(&refusal).unwrap(), json);
        assert_eq!(serde_json::from_str::<Refusal>(json).unwrap(), refusal);
        assert_eq!(refusal.to_string(), "line 3, id \"e1\", field \"backend\": bad");
    }

    #[test]
    fn whole_line_without_id() {
        let refusal = Refusal::line_too_long(7, 65536);
        let json = r#"{"error":{"line":7,"field":null,"message":"the line is longer than 65536 bytes; write one request a line, with at most 16384 backends"}}"#;
        assert_eq!(serde_json::to_string(&refusal).unwrap(), json);
        assert_eq!(serde_json::from_str::<Refusal>(json).unwrap(), refusal);
        assert_eq!(
            refusal.to_string(),
            "line 7: the line is longer than 65536 bytes; write one request a line, with at most 16384 backends"
        );
    }

    #[test]
    fn excerpts_are_quoted_escaped_and_cut() {
        assert_eq!(excerpt("a\n\"b"), r#""a\n\"b""#);
        assert_eq!(excerpt(&"é".repeat(64)), format!("\"{}\"", "é".repeat(64)));
        assert_eq!(excerpt(&"é".repeat(65)), format!("\"{}…\"", "é".repeat(64)));
    }
}
