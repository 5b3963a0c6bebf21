//! Shell completion of what only a running service knows.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::{ArgValueCompleter, CompletionCandidate};
use serde::Deserialize as _;
use skreap::core::Request;
use skreap::listing::Listing;

use super::client::{self, Session};
use super::socket::SocketArg;

/// Set by the shell's completion functions, which run this program to ask what could come next.
pub(super) const VARIABLE: &str = "SKREAP_COMPLETE";
/// Somebody waits at a key.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody reads more.
const MOST: usize = 200;

/// The backends that the service at the usual place (or `$SKREAP_SOCKET`) knows.
pub(super) fn backends() -> ArgValueCompleter {
    ArgValueCompleter::new(|begin: &OsStr| {
        let Some(begin) = begin.to_str() else { return Vec::new() };
        // There is nobody to report an error to: no service, no candidates.
        let Ok(listing) = listing() else { return Vec::new() };
        let mut by_size: Vec<_> =
            listing.backends.into_iter().filter(|(_, entry)| !entry.is_client()).collect();
        by_size.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.connected + entry.unconnected));
        let names = by_size.iter().map(|(backend, _)| backend.to_string());
        names.filter(|name| name.starts_with(begin)).take(MOST).map(CompletionCandidate::new).collect()
    })
}

fn listing() -> anyhow::Result<Listing> {
    let mut session = Session::connect_within(&SocketArg::usual(), PATIENCE)?;
    let answer = session.ask(&Request::Index { id: client::id("complete") })?;
    Ok(Listing::deserialize(&answer["index"])?)
}
