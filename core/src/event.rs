//! Something that happened to a backend.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::action::{ActionError, Destinations, VictimAction};
use crate::backend::Backend;
use crate::frontend::{FrontendError, Through};
use crate::network::Network;
use crate::selector::{FieldError, Selector, check_limits};

/// Longest accepted event or request id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 256;

/// One event. Serializes to its wire form, one JSON object:
/// `{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":true}`.
///
/// Events are read with [`Request::parse`](crate::Request::parse) only, which refuses what it
/// does not know; that is why this type is not `Deserialize`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
#[must_use = "nothing happens before a reaper handles it"]
pub struct Event {
    /// The sender's name for this event; the report mirrors it. See [`check_id`].
    pub id: String,
    /// What happened.
    #[serde(flatten)]
    pub action: Action,
    /// Report what would be destroyed, destroy nothing. Left out of the wire form when false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The file of the network namespace that the zones of link-local backends are in, such as
    /// `/run/netns/blue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Only sockets for which this holds are victims.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub selector: Option<Box<Selector>>,
    /// Sockets for which this holds are no victims.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Box<Selector>>,
    /// Milliseconds that the event waits for a [`BackendAdded`](Action::BackendAdded) that takes it back; a service waits,
    /// a reaper of one's own does not. Left out of the wire form when 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub confirm_after_ms: u32,
    /// What is done with the victims; `None`: what is usual.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub victim_action: Option<VictimAction>,
    /// Only clients that came through these frontends. Left out of the wire form when all are meant.
    #[serde(flatten)]
    pub through: Through,
}

impl Event {
    /// An event that is no dry run, names neither a netns nor a frontend, is about all sockets of its backends, and has
    /// done with its victims what is usual.
    pub fn new(id: impl Into<String>, action: Action) -> Self {
        Self {
            id: id.into(),
            action,
            dry_run: false,
            netns: None,
            selector: None,
            except: None,
            confirm_after_ms: 0,
            victim_action: None,
            through: Through::default(),
        }
    }

    /// Checks the selectors of the event.
    ///
    /// # Errors
    /// [`FieldError`] names the field at fault.
    pub fn check_selectors(&self) -> Result<(), FieldError> {
        let named = [("where", self.selector.as_deref()), ("except", self.except.as_deref())];
        for (field, selector) in named {
            selector.map_or(Ok(()), Selector::check).map_err(|e| e.within(field))?;
        }
        for (i, entry) in self.action.allowed().iter().enumerate() {
            entry.check_allowed().map_err(|e| e.within(&format!("allow[{i}]")))?;
        }
        if self.selector.is_none() && self.action.needs_selector() {
            return Err(FieldError {
                field: "where".to_owned(),
                message: "it is missing; write which sockets are meant, as in {\"to\":[\"10.0.0.0/8\"]}"
                    .to_owned(),
            });
        }
        let selectors = named.into_iter().filter_map(|(_, selector)| selector).chain(self.action.allowed());
        let field = if self.action.allowed().is_empty() { "where" } else { "allow" };
        check_limits(selectors).map_err(|message| FieldError { field: field.to_owned(), message })
    }

    /// Checks that the sockets of the event can be connected where it wants them to be.
    ///
    /// # Errors
    /// [`ActionError`] names the backend at fault.
    pub fn check_action(&self) -> Result<(), ActionError> {
        let Some(action) = &self.victim_action else {
            return Ok(());
        };
        action.check(self.action.gone())?;
        let destinations = action.to().map(Destinations::backends).unwrap_or_default();
        match destinations.iter().find(|to| self.action.needs_selector() && self.selects_peer(to)) {
            Some(to) => Err(ActionError::Selected(*to)),
            None => Ok(()),
        }
    }

    /// Whether sockets that are connected to it may be selected, as far as that depends on their peer.
    fn selects_peer(&self, peer: &Backend) -> bool {
        let admits = |selector: &Selector| selector.admits_peer(peer.protocol(), peer.addr(), peer.port());
        self.selector.as_deref().is_none_or(admits)
            && !self.except.as_deref().is_some_and(|except| !except.has_place() && admits(except))
            && !self.action.allowed().iter().any(admits)
    }

    /// The backend is gone. The id is one that no other event of this process has, until [`with_id`](Self::with_id) says
    /// otherwise.
    ///
    /// ```
    /// use skreap_core::Event;
    ///
    /// let event = Event::deleted("udp://10.0.0.1:53".parse()?).with_id("rollout-7").with_dry_run(true);
    /// assert_eq!(
    ///     serde_json::to_string(&event)?,
    ///     r#"{"id":"rollout-7","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":true}"#,
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deleted(backend: Backend) -> Self {
        Self::new(next_id(), Action::BackendDeleted { backend })
    }

    /// These backends are gone, all in one event with one report. The id is as for [`deleted`](Self::deleted).
    pub fn all_deleted(backends: impl IntoIterator<Item = Backend>) -> Self {
        Self::new(next_id(), Action::BackendsDeleted { backends: backends.into_iter().collect() })
    }

    /// These backends live: everything else that the index has sockets of is gone, as far as it is connected to
    /// addresses in the networks `within`. The id is as for [`deleted`](Self::deleted).
    pub fn reconcile(
        living: impl IntoIterator<Item = Backend>,
        within: impl IntoIterator<Item = Network>,
    ) -> Self {
        let (backends, within) = (living.into_iter().collect(), within.into_iter().collect());
        Self::new(next_id(), Action::Reconcile { backends, within, max_victims: None })
    }

    /// The same event with this id. See [`check_id`].
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// The same event, which destroys nothing if `dry_run`.
    pub fn with_dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// The same event, with the file of the network namespace that its links are in.
    pub fn with_netns(self, file: impl Into<String>) -> Self {
        Self { netns: Some(file.into()), ..self }
    }

    /// The same event, only for the clients that came through these frontends.
    pub fn with_through(self, through: Through) -> Self {
        Self { through, ..self }
    }

    /// Checks that the frontends fit the backends.
    ///
    /// # Errors
    /// [`FrontendError`] says what does not fit.
    pub fn check_through(&self) -> Result<(), FrontendError> {
        self.through.check(self.action.name(), self.action.gone())
    }

    /// True if a service waits for a [`BackendAdded`](Action::BackendAdded) before it carries this out.
    pub const fn waits(&self) -> bool {
        self.confirm_after_ms > 0 && !self.dry_run
    }

    /// Checks that each backend names one host. A link-local address does so only with its link,
    /// and the name of a link only with the network namespace it is in.
    ///
    /// # Errors
    /// [`LinkError`] says what is missing, or too much.
    pub fn check_links(&self) -> Result<(), LinkError> {
        if let Action::Reconcile { backends, .. } = &self.action {
            if let Some(backend) = backends.iter().find(|backend| backend.is_link_local()) {
                return Err(LinkError::Reconcile(*backend));
            }
            return if self.netns.is_some() { Err(LinkError::NoUse) } else { Ok(()) };
        }
        for backend in self.action.named() {
            match (backend.zone(), &self.netns) {
                (None, _) if backend.is_link_local() => return Err(LinkError::NoZone(*backend)),
                (Some(_), None) => return Err(LinkError::NoNetns(*backend)),
                (None, Some(_)) => return Err(LinkError::NoUse),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why a backend does not name one host, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A link-local address without its link.
    #[error(
        "{0} is link-local, and every link may have a host of that address; write the link, as in \
         udp://[fe80::1%eth0]:53, and its network namespace, as in \"netns\":\"/run/netns/blue\" (--netns blue)"
    )]
    NoZone(Backend),
    /// The name of a link without its netns.
    #[error(
        "{0} names a link, and every network namespace may have a link of that name; write the namespace as well, as \
         in \"netns\":\"/run/netns/blue\" (--netns blue)"
    )]
    NoNetns(Backend),
    /// A netns, and a backend that is the same in each.
    #[error(
        "\"netns\" is for link-local backends only: any other is matched in every network namespace; leave it out, or \
         send an event of its own for the link-local ones"
    )]
    NoUse,
    /// A link-local backend in the list of the living.
    #[error("{0} is link-local, and a reconcile leaves the sockets of all such backends alone; leave it out")]
    Reconcile(Backend),
}

impl LinkError {
    /// The field of an event that is at fault.
    pub const fn field(&self, action: &Action) -> &'static str {
        match (self, action) {
            (Self::NoNetns(_) | Self::NoUse, _) => "netns",
            (_, Action::BackendDeleted { .. } | Action::BackendAdded { .. }) => "backend",
            _ => "backends",
        }
    }
}

/// What happened. A new kind is one variant here, and one row and one arm in `request.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        /// The backends that are gone: 1 to [`MAX_BACKENDS`](crate::MAX_BACKENDS). Naming one twice
        /// is the same as once.
        backends: Vec<Backend>,
    },
    /// The backend is there, again or still: deletions of it that wait to be confirmed are taken back.
    BackendAdded {
        /// The backend that is there.
        backend: Backend,
    },
    /// These backends live: everything else that the index has sockets of is gone. For a sender
    /// that has lost events.
    Reconcile {
        /// The backends that live: 1 to [`MAX_BACKENDS`](crate::MAX_BACKENDS).
        backends: Vec<Backend>,
        /// Only sockets connected to addresses in these networks are considered, at most
        /// [`MAX_NETWORKS`](crate::MAX_NETWORKS) of them; to any address if there are none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        within: Vec<Network>,
        /// Do nothing if it would destroy more sockets than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_victims: Option<u64>,
    },
    /// The connected sockets that the event's `where` selects are to end, whatever their peer is.
    Terminate {
        /// Do nothing if it would destroy more sockets than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_victims: Option<u64>,
    },
    /// The connected sockets that the event's `where` selects are to end, unless they are connected to what is
    /// allowed.
    Policy {
        /// What is allowed: 1 to [`MAX_ALLOWED`](crate::MAX_ALLOWED) selectors of protocol and peer.
        allow: Vec<Selector>,
        /// Do nothing if it would destroy more sockets than this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_victims: Option<u64>,
    },
}

impl Action {
    /// The `type` on the wire, such as `backend-deleted`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BackendDeleted { .. } => "backend-deleted",
            Self::BackendsDeleted { .. } => "backends-deleted",
            Self::BackendAdded { .. } => "backend-added",
            Self::Reconcile { .. } => "reconcile",
            Self::Terminate { .. } => "terminate",
            Self::Policy { .. } => "policy",
        }
    }

    /// True if it names no backends, but the sockets that a selector selects.
    pub const fn needs_selector(&self) -> bool {
        matches!(self, Self::Terminate { .. } | Self::Policy { .. })
    }

    /// What a policy allows.
    pub fn allowed(&self) -> &[Selector] {
        match self {
            Self::Policy { allow, .. } => allow,
            _ => &[],
        }
    }

    /// The most victims that the event allows itself.
    pub const fn max_victims(&self) -> Option<u64> {
        match self {
            Self::Reconcile { max_victims, .. }
            | Self::Terminate { max_victims }
            | Self::Policy { max_victims, .. } => *max_victims,
            Self::BackendDeleted { .. } | Self::BackendsDeleted { .. } | Self::BackendAdded { .. } => None,
        }
    }

    /// The backends that are gone, or the one that is there: those that an event names for themselves, and not to say what
    /// else is gone.
    fn named(&self) -> &[Backend] {
        match self {
            Self::BackendAdded { backend } => std::slice::from_ref(backend),
            other => other.gone(),
        }
    }

    /// The backends that this action names as gone; none for a reconcile, which names those that
    /// live, and where a selector says which sockets are meant.
    pub fn gone(&self) -> &[Backend] {
        match self {
            Self::BackendDeleted { backend } => std::slice::from_ref(backend),
            Self::BackendsDeleted { backends } => backends,
            Self::BackendAdded { .. }
            | Self::Reconcile { .. }
            | Self::Terminate { .. }
            | Self::Policy { .. } => &[],
        }
    }
}

/// An id that no other event of this process has that was made here.
fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("event-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Longest time that an event waits to be confirmed: an hour.
pub const CONFIRM_AFTER_MAX_MS: u32 = 3_600_000;

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
mod tests;
