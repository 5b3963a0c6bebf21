//! The `skreap` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The servers and clients of the demo are this program once more, with a command of its own.
    #[cfg(feature = "demo")]
    skreap_testbed::become_client_if_asked();
    cli::main()
}
