//! The `skreap` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The client processes of the demo are this program once more.
    skreap::lab::become_client_if_asked();
    cli::main()
}
