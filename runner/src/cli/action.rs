//! What is done with the victims, as options of commands.

use anyhow::anyhow;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use skreap::core::{
    ActionName, Backend, Destinations, Instead, Move, REVIVE_AFTER_MAX_MS, REVIVE_AFTER_MS, Revive, Spread,
    VictimAction,
};

use super::Failure;

/// Heading of these options.
pub(super) const ACTION: &str = "What is done with them";

#[derive(Debug, clap::Args)]
pub(super) struct ActionArgs {
    /// What is done with the victims: destroy; revive, to connect UDP sockets that still have no peer some seconds after
    /// the destroy; move, to connect them in place of the destroy; none, to count them only [default: destroy, or what
    /// the service does]
    #[arg(long, value_name = "ACTION", value_parser = action())]
    action: Option<ActionName>,
    /// Revive or move also to and from ports of protocols whose two ends share state: 443, 853, 3478, 4500, 5683, 5684
    #[arg(long, requires = "action")]
    force: bool,
    /// Milliseconds from the destroy to the revive [default: 3000]
    #[arg(long, value_name = "MS", requires = "action",
          value_parser = clap::value_parser!(u32).range(..=i64::from(REVIVE_AFTER_MAX_MS)))]
    after_ms: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ToArg {
    /// Living backends, or the virtual address, that sockets are connected to, separated by commas
    #[arg(long, value_name = "BACKENDS", value_delimiter = ',', requires = "action")]
    to: Vec<Backend>,
}

/// Of a command in which `--to` says which sockets are meant.
#[derive(Debug, clap::Args)]
pub(super) struct DestinationArg {
    /// Living backends, or the virtual address, that sockets are connected to, separated by commas
    #[arg(long, value_name = "BACKENDS", value_delimiter = ',', requires = "action")]
    destination: Vec<Backend>,
}

fn action() -> impl TypedValueParser<Value = ActionName> {
    PossibleValuesParser::new(ActionName::ALL.map(ActionName::name))
        .try_map(|name| name.parse::<ActionName>())
}

impl ActionArgs {
    /// What is to be done; `None` if that is not said.
    pub(super) fn action(&self, to: &ToArg) -> Result<Option<VictimAction>, Failure> {
        self.connecting("--to", &to.to)
    }

    /// The same, where the destinations have another name.
    pub(super) fn action_with(&self, to: &DestinationArg) -> Result<Option<VictimAction>, Failure> {
        self.connecting("--destination", &to.destination)
    }

    fn connecting(&self, option: &str, backends: &[Backend]) -> Result<Option<VictimAction>, Failure> {
        let Some(name) = self.action else {
            return Ok(None);
        };
        let misused = |message: &str| Err(Failure::Misused(anyhow!("--action {name}: {message}")));
        let connects = matches!(name, ActionName::Revive | ActionName::Move);
        if !connects && !backends.is_empty() {
            return misused(&format!("sockets are connected to nothing; leave {option} out"));
        }
        if name != ActionName::Revive && self.after_ms.is_some() {
            return misused("nothing is done later; leave --after-ms out");
        }
        if !connects && self.force {
            return misused("there is nothing to force; leave --force out");
        }
        let to = || {
            let to = Destinations::new(backends.to_vec(), Spread::Even);
            to.map(|to| to.forced(self.force)).map_err(|e| Failure::Misused(anyhow!("{option}: {e}")))
        };
        Ok(Some(match name {
            ActionName::Destroy => VictimAction::Destroy,
            ActionName::None => VictimAction::None,
            ActionName::Revive => {
                VictimAction::Revive(Revive { to: to()?, after_ms: self.after_ms.unwrap_or(REVIVE_AFTER_MS) })
            }
            ActionName::Move => {
                VictimAction::Move(Move { to: to()?, tcp: Instead::Destroy, otherwise: Instead::Destroy })
            }
        }))
    }
}
