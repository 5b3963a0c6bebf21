//! List and watch, for each kind of objects.
//!
//! A list is read through etcd and not from the server's cache, which may be older than what was seen before: an old
//! list lacks backends that are alive. A watch that ends, or loses its connection, goes on at the version it has reached
//! and misses nothing. Only when the server no longer has that version (410) everything is listed anew, at once: a
//! server that was restarted says so for every version, and a pause would only keep the sockets of dead backends.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::config::{Access, ConfigError};
use super::object::{ANNOTATION, EndpointSlice, Metadata, Nodes, ServiceObject};
use super::stream::{Event, Events};
use crate::backoff::Backoff;
use crate::source::{Closed, Tell, count};
use crate::state::{Change, Kind, Name, Object};

/// Objects of one page of a list.
const PAGE: usize = 500;
/// How long the server lets a watch go on.
const LENGTH: Duration = Duration::from_secs(270);
/// Pause between a watch that the server has ended and the next.
const RENEWAL: Duration = Duration::from_millis(50);
/// Lists that have to be made anew at once, at most one in this time.
const RELIST: Duration = Duration::from_secs(5);
/// Group of the slices, and its versions, the best first.
const GROUP: &str = "/apis/discovery.k8s.io";
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Why a watch does not go on.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("the server knows no EndpointSlices of {}", VERSIONS.join(" or "))]
    NoVersion,
}

/// An object of the API.
trait Watched: DeserializeOwned {
    const KIND: Kind;
    fn metadata(&self) -> &Metadata;
    fn into_object(self, nodes: &Nodes, tell: &Tell) -> Object;
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::Slices;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn into_object(self, _: &Nodes, tell: &Tell) -> Object {
        let key = self.metadata.key();
        let (slice, left_out) = self.read();
        if left_out > 0 {
            count(&tell.counters.left_out);
            tracing::debug!("slice {key}: {left_out} endpoints stand for no backend of TCP or UDP");
        }
        Object::Slice(slice)
    }
}

impl Watched for ServiceObject {
    const KIND: Kind = Kind::Services;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn into_object(self, nodes: &Nodes, tell: &Tell) -> Object {
        let key = self.metadata.key();
        let (service, wrong) = self.read(nodes);
        if let Some(wrong) = wrong {
            count(&tell.counters.left_out);
            tracing::warn!(
                "Service {key}: its annotation {ANNOTATION}={wrong:?} is no action; nothing will be done"
            );
        }
        Object::Service(service)
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    metadata: PageMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    more: String,
}

#[derive(Deserialize)]
struct Group {
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

/// Watches for ever. Slices are listed when the Services were, so that nothing is decided without their frontends.
///
/// # Errors
/// [`Closed`]
pub async fn run(
    access: impl Fn() -> Result<Access, ConfigError>,
    nodes: &Nodes,
    tell: &Tell,
) -> Result<(), Closed> {
    let (listed, wait) = watch::channel(false);
    let services = async {
        let mut watcher = Watcher::new(nodes, tell, Some(listed));
        watcher.run::<ServiceObject>(&access).await
    };
    let slices = async {
        let mut wait = wait;
        wait.wait_for(|listed| *listed).await.map_err(|_| Closed)?;
        let mut watcher = Watcher::new(nodes, tell, None);
        watcher.run::<EndpointSlice>(&access).await
    };
    let (services, slices) = tokio::join!(services, slices);
    services.and(slices)
}

/// The list and watch of one kind.
struct Watcher<'a> {
    nodes: &'a Nodes,
    tell: &'a Tell,
    /// Becomes true with the first list.
    listed: Option<watch::Sender<bool>>,
    /// Where the objects are.
    path: String,
    /// Version that the watch has reached; none if everything has to be listed.
    version: Option<String>,
    /// When there was a list.
    listed_at: Option<Instant>,
    /// The server may send the list as the beginning of the watch.
    streaming: bool,
    /// The last watch was reported as lost.
    lost: bool,
    backoff: Backoff,
}

impl<'a> Watcher<'a> {
    fn new(nodes: &'a Nodes, tell: &'a Tell, listed: Option<watch::Sender<bool>>) -> Self {
        Self {
            nodes,
            tell,
            listed,
            path: String::new(),
            version: None,
            listed_at: None,
            streaming: true,
            lost: false,
            backoff: Backoff::default(),
        }
    }

    async fn run<T: Watched>(
        &mut self,
        access: impl Fn() -> Result<Access, ConfigError>,
    ) -> Result<(), Closed> {
        loop {
            let end = self.follow::<T>(&access).await;
            let at = self.tell.now();
            if !self.lost {
                self.lost = true;
                self.tell.tell(at, Change::Lost(T::KIND)).await?;
            }
            let kind = format!("{:?}", T::KIND).to_lowercase();
            match end {
                Ok(()) => {
                    tracing::debug!("{kind}: the server has ended the watch; it goes on");
                    tokio::time::sleep(RENEWAL).await;
                }
                Err(Break::Closed(closed)) => return Err(closed),
                Err(broken) => {
                    count(&self.tell.counters.breaks);
                    let at_once = gone(&broken) && self.listed_at.is_none_or(|at| at.elapsed() > RELIST);
                    if !resumable(&broken) {
                        self.version = None;
                    }
                    if at_once {
                        tracing::info!("{kind}: {broken}; listing anew");
                        self.listed_at = Some(Instant::now());
                        continue;
                    }
                    let pause = self.backoff.pause();
                    tracing::warn!("{kind}: {broken}; again in {} ms", pause.as_millis());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Lists if that is needed, and watches until that ends.
    async fn follow<T: Watched>(
        &mut self,
        access: impl Fn() -> Result<Access, ConfigError>,
    ) -> Result<(), Break> {
        let api = Api::new(access()?);
        if self.version.is_none() {
            self.path = path::<T>(&api).await?;
            if self.streaming {
                match self.stream::<T>(&api).await {
                    Err(Break::Api(e)) if matches!(e.code(), Some(400 | 422)) => {
                        tracing::debug!("no list as a stream: {e}");
                        self.streaming = false;
                    }
                    other => return other,
                }
            }
            self.list::<T>(&api).await?;
        }
        let version = self.version.clone().unwrap_or_default();
        let path = &self.path;
        let query = format!("{path}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
        let events = Events::begin(&api, &query, LENGTH).await?;
        count(&self.tell.counters.streams);
        if self.lost {
            self.lost = false;
            self.tell.tell(self.tell.now(), Change::Resumed(T::KIND)).await?;
        }
        self.watch::<T>(events, None).await
    }

    /// A list, page by page.
    async fn list<T: Watched>(&mut self, api: &Api) -> Result<(), Break> {
        self.tell.tell(self.tell.now(), Change::ListBegun(T::KIND)).await?;
        let mut more = String::new();
        let mut n = 0;
        let version = loop {
            let query = format!("{}?limit={PAGE}&continue={more}", self.path);
            let page: Page<T> = api.object(&query).await?;
            let at = self.tell.now();
            n += page.items.len();
            for item in page.items {
                let key = item.metadata().key();
                self.tell.tell(at, Change::Listed(key, item.into_object(self.nodes, self.tell))).await?;
            }
            more = escaped(&page.metadata.more);
            if more.is_empty() {
                break page.metadata.resource_version;
            }
        };
        self.complete::<T>(version, n).await
    }

    async fn complete<T: Watched>(&mut self, version: String, n: usize) -> Result<(), Break> {
        tracing::info!(version, "{n} {} listed", format!("{:?}", T::KIND).to_lowercase());
        self.tell.tell(self.tell.now(), Change::ListComplete(T::KIND)).await?;
        // The list is newer than anything: nothing has to be resumed.
        self.lost = false;
        self.version = Some(version);
        self.listed_at = Some(Instant::now());
        if let Some(listed) = &self.listed {
            listed.send_replace(true);
        }
        Ok(())
    }

    /// A watch that begins with the list.
    async fn stream<T: Watched>(&mut self, api: &Api) -> Result<(), Break> {
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=";
        let query = format!("{}?watch=1&allowWatchBookmarks=true&{list}", self.path);
        let events = Events::begin(api, &query, LENGTH).await?;
        count(&self.tell.counters.streams);
        self.tell.tell(self.tell.now(), Change::ListBegun(T::KIND)).await?;
        self.watch::<T>(events, Some(0)).await
    }

    /// Takes events in. `listing` counts the objects of the list that the watch begins with, if it does.
    async fn watch<T: Watched>(
        &mut self,
        mut events: Events,
        mut listing: Option<usize>,
    ) -> Result<(), Break> {
        while let Some(event) = events.next::<T>().await? {
            let at = self.tell.now();
            if !matches!(event, Event::Error(_)) {
                self.backoff.reset();
            }
            match event {
                Event::Added(item) | Event::Modified(item) => {
                    let (key, version) = (item.metadata().key(), item.metadata().resource_version.clone());
                    let object = item.into_object(self.nodes, self.tell);
                    if let Some(n) = &mut listing {
                        *n += 1;
                        self.tell.tell(at, Change::Listed(key, object)).await?;
                    } else {
                        self.version = Some(version);
                        self.tell.tell(at, Change::Put(key, object)).await?;
                    }
                }
                Event::Deleted(item) => self.deleted::<T>(at, item.metadata(), listing.is_some()).await?,
                Event::Bookmark(bookmark) => {
                    let ends = |a: &super::object::Annotations| a.initial_events_end.is_some();
                    let version = bookmark.metadata.resource_version;
                    match listing {
                        Some(n) if bookmark.metadata.annotations.as_ref().is_some_and(ends) => {
                            listing = None;
                            self.complete::<T>(version, n).await?;
                        }
                        Some(_) => {}
                        None => self.version = Some(version),
                    }
                }
                Event::Error(status) => return Err(status.into_error().into()),
            }
        }
        match listing {
            None => Ok(()),
            Some(_) => Err(ApiError::Content("the watch ended before its list".to_owned()).into()),
        }
    }

    async fn deleted<T: Watched>(
        &mut self,
        at: Duration,
        metadata: &Metadata,
        listing: bool,
    ) -> Result<(), Break> {
        let key: Name = metadata.key();
        if listing {
            // The server sends what changes while it catches up before it says that the list is complete.
            return Ok(self.tell.tell(at, Change::Unlisted(T::KIND, key)).await?);
        }
        self.version = Some(metadata.resource_version.clone());
        Ok(self.tell.tell(at, Change::Gone(T::KIND, key)).await?)
    }
}

/// The watch may go on at the version it has reached.
fn resumable(broken: &Break) -> bool {
    match broken {
        Break::Api(e) => e.code().is_none_or(|code| matches!(code, 401 | 403 | 429 | 503)),
        _ => true,
    }
}

/// The version is not there any more.
fn gone(broken: &Break) -> bool {
    matches!(broken, Break::Api(ApiError::Status { code: 410, .. }))
}

/// Where objects of this kind are.
async fn path<T: Watched>(api: &Api) -> Result<String, Break> {
    if T::KIND == Kind::Services {
        return Ok("/api/v1/services".to_owned());
    }
    let group: Group = api.object(GROUP).await?;
    let known = |version: &&&str| group.versions.iter().any(|known| known.version == **version);
    let version = VERSIONS.iter().find(known).ok_or(Break::NoVersion)?;
    Ok(format!("{GROUP}/{version}/endpointslices"))
}

/// A token of the server in a query: letters, digits and what base64 has beside them.
fn escaped(token: &str) -> String {
    token.replace('%', "%25").replace('+', "%2B").replace('=', "%3D").replace('&', "%26").replace('/', "%2F")
}
