//! The kinds of fields that a request may have.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::{EXAMPLE, Reader};
use crate::backend::Backend;
use crate::error::{Refusal, excerpt, type_of};
use crate::frontend::{Frontend, MAX_FRONTENDS, Through, UnknownFrontend};
use crate::limits::MAX_BACKENDS;
use crate::network::{MAX_NETWORKS, Network};
use crate::selector::{FieldError, Selector, read_allow, read_selector};

const LIST_EXAMPLE: &str =
    "write an array of backends, such as [\"udp://10.0.0.1:53\",\"tcp://10.0.0.1:80\"]";
const NETWORKS_EXAMPLE: &str =
    "write an array of networks, such as [\"10.0.0.0/8\",\"fd00::/8\"], or leave it out";
const FRONTENDS_EXAMPLE: &str = "write an address that clients name, such as \"udp://10.96.0.10:53\", or \"direct\", \
     or an array of these";
const ALLOW_EXAMPLE: &str = "write what may stay, such as [{\"to\":[\"10.0.0.0/8\"],\"ports\":[\"53\"]}]";

impl<'a> Reader<'a> {
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        let mut fields = self.fields.iter();
        fields.find(|(name, _)| name == field).map(|(_, value)| value)
    }

    /// A required string.
    pub(super) fn string(&self, field: &str) -> Result<&'a str, Refusal> {
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
    pub(super) fn backend(&self, field: &str) -> Result<Backend, Refusal> {
        let parsed = self.string(field)?.parse::<Backend>();
        parsed.map_err(|error| self.refuse(field, error.to_string()))
    }

    /// A required list of backends.
    pub(super) fn backends(&self, field: &str) -> Result<Vec<Backend>, Refusal> {
        let list = match self.get(field) {
            Some(Value::Array(list)) => list,
            Some(other) => {
                let message = format!("{field:?} is {}; write an array of strings", type_of(other));
                return Err(self.refuse(field, message));
            }
            None => return Err(self.refuse(field, format!("{field:?} is missing; {LIST_EXAMPLE}"))),
        };
        // An empty list of living backends would make an end of every socket there is: surely a
        // mistake.
        if list.is_empty() {
            return Err(self.refuse(field, format!("{field:?} is empty; {LIST_EXAMPLE}")));
        }
        if list.len() > MAX_BACKENDS {
            let message = format!("{field:?} has {} entries; write at most {MAX_BACKENDS}", list.len());
            return Err(self.refuse(field, message));
        }
        self.entries(field, list)
    }

    /// An optional list of networks, empty when it is not there. One that is there and empty is
    /// surely a mistake: it would restrict nothing.
    pub(super) fn networks(&self, field: &str) -> Result<Vec<Network>, Refusal> {
        let list = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(self.refuse(field, format!("{field:?} is empty; {NETWORKS_EXAMPLE}")));
            }
            Some(Value::Array(list)) if list.len() > MAX_NETWORKS => {
                let message = format!("{field:?} has {} entries; write at most {MAX_NETWORKS}", list.len());
                return Err(self.refuse(field, message));
            }
            Some(Value::Array(list)) => list,
            Some(other) => {
                let message = format!("{field:?} is {}; {NETWORKS_EXAMPLE}", type_of(other));
                return Err(self.refuse(field, message));
            }
        };
        self.entries(field, list)
    }

    /// The frontends that the event is restricted to: one, or a list that is not empty.
    pub(super) fn through(&self) -> Result<Through, Refusal> {
        let field = "frontend";
        let frontends = match self.get(field) {
            None => Vec::new(),
            Some(Value::String(text)) => {
                vec![text.parse::<Frontend>().map_err(|error| self.refuse(field, error.to_string()))?]
            }
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(self.refuse(field, format!("{field:?} is empty; {FRONTENDS_EXAMPLE}")));
            }
            Some(Value::Array(list)) if list.len() > MAX_FRONTENDS => {
                let message = format!("{field:?} has {} entries; write at most {MAX_FRONTENDS}", list.len());
                return Err(self.refuse(field, message));
            }
            Some(Value::Array(list)) => self.entries(field, list)?,
            Some(other) => {
                return Err(
                    self.refuse(field, format!("{field:?} is {}; {FRONTENDS_EXAMPLE}", type_of(other)))
                );
            }
        };
        let unknown = match self.get("unknown_frontend") {
            None => UnknownFrontend::default(),
            Some(_) => {
                let parsed = self.string("unknown_frontend")?.parse::<UnknownFrontend>();
                parsed.map_err(|error| self.refuse("unknown_frontend", error.to_string()))?
            }
        };
        Ok(Through { frontends, unknown })
    }

    /// An optional selector.
    pub(super) fn selector(&self, field: &str) -> Result<Option<Box<Selector>>, Refusal> {
        let read = self.get(field).map(|value| read_selector(value).map(Box::new));
        read.transpose().map_err(|error| self.refuse_in(field, error))
    }

    /// The required list of what a policy allows.
    pub(super) fn allow(&self, field: &str) -> Result<Vec<Selector>, Refusal> {
        let missing = || self.refuse(field, format!("{field:?} is missing; {ALLOW_EXAMPLE}"));
        read_allow(self.get(field).ok_or_else(missing)?).map_err(|error| self.refuse_in(field, error))
    }

    pub(super) fn refuse_in(&self, field: &str, error: FieldError) -> Refusal {
        let FieldError { field, message } = error.within(field);
        self.refuse(&field, message)
    }

    /// Every entry of a list of strings, read.
    pub(super) fn entries<T>(&self, field: &str, list: &[Value]) -> Result<Vec<T>, Refusal>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let refuse = |i: usize, message: String| self.refuse(&format!("{field}[{i}]"), message);
        list.iter()
            .enumerate()
            .map(|(i, entry)| match entry {
                Value::String(text) => text.parse().map_err(|e: T::Err| refuse(i, e.to_string())),
                other => Err(refuse(i, format!("it is {}; write a string", type_of(other)))),
            })
            .collect()
    }

    /// An optional whole number.
    pub(super) fn number(&self, field: &str) -> Result<Option<u64>, Refusal> {
        let number = self.get(field).map(|value| value.as_u64().ok_or_else(|| type_of(value)));
        number.transpose().map_err(|what| {
            self.refuse(field, format!("{field:?} is {what}; write a whole number, 0 or more"))
        })
    }

    /// An optional number of milliseconds.
    pub(super) fn milliseconds(&self, field: &str, usual: u32, most: u32) -> Result<u32, Refusal> {
        let given = self.number(field)?.unwrap_or_else(|| usual.into());
        let fits = u32::try_from(given).ok().filter(|given| *given <= most);
        fits.ok_or_else(|| self.refuse(field, format!("{field:?} is {given}; write at most {most}")))
    }

    /// An optional absolute path.
    pub(super) fn path(&self, field: &str) -> Result<Option<String>, Refusal> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value {
            Value::String(path) if path.starts_with('/') && !path.contains(char::is_control) => {
                Ok(Some(path.clone()))
            }
            Value::String(path) => {
                let message =
                    format!("{} is not an absolute path; write one such as /run/netns/blue", excerpt(path));
                Err(self.refuse(field, message))
            }
            other => Err(self.refuse(field, format!("{field:?} is {}; write a string", type_of(other)))),
        }
    }

    /// An optional boolean, false when it is not there.
    pub(super) fn flag(&self, field: &str) -> Result<bool, Refusal> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                let message = format!("{field:?} is {}; write true or false", type_of(other));
                Err(self.refuse(field, message))
            }
        }
    }
}
