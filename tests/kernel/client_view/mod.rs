//! What a client sees of a destroy, call by call: the tests act each row of a table on the running kernel. The table
//! is docs/client-view.md.
//!
//! `SKREAP_CLIENT_VIEW=print` writes the document from the table. With `SKREAP_CLIENT_VIEW=required` a row that this kernel
//! has nothing to show for fails.

mod call;
mod left;
mod scene;
mod table;
mod tcp;
mod udp;

use std::env;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::case::{Case, case};
use crate::world::World;
use scene::Scene;
use table::{Section, act, version, written};

pub fn cases() -> Vec<Case> {
    vec![
        case!(client_view_of_udp),
        case!(client_view_of_tcp),
        case!(client_view_of_what_is_left),
        case!(client_view_is_written_down).only(skreap::core::EngineName::Netlink),
    ]
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/client-view.md");

const HEAD: &str = "\
<!-- Written by `make client-view` from tests/kernel/client_view. Do not edit. -->
# What a client sees

What the owner of a destroyed socket gets from its next calls, in their order. The kernel tests act
each row after a real destroy, with every engine, and compare the results. \"waits\" means that the call
has nothing to return: it blocks, or returns EAGAIN on a non-blocking socket. Where kernels differ, the
row names the version from which on it holds. The row of kTLS needs a kernel with CONFIG_TLS.
";

const SECTIONS: [Section; 3] = [
    Section {
        heading: "UDP",
        says: "One call gets the error, the next one does not. Read it before the next `connect()`: otherwise the
first datagram to the new backend is lost. Of several threads in `recv` on one socket only one is
woken; all threads in `poll` are.",
        columns: ["the client", "gets"],
        rows: udp::ROWS,
    },
    Section {
        heading: "TCP",
        says: "The connection is over, as after a reset, with another error. A client whose peer has already ended
its side (CLOSE_WAIT) reads the end and no error; its next send gets the error.",
        columns: ["the client", "gets"],
        rows: tcp::ROWS,
    },
    Section {
        heading: "What a destroy leaves behind",
        says: "These rows concern owners that continue with the same descriptor. A new socket has none of it. The
last row is about a socket without any owner; it keeps a deleted network namespace until TCP gives up.",
        columns: ["socket", "after the destroy"],
        rows: left::ROWS,
    },
];

fn client_view(world: &mut World, heading: &str) -> Result<()> {
    let release = skreap::probe::kernel_release();
    let kernel = version(&release).with_context(|| format!("no version: {release}"))?;
    let mut scene = Scene::new(world)?;
    let section = SECTIONS.iter().find(|section| section.heading == heading).context("no such section")?;
    let wrong: Vec<String> =
        section.rows.iter().filter_map(|row| act(&mut scene, heading, row, kernel)).collect();
    ensure!(wrong.is_empty(), "on {release}:\n{}", wrong.join("\n"));
    Ok(())
}

fn client_view_of_udp(world: &mut World) -> Result<()> {
    client_view(world, "UDP")
}

fn client_view_of_tcp(world: &mut World) -> Result<()> {
    client_view(world, "TCP")
}

fn client_view_of_what_is_left(world: &mut World) -> Result<()> {
    client_view(world, "What a destroy leaves behind")
}

/// The document is compiled in: the tests may run where it is not.
fn client_view_is_written_down(_: &mut World) -> Result<()> {
    let table = written(HEAD, &SECTIONS);
    if env::var_os("SKREAP_CLIENT_VIEW").is_some_and(|value| value == "print") {
        fs::write(DOCUMENT, table).context(DOCUMENT)?;
        return Ok(());
    }
    let document = include_str!("../../../docs/client-view.md");
    ensure!(document == table, "docs/client-view.md is not the table of the tests: run `make client-view`");
    Ok(())
}
