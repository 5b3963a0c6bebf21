//! The fields of an event that say what is done with its victims.

use serde_json::Value;

use super::{Reader, type_of};
use crate::action::{
    ACTION_FIELDS, ActionName, Destinations, Instead, Move, REVIVE_AFTER_MAX_MS, REVIVE_AFTER_MS, Revive,
    Spread, VictimAction,
};
use crate::backend::Backend;
use crate::error::Refusal;

impl Reader<'_> {
    /// What is done with the victims; `None` if the event does not say.
    pub(super) fn victim_action(&self) -> Result<Option<VictimAction>, Refusal> {
        let name = match self.get("action") {
            Some(_) => Some(self.named::<ActionName>("action")?),
            None => None,
        };
        for (field, takers) in ACTION_FIELDS {
            if self.get(field).is_some() && !name.is_some_and(|name| takers.contains(&name)) {
                let takers: Vec<&str> = takers.iter().map(|name| name.name()).collect();
                let message = format!("{field:?} needs \"action\" to be {}", takers.join(" or "));
                return Err(self.refuse(field, message));
            }
        }
        Ok(match name {
            None => None,
            Some(ActionName::Destroy) => Some(VictimAction::Destroy),
            Some(ActionName::None) => Some(VictimAction::None),
            Some(ActionName::Revive) => Some(VictimAction::Revive(Revive {
                to: self.destinations()?,
                after_ms: self.milliseconds("after_ms", REVIVE_AFTER_MS, REVIVE_AFTER_MAX_MS)?,
            })),
            Some(ActionName::Move) => Some(VictimAction::Move(Move {
                to: self.destinations()?,
                tcp: self.named_or::<Instead>("tcp")?,
                otherwise: self.named_or::<Instead>("else")?,
            })),
        })
    }

    fn destinations(&self) -> Result<Destinations, Refusal> {
        let backends = match self.get("to") {
            Some(Value::Array(list)) => self.entries::<Backend>("to", list)?,
            Some(Value::String(_)) => vec![self.backend("to")?],
            Some(other) => {
                let message = format!("\"to\" is {}; write a backend, or an array of them", type_of(other));
                return Err(self.refuse("to", message));
            }
            None => {
                let message = "\"to\" is missing; write a living backend, such as \"udp://10.0.0.2:53\"";
                return Err(self.refuse("to", message));
            }
        };
        let spread = self.named_or::<Spread>("spread")?;
        let force = self.flag("force")?;
        let to = Destinations::new(backends, spread).map_err(|error| self.refuse("to", error.to_string()))?;
        Ok(to.forced(force))
    }

    /// A required word out of a list.
    fn named<T>(&self, field: &str) -> Result<T, Refusal>
    where
        T: std::str::FromStr<Err = crate::error::UnknownName>,
    {
        self.string(field)?.parse::<T>().map_err(|error| self.refuse(field, error.to_string()))
    }

    fn named_or<T>(&self, field: &str) -> Result<T, Refusal>
    where
        T: std::str::FromStr<Err = crate::error::UnknownName> + Default,
    {
        self.get(field).map_or_else(|| Ok(T::default()), |_| self.named(field))
    }
}
