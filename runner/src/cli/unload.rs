//! `skreap unload`

use std::io::{self, Write as _};
use std::path::PathBuf;

use skreap::bpf::pin::Pins;

use super::{Failure, PINS};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory given to `serve --pin`
    #[arg(long, value_name = "DIR", default_value = PINS)]
    pin: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let directory = args.pin.display();
    // Checked first, because Pins::lock() creates the directory.
    let removed =
        args.pin.exists() && Pins::lock(&args.pin).and_then(Pins::remove).map_err(skreap::Error::from)?;
    let mut out = io::stdout().lock();
    if removed {
        writeln!(out, "{directory}: hooks detached, index freed")?;
    } else {
        writeln!(out, "{directory}: nothing is pinned")?;
    }
    Ok(())
}
