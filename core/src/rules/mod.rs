//! Which action for whom: rules that give the action of each victim of an event that names none.
//!
//! The first rule whose conditions all hold for a socket gives its action. A socket for which none holds is destroyed.

mod review;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::action::{ActionName, STATEFUL_PORTS, VictimAction, is_stateful};
use crate::backend::{Backend, Protocol};
use crate::error::excerpt;
use crate::selector::{CgroupName, PortRange};

pub use review::{Finding, Review};

/// Most rules in one set.
pub const MAX_RULES: usize = 64;
/// Bytes that the kernel keeps of the name of a command (`TASK_COMM_LEN` of linux/sched.h, without its end).
const COMMAND_BYTES: usize = 15;

/// Conditions on a socket, all of which must hold, and what is done with it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRule {
    /// What reports and messages call it.
    pub name: String,
    /// Its protocol.
    pub protocol: Option<Protocol>,
    /// It is connected to a port in one of these ranges; to any if there are none.
    pub ports: Vec<PortRange>,
    /// It was made in this cgroup or one below it.
    pub cgroup: Option<CgroupName>,
    /// It belongs to this user.
    pub uid: Option<u32>,
    /// A process that has it open is called so; anything if there are none.
    pub commands: Vec<CommandName>,
    /// What is done with it.
    pub action: VictimAction,
}

/// The name of a process as `ps -o comm` and `/proc/PID/comm` show it: 15 bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandName(String);

impl CommandName {
    /// As the kernel has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CommandName {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, CommandError> {
        if text.is_empty() || text.contains(char::is_control) {
            return Err(CommandError::Syntax(excerpt(text)));
        }
        if text.len() > COMMAND_BYTES {
            let kept = (0..=COMMAND_BYTES).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
            return Err(CommandError::TooLong { given: excerpt(text), kept: text[..kept].to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why something is no name of a command, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Empty, or with control characters.
    #[error("{0} names no command; write its name as `ps -o comm` shows it, such as \"squid\"")]
    Syntax(String),
    /// Longer than the kernel keeps.
    #[error(
        "{given} never matches, as the kernel keeps {COMMAND_BYTES} bytes of a command's name; write {kept:?}"
    )]
    TooLong {
        /// As it was written.
        given: String,
        /// What the kernel keeps of it.
        kept: String,
    },
}

impl ActionRule {
    /// True if the protocol and port of a socket do not say whether it holds.
    pub const fn looks_at_socket(&self) -> bool {
        self.cgroup.is_some() || self.uid.is_some() || !self.commands.is_empty()
    }

    /// Whether its conditions on protocol and port hold for the sockets of this backend.
    pub fn admits(&self, backend: &Backend) -> bool {
        self.protocol.is_none_or(|wanted| wanted == backend.protocol())
            && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(backend.port())))
    }

    /// What it comes to for the sockets of this backend.
    pub fn effect_on(&self, backend: &Backend) -> ActionName {
        let tcp = backend.protocol() == Protocol::Tcp;
        match &self.action {
            action if !self.applies_to(backend) || tcp && action.destroys_tcp() => ActionName::Destroy,
            VictimAction::Move(_) if tcp => ActionName::None,
            action => action.name(),
        }
    }

    /// Whether its action is taken with the sockets of this backend; else they are destroyed, as they share state with
    /// their server ([`STATEFUL_PORTS`]).
    pub fn applies_to(&self, backend: &Backend) -> bool {
        !self.action.spares_state_of(backend)
    }
}

/// Its conditions: `udp ports 514,8125 cgroup /a.slice uid 7 command squid|gmond`.
impl fmt::Display for ActionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |list: Vec<String>, by: &str| (!list.is_empty()).then(|| list.join(by));
        let parts = [
            ("", self.protocol.map(|protocol| protocol.to_string())),
            ("ports ", join(self.ports.iter().map(ToString::to_string).collect(), ",")),
            ("cgroup ", self.cgroup.as_ref().map(ToString::to_string)),
            ("uid ", self.uid.map(|uid| uid.to_string())),
            ("command ", join(self.commands.iter().map(ToString::to_string).collect(), "|")),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter_map(|(what, text)| Some(format!("{what}{}", text?))).collect();
        if parts.is_empty() { f.write_str("every socket") } else { f.write_str(&parts.join(" ")) }
    }
}

/// Rules in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionRules(Vec<ActionRule>);

/// Why rules are refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Too many of them.
    #[error("there are {0} rules; write at most {MAX_RULES}")]
    TooMany(usize),
    /// Two have the same name.
    #[error("rule {0:?} is there twice; give each a name of its own")]
    SameName(String),
    /// TCP sockets can only be destroyed.
    #[error("only UDP sockets are revived or moved; write protocol = \"udp\", or leave it out")]
    Tcp,
    /// All of its ports have state.
    #[error(
        "its ports are those of protocols whose two ends share state, whose sockets are destroyed all the same; write \
         action = \"destroy\", or add force = true"
    )]
    Stateful,
    /// A destination has state.
    #[error(
        "{0}: its port is one of a protocol whose two ends share state, so no socket would be connected there; write \
         action = \"destroy\", or add force = true"
    )]
    StatefulDestination(Backend),
}

impl ActionRule {
    /// Checks what no single condition shows.
    ///
    /// # Errors
    /// [`RuleError`] says what makes the rule of no use.
    pub fn check(&self) -> Result<(), RuleError> {
        let Some(to) = self.action.to() else {
            return Ok(());
        };
        if self.protocol == Some(Protocol::Tcp) {
            return Err(RuleError::Tcp);
        }
        if let Some(backend) =
            to.backends().iter().find(|backend| is_stateful(backend)).filter(|_| !to.is_forced())
        {
            return Err(RuleError::StatefulDestination(*backend));
        }
        let all =
            |range: &PortRange| (range.first()..=range.last()).all(|port| STATEFUL_PORTS.contains(&port));
        if !to.is_forced() && !self.ports.is_empty() && self.ports.iter().all(all) {
            return Err(RuleError::Stateful);
        }
        Ok(())
    }
}

impl ActionRules {
    /// Rules in the order in which they are tried.
    ///
    /// # Errors
    /// The number of the rule at fault, from 0 on, and what makes it of no use.
    pub fn new(rules: Vec<ActionRule>) -> Result<Self, (usize, RuleError)> {
        if rules.len() > MAX_RULES {
            return Err((MAX_RULES, RuleError::TooMany(rules.len())));
        }
        let mut names = HashSet::new();
        for (i, rule) in rules.iter().enumerate() {
            rule.check().map_err(|e| (i, e))?;
            if !names.insert(&rule.name) {
                return Err((i, RuleError::SameName(rule.name.clone())));
            }
        }
        Ok(Self(rules))
    }

    /// All of them.
    pub fn rules(&self) -> &[ActionRule] {
        &self.0
    }

    /// The numbers of the rules that sockets of this backend can come to, in order: the last one holds for all that are
    /// left.
    pub fn of_backend(&self, backend: &Backend) -> Vec<usize> {
        let mut found = Vec::new();
        for (i, rule) in self.0.iter().enumerate().filter(|(_, rule)| rule.admits(backend)) {
            found.push(i);
            if !rule.looks_at_socket() {
                break;
            }
        }
        found
    }

    /// True if all sockets of this backend are destroyed, whatever they are.
    pub fn only_destroy(&self, backend: &Backend) -> bool {
        let rules = self.of_backend(backend);
        rules.iter().filter_map(|i| self.0.get(*i)).all(|rule| rule.effect_on(backend) == ActionName::Destroy)
    }
}

/// How many sockets of an event a rule has given its action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RuleCount {
    /// The name of the rule; `None`: no rule holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What it comes to for these sockets.
    pub action: ActionName,
    /// How many.
    pub sockets: u64,
}

impl RuleCount {
    /// So many sockets with one action.
    #[must_use]
    pub const fn new(rule: Option<String>, action: ActionName, sockets: u64) -> Self {
        Self { rule, action, sockets }
    }
}

#[cfg(test)]
mod tests;
