//! The keys that are there.

use etcd_client::{Client, Error, GetOptions, KeyValue};

use super::key::Keys;

/// Keys for one answer, which has to stay below the 4 MiB that a client accepts.
const PAGE: i64 = 1000;

/// All keys at one revision, and that revision.
pub(super) async fn list(client: &mut Client, keys: &Keys) -> Result<(Vec<KeyValue>, i64), Error> {
    let mut found = Vec::new();
    let (mut from, mut revision) = (keys.first().as_bytes().to_vec(), 0);
    loop {
        let options = GetOptions::new().with_range(keys.end()).with_limit(PAGE).with_revision(revision);
        let mut answer = client.get(from, Some(options)).await?;
        if revision == 0 {
            revision = answer.header().map_or(0, |header| header.revision());
        }
        let more = answer.more();
        found.append(&mut answer.take_kvs());
        let Some(last) = found.last().filter(|_| more) else { return Ok((found, revision)) };
        // The first key that comes after it.
        from = [last.key(), b"\0"].concat();
    }
}
