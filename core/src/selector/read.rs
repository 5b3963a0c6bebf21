//! Reading a selector from JSON.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::{MAX_ALLOWED, MAX_PORT_RANGES, MAX_PREFIXES, Selector};
use crate::error::{excerpt, type_of};

/// The fields of `where` and `except`, in the order of messages.
pub(super) const FIELDS: &[&str] = &["protocol", "to", "ports", "cgroup", "netns", "uid", "interface"];
/// The fields of an entry of `allow`.
pub(crate) const ALLOW_FIELDS: &[&str] = &["protocol", "to", "ports"];

/// The field of a selector that is at fault, empty for all of it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Such as `to[3]`; empty for the whole selector.
    pub field: String,
    /// The defect, and what to write instead.
    pub message: String,
}

impl FieldError {
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self::of("", message)
    }

    pub(super) fn of(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same, of a selector that is itself a field.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Self { field: format!("{outer}{dot}{}", self.field), ..self }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for FieldError {}

/// Reads a selector with any of its fields.
///
/// # Errors
/// [`FieldError`] names the field at fault.
pub(crate) fn read_selector(value: &Value) -> Result<Selector, FieldError> {
    let selector = read(value, FIELDS)?;
    selector.check()?;
    Ok(selector)
}

/// Reads the list of what a policy allows.
///
/// # Errors
/// [`FieldError`] names the entry and the field at fault.
pub(crate) fn read_allow(value: &Value) -> Result<Vec<Selector>, FieldError> {
    let example = "write an array such as [{\"to\":[\"10.0.0.0/8\"],\"ports\":[\"53\"]}]";
    let Value::Array(list) = value else {
        return Err(FieldError::whole(format!("it is {}; {example}", type_of(value))));
    };
    if list.is_empty() {
        return Err(FieldError::whole(format!(
            "it is empty: nothing would be allowed, which is what \"terminate\" is for; {example}"
        )));
    }
    if list.len() > MAX_ALLOWED {
        return Err(FieldError::whole(format!("it has {} entries; write at most {MAX_ALLOWED}", list.len())));
    }
    let entry = |(i, value): (usize, &Value)| {
        let selector = read(value, ALLOW_FIELDS);
        let checked = selector.and_then(|selector| selector.check_allowed().map(|()| selector));
        checked.map_err(|e| e.within(&format!("[{i}]")))
    };
    list.iter().enumerate().map(entry).collect()
}

fn read(value: &Value, takes: &[&str]) -> Result<Selector, FieldError> {
    let Value::Object(fields) = value else {
        return Err(FieldError::whole(format!(
            "it is {}; write an object such as {{\"to\":[\"10.0.0.0/8\"]}}",
            type_of(value)
        )));
    };
    if let Some(name) = fields.keys().find(|name| !takes.contains(&name.as_str())) {
        let message = format!("field {} is not known; a selector takes: {}", excerpt(name), takes.join(", "));
        return Err(FieldError::of(name, message));
    }
    Ok(Selector {
        protocol: text(fields, "protocol")?,
        to: list(fields, "to", MAX_PREFIXES, "[\"10.0.0.0/8\",\"fd00::/8\"]")?,
        ports: list(fields, "ports", MAX_PORT_RANGES, "[\"53\",\"8000-9000\"]")?,
        cgroup: text(fields, "cgroup")?,
        netns: text(fields, "netns")?,
        uid: uid(fields)?,
        interface: text(fields, "interface")?,
    })
}

/// An optional string that is read.
fn text<T: FromStr<Err: fmt::Display>>(
    fields: &Map<String, Value>,
    name: &str,
) -> Result<Option<T>, FieldError> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => {
            text.parse().map(Some).map_err(|e: T::Err| FieldError::of(name, e.to_string()))
        }
        Some(other) => Err(FieldError::of(name, format!("it is {}; write a string", type_of(other)))),
    }
}

/// An optional list of strings that are read. One that is there and empty is surely a mistake: it would restrict
/// nothing.
fn list<T: FromStr<Err: fmt::Display>>(
    fields: &Map<String, Value>,
    name: &str,
    most: usize,
    example: &str,
) -> Result<Vec<T>, FieldError> {
    let entries = match fields.get(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries,
        Some(other) => {
            return Err(FieldError::of(
                name,
                format!("it is {}; write an array such as {example}", type_of(other)),
            ));
        }
    };
    if entries.is_empty() {
        return Err(FieldError::of(
            name,
            format!("it is empty; write an array such as {example}, or leave it out"),
        ));
    }
    if entries.len() > most {
        return Err(FieldError::of(name, format!("it has {} entries; write at most {most}", entries.len())));
    }
    let entry = |(i, value): (usize, &Value)| {
        let refuse = |message| FieldError::of(format!("{name}[{i}]"), message);
        match value {
            Value::String(text) => text.parse().map_err(|e: T::Err| refuse(e.to_string())),
            other => Err(refuse(format!("it is {}; write a string", type_of(other)))),
        }
    };
    entries.iter().enumerate().map(entry).collect()
}

fn uid(fields: &Map<String, Value>) -> Result<Option<u32>, FieldError> {
    let Some(value) = fields.get("uid") else {
        return Ok(None);
    };
    // The last one stands for "no user" in every call that takes one.
    let uid = value.as_u64().and_then(|uid| u32::try_from(uid).ok()).filter(|uid| *uid != u32::MAX);
    uid.map(Some).ok_or_else(|| {
        FieldError::of("uid", "it is not the number of a user; write one from 0 to 4294967294, such as 1000")
    })
}
