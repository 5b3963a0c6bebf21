//! Keeps the key of a backend alive, from the backend's side.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use skreap_core::Backend;
use tokio::time::timeout;

use super::connect::{ConnectError, Server};
use super::key::{Keys, Value};
use crate::backoff::Backoff;

/// Why a registration has ended.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    /// A request.
    #[error("{0}")]
    Etcd(#[from] etcd_client::Error),
    /// The value.
    #[error("cannot write the value: {0}")]
    Value(#[from] serde_json::Error),
    /// Not renewed in time.
    #[error("the lease has expired")]
    Expired,
}

/// Registers a backend until `stop` resolves; then its key is deleted at once. If the lease is lost meanwhile it is
/// registered again.
///
/// # Errors
/// Never while it runs; if the key cannot be deleted at the end it is so when the lease expires.
pub async fn register(
    server: &Server,
    keys: &Keys,
    backend: Backend,
    value: &Value,
    ttl: u32,
    stop: impl Future<Output = ()>,
) -> Result<(), RegisterError> {
    let mut lease = None;
    let kept = async {
        let mut backoff = Backoff::default();
        loop {
            let Err(e) = keep(server, keys, backend, value, ttl, &mut lease, &mut backoff).await;
            let pause = backoff.pause();
            tracing::warn!("etcd: {backend} is not registered: {e}; again in {} ms", pause.as_millis());
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        biased;
        () = stop => {}
        () = kept => {}
    }
    if let Some(id) = lease {
        server.connect().await?.lease_revoke(id).await?;
        tracing::info!("etcd: {backend} is registered no more");
    }
    Ok(())
}

/// Takes a lease, puts the key, and renews the lease until that fails.
async fn keep(
    server: &Server,
    keys: &Keys,
    backend: Backend,
    value: &Value,
    ttl: u32,
    lease: &mut Option<i64>,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, RegisterError> {
    let mut client = server.connect().await?;
    let granted = client.lease_grant(i64::from(ttl), None).await?;
    *lease = Some(granted.id());
    put(&mut client, keys, backend, value, granted.id()).await?;
    tracing::info!(lease = granted.id(), ttl, "etcd: {backend} is registered");
    backoff.reset();

    let (mut keeper, mut answers) = client.lease_keep_alive(granted.id()).await?;
    let ttl = Duration::from_secs(u64::from(ttl));
    loop {
        keeper.keep_alive().await?;
        let answer = timeout(ttl, answers.message()).await.map_err(|_| RegisterError::Expired)??;
        // Also if the lease is unknown: then there are zero seconds left.
        if answer.is_none_or(|answer| answer.ttl() <= 0) {
            return Err(RegisterError::Expired);
        }
        tokio::time::sleep(ttl / 3).await;
    }
}

async fn put(
    client: &mut Client,
    keys: &Keys,
    backend: Backend,
    value: &Value,
    lease: i64,
) -> Result<(), RegisterError> {
    let value = if *value == Value::default() { Vec::new() } else { serde_json::to_vec(value)? };
    client.put(keys.of(backend), value, Some(PutOptions::new().with_lease(lease))).await?;
    Ok(())
}
