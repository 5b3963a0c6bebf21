//! `skreap index`

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use anyhow::Context as _;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::json;
use skreap::core::{Backend, Request};
use skreap::listing::{BackendEntry, Listing};

use super::client::{self, ClientArgs};
use super::text::{counted, plural};
use super::{Failure, complete, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Only this backend; it is listed also if it has no sockets, and with --connected. May be given more than once
    #[arg(long, value_name = "BACKEND", add = complete::backends())]
    backend: Vec<Backend>,
    /// Only backends that a socket is connected to
    #[arg(long)]
    connected: bool,
    /// Only the N backends with the most sockets
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Also the clients of UDP servers on this machine: addresses with a port that their kernel gave them, to which only
    /// unconnected sockets with a port below those have sent
    #[arg(long)]
    all: bool,
    /// Also how many sockets of each backend came through which frontend. Needs `serve --frontends`
    #[arg(long)]
    frontends: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let request = Request::Index { id: client::id("index") };
    let mut index = args.client.ask(&request, "index")?;
    let listing: Listing = client::read(&index)?;
    if let Some(backend) = args.backend.iter().find(|backend| backend.zone().is_some()) {
        return Err(Failure::Misused(anyhow::anyhow!(
            "{backend}: the index has link-local backends without their link; name {}",
            backend.without_zone()
        )));
    }
    let chosen = Chosen::of(args, &listing);
    if args.client.json {
        let backends: BTreeMap<_, _> = chosen.backends.iter().cloned().collect();
        index["backends"] = serde_json::to_value(backends).context("cannot write the backends")?;
        index["left_out"] = json!({"clients": chosen.clients, "beyond_limit": chosen.beyond_limit});
        print_json(&index)?;
        return Ok(());
    }
    if args.frontends && index.get("frontends").is_none() {
        return Err(Failure::Misused(anyhow::anyhow!(
            "the service records no frontends: start it with `serve --frontends`"
        )));
    }
    print(&listing, &chosen, args.frontends)?;
    Ok(())
}

/// What is listed of the index.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chosen {
    /// Those with the most sockets first.
    backends: Vec<(Backend, BackendEntry)>,
    /// Clients of servers on this machine that are not listed.
    clients: usize,
    /// Backends that `--limit` leaves out.
    beyond_limit: usize,
}

impl Chosen {
    fn of(args: &Args, listing: &Listing) -> Self {
        let mut chosen = Self::default();
        if args.backend.is_empty() {
            let (clients, backends) = listing
                .backends
                .iter()
                .map(|(backend, entry)| (*backend, entry.clone()))
                .partition::<Vec<_>, _>(|(_, entry)| entry.is_client() && !args.all);
            chosen.backends = backends;
            chosen.clients = clients.len();
            if args.connected {
                chosen.backends.retain(|(_, entry)| entry.connected > 0);
            }
        } else {
            let named: BTreeMap<_, _> = args
                .backend
                .iter()
                .map(|backend| (*backend, listing.backends.get(backend).cloned().unwrap_or_default()))
                .collect();
            chosen.backends = named.into_iter().collect();
        }
        chosen.backends.sort_by_key(|(_, e)| std::cmp::Reverse(e.connected + e.unconnected));
        let limit = args.limit.unwrap_or(usize::MAX);
        chosen.beyond_limit = chosen.backends.len().saturating_sub(limit);
        chosen.backends.truncate(limit);
        chosen
    }
}

fn print(listing: &Listing, chosen: &Chosen, frontends: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !chosen.backends.is_empty() {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["BACKEND", "CONNECTED", "UNCONNECTED", "NETNS"]);
        for (backend, e) in &chosen.backends {
            table.add_row([
                backend.to_string(),
                e.connected.to_string(),
                e.unconnected.to_string(),
                e.netns.to_string(),
            ]);
            for (frontend, n) in e.frontends.iter().filter(|_| frontends) {
                table.add_row([
                    format!("  {frontend}"),
                    n.connected.to_string(),
                    n.unconnected.to_string(),
                    String::new(),
                ]);
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(out, "{}\n", table.trim_fmt())?;
    }
    if chosen.beyond_limit > 0 {
        writeln!(out, "left out: {} (--limit)", counted(chosen.beyond_limit as u64, "backend"))?;
    }
    if chosen.clients > 0 {
        let clients = counted(chosen.clients as u64, "client");
        let servers = plural(chosen.clients as u64, "a UDP server", "UDP servers");
        writeln!(out, "left out: {clients} of {servers} on this machine (--all lists them)")?;
    }
    if let Some(f) = listing.frontends.filter(|_| frontends) {
        writeln!(
            out,
            "frontends {} of {}, calls of unknown ones: {} not first, {} no note, {} table full",
            f.known, f.room, f.not_first, f.no_note, f.table_full
        )?;
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
