//! List and watch, again after every break.
//!
//! The watch is begun first and the list is made when the server has confirmed the watch: what the list does not have,
//! the watch reports. The other order, a watch from the revision of the list, loses a deletion if etcd compacts that very
//! revision meanwhile (3.4.23). For the same reason a broken watch is never resumed at a revision: everything is listed
//! anew.

use std::time::Duration;

use etcd_client::{Event, EventType, KeyValue, WatchOptions, WatchResponse};
use tokio::time::timeout;

use super::connect::{ConnectError, Server};
use super::key::{self, Keys};
use super::list::list;
use crate::backoff::Backoff;
use crate::source::{Closed, Tell, count};
use crate::state::{Change, Kind, Name, Object};

/// Longest wait for the confirmation of a watch.
const CONFIRMED: Duration = Duration::from_secs(3);

/// Why a watch has ended.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Etcd(#[from] etcd_client::Error),
    #[error("the server does not confirm the watch")]
    NotConfirmed,
    #[error("the server ended the watch")]
    Ended,
    #[error("the server cancelled the watch{}{}", compacted(*.revision), said(.reason))]
    Cancelled { revision: i64, reason: String },
}

fn compacted(revision: i64) -> String {
    if revision == 0 { String::new() } else { format!(", compacted up to revision {revision}") }
}

fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// Watches for ever.
///
/// # Errors
/// [`Closed`]
pub async fn run(server: &Server, keys: &Keys, tell: &Tell) -> Result<(), Closed> {
    let mut backoff = Backoff::default();
    loop {
        let end = watch(server, keys, tell, &mut backoff).await;
        let at = tell.now();
        match end {
            Break::Closed(closed) => return Err(closed),
            broken => {
                count(&tell.counters.breaks);
                for kind in key::KINDS {
                    tell.tell(at, Change::Lost(kind)).await?;
                }
                let pause = backoff.pause();
                tracing::warn!("etcd: {broken}; listing anew in {} ms", pause.as_millis());
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// One list and the watch that completes it, until it breaks.
async fn watch(server: &Server, keys: &Keys, tell: &Tell, backoff: &mut Backoff) -> Break {
    match try_watch(server, keys, tell, backoff).await {
        Ok(()) => Break::Ended,
        Err(broken) => broken,
    }
}

async fn try_watch(server: &Server, keys: &Keys, tell: &Tell, backoff: &mut Backoff) -> Result<(), Break> {
    let mut client = server.connect().await?;
    // Without `prev_kv`, and in fragments: otherwise an answer of more than 4 MiB would end every watch like this one.
    let options = WatchOptions::new().with_range(keys.end()).with_fragment().with_progress_notify();
    let begun = timeout(CONFIRMED, client.watch(keys.first(), Some(options))).await;
    let mut stream = begun.map_err(|_| Break::NotConfirmed)??;
    let first = timeout(CONFIRMED, stream.message()).await.map_err(|_| Break::NotConfirmed)??;
    let first = first.ok_or(Break::Ended)?;
    check(&first)?;
    if !first.created() {
        return Err(Break::NotConfirmed);
    }
    count(&tell.counters.streams);

    let (found, revision) = list(&mut client, keys).await?;
    let at = tell.now();
    tracing::info!(keys = found.len(), revision, "etcd: listed");
    for kind in key::KINDS {
        tell.tell(at, Change::ListBegun(kind)).await?;
    }
    for kv in &found {
        if let Some((name, objects)) = objects(keys, kv, tell) {
            for object in objects {
                tell.tell(at, Change::Listed(name.clone(), object)).await?;
            }
        }
    }
    drop(found);
    // The Services first, so that nothing is decided without them.
    tell.tell(at, Change::ListComplete(Kind::Services)).await?;
    tell.tell(at, Change::ListComplete(Kind::Slices)).await?;
    backoff.reset();

    while let Some(answer) = stream.message().await? {
        let at = tell.now();
        check(&answer)?;
        for event in answer.events() {
            // The list has it.
            if event.kv().is_some_and(|kv| kv.mod_revision() > revision) {
                take(keys, event, at, tell).await?;
            }
        }
    }
    Ok(())
}

/// An answer that says that the watch is over comes as any other, and the stream stays open behind it.
fn check(answer: &WatchResponse) -> Result<(), Break> {
    if answer.canceled() || answer.compact_revision() != 0 {
        let reason = answer.cancel_reason().to_owned();
        return Err(Break::Cancelled { revision: answer.compact_revision(), reason });
    }
    Ok(())
}

async fn take(keys: &Keys, event: &Event, at: Duration, tell: &Tell) -> Result<(), Closed> {
    let Some(kv) = event.kv() else { return Ok(()) };
    match event.event_type() {
        EventType::Put => {
            let Some((name, objects)) = objects(keys, kv, tell) else { return Ok(()) };
            let objects: Vec<Object> = objects.collect();
            if !objects.iter().any(|object| object.kind() == Kind::Services) {
                tell.tell(at, Change::Gone(Kind::Services, name.clone())).await?;
            }
            for object in objects {
                tell.tell(at, Change::Put(name.clone(), object)).await?;
            }
        }
        EventType::Delete => {
            if let Ok(name) = kv.key_str() {
                for kind in key::KINDS {
                    tell.tell(at, Change::Gone(kind, name.into())).await?;
                }
            }
        }
    }
    Ok(())
}

/// What a key stands for; `None`, counted and logged, if that is no backend.
fn objects(keys: &Keys, kv: &KeyValue, tell: &Tell) -> Option<(Name, impl Iterator<Item = Object> + use<>)> {
    let key = String::from_utf8_lossy(kv.key());
    let backend = match keys.backend(&key) {
        Ok(backend) => backend,
        Err(e) => {
            count(&tell.counters.left_out);
            tracing::warn!("etcd: key {key:?} is left out: {e}");
            return None;
        }
    };
    let name = Name::from(&*key);
    let (slice, service, error) = key::objects(&name, backend, kv.create_revision(), kv.value());
    if let Some(e) = error {
        count(&tell.counters.left_out);
        tracing::warn!("etcd: nothing will be done when key {key:?} is deleted, its value is wrong: {e}");
    }
    Some((name, key::each(slice, service)))
}
