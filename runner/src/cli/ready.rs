//! What `skreap serve` says on a terminal when it is ready.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use skreap::metrics::Address;
use skreap::source::Source;

/// What to say, collected before the service starts.
#[derive(Debug, Default)]
pub(super) struct Ready {
    lines: Vec<String>,
}

impl Ready {
    /// Nothing, if nobody would see it: a log, or a program that reads stderr, is not to be surprised.
    pub(super) fn new(engine: &str, cgroup: &Path) -> Option<Self> {
        io::stderr()
            .is_terminal()
            .then(|| Self { lines: vec![format!("ready: engine {engine}, sockets of {}", cgroup.display())] })
    }

    /// Where requests come from; `usual`: where clients look without `--socket`.
    pub(super) fn sources(&mut self, sources: &[Source], usual: &Path) {
        for source in sources {
            self.lines.push(match source {
                Source::Unix(path, _) => {
                    let option =
                        if path == usual { String::new() } else { format!(" --socket {}", path.display()) };
                    format!(
                        "listening at {}; from another terminal: skreap top{option}, or skreap reap BACKEND{option}",
                        path.display()
                    )
                }
                Source::Stdin => "waiting for events on stdin, one JSON object a line, such as \
                                  {\"id\":\"1\",\"type\":\"backend-deleted\",\"backend\":\"udp://10.0.0.1:53\"}"
                    .to_owned(),
            });
        }
        let stdin = sources.iter().any(|source| matches!(source, Source::Stdin));
        self.lines.push(if stdin { "^D or ^C ends it" } else { "^C ends it" }.to_owned());
    }

    /// Where metrics are.
    pub(super) fn metrics(&mut self, address: &Address) {
        self.lines.push(match address {
            Address::Tcp(address) => format!("metrics at http://{address}/metrics"),
            Address::Unix(_) => format!("metrics at {address}"),
        });
    }

    /// Says it. A terminal that is gone by now is no reason not to serve.
    pub(super) fn say(&self) {
        let mut err = io::stderr().lock();
        for line in &self.lines {
            let _ = writeln!(err, "skreap: {line}");
        }
    }
}
