//! What docs/embedding.md shows: the pinned walk program, run by a program in another language.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::{Bpffs, Selection};

use crate::commands::{Ten, UDP};
use crate::process::{run, run_with};
use crate::serve::Serve;

crate::tests![the_pinned_walk_from_c];

fn the_pinned_walk_from_c() -> Result<()> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cli/walk.c");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../bpf/include");
    let built = tempfile::TempDir::new()?;
    let binary = built.path().join("walk");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", include, source, "-o"]).arg(&binary);
    let compiled = run_with(compiler, Vec::new())?;
    ensure!(compiled.code == Some(0), "{compiled:?}");

    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("skreap");
    let pin = pins.to_str().context("not UTF-8")?;
    let mut serve = Serve::start_with("cli-walk", &["--max-sockets", "2000", "--pin", pin])?;
    let mut ten = Ten::new(&serve)?;
    let (address, port) = UDP.trim_start_matches("udp://").split_once(':').context("no port")?;
    let mut walk = Command::new(&binary);
    walk.arg(pins.join("index/walk")).arg(pins.join("index/maps/emit")).args([address, port]);
    let walked = run_with(walk, Vec::new())?;
    ensure!(walked.code == Some(0) && walked.err.is_empty(), "{walked:?}");
    let mut found: Vec<u64> = walked
        .out
        .lines()
        .map(|line| line.split(' ').nth(1).and_then(|cookie| cookie.parse().ok()).context("no cookie"))
        .collect::<Result<_>>()?;
    let mut expected = ten.client.cookies(Selection::Range { first: 0, count: 6 })?;
    found.sort_unstable();
    expected.sort_unstable();
    ensure!(found == expected, "{walked:?} instead of {expected:?}");

    drop(ten);
    serve.signal(libc::SIGTERM)?;
    ensure!(serve.ended()?.code == Some(0));
    ensure!(run(&["unload", "--pin", pin])?.code == Some(0));
    serve.nothing_left()
}
