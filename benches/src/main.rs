//! The `skreap-bench` command: the cost of a targeted walk, the full scans, the hooks and the
//! index.

mod builds;
mod chains;
mod cli;
mod crowd;
mod experiment;
mod footprint;
mod grid;
mod guard;
mod histogram;
mod hooks;
mod machine;
mod measure;
mod memory;
mod moves;
mod progress;
mod ratio;
mod report;
mod results;
mod rounds;
mod run;
mod schedule;
mod selection;
mod start;
mod stats;
mod stop;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The clients of a world are this program, started once more.
    skreap_testbed::become_client_if_asked();
    cli::main()
}
