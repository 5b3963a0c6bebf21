//! `skreap index`

use std::io::{self, Write as _};

use anyhow::Context as _;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Deserialize as _;
use skreap::core::{Backend, Request};
use skreap::listing::{BackendEntry, Listing};

use super::{Failure, SocketArg, client, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let request = Request::Index { id: client::id("index") };
    let answer = client::ask(&args.socket.path(), &request)?;
    let index = answer.get("index").context("the answer has no index")?;
    if args.json {
        print_json(index)?;
        return Ok(());
    }
    let listing = Listing::deserialize(index).context("cannot read the index")?;
    print(&listing)?;
    Ok(())
}

fn print(listing: &Listing) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut by_size: Vec<(&Backend, &BackendEntry)> = listing.backends.iter().collect();
    by_size.sort_by_key(|(_, e)| std::cmp::Reverse(e.connected + e.unconnected));
    if !by_size.is_empty() {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["BACKEND", "CONNECTED", "UNCONNECTED", "NETNS"]);
        for (backend, e) in by_size {
            table.add_row([
                backend.to_string(),
                e.connected.to_string(),
                e.unconnected.to_string(),
                e.netns.to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(out, "{}\n", table.trim_fmt())?;
    }
    let c = &listing.counters;
    writeln!(out, "sockets {}, nodes {} of {}", listing.sockets, listing.nodes, listing.counters.capacity)?;
    writeln!(out, "{}", listing.census())?;
    writeln!(out, "unconnected and unnamed {}, stale {}", listing.unnamed, listing.stale)?;
    writeln!(out, "inserts {}, removals {}, releases {}", c.inserts, c.removals, c.releases)?;
    writeln!(
        out,
        "dropped: {} index full, {} chain too long; not recorded: {} in-kernel, {} other protocols",
        c.dropped_full, c.dropped_chain, c.ignored_kernel, c.ignored_protocol
    )
}
