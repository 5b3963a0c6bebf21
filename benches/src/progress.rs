//! Progress on a terminal; nothing at all when the output is piped.

use std::io::{IsTerminal as _, stderr, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One line: the case, the current estimate, how much is done and the time left.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// `steps`: how many samples there are to take.
    pub fn new(steps: u64) -> Self {
        let visible = stdout().is_terminal() && stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:20} {pos}/{len} left {eta} · {prefix} · {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    /// So many samples are still to be taken.
    pub fn expect(&self, steps: u64) {
        self.0.set_length(self.0.position() + steps);
    }

    /// The current measure.
    pub fn case(&self, case: &str) {
        self.0.set_prefix(case.to_owned());
        self.0.set_message("");
    }

    /// The current estimate.
    pub fn note(&self, note: String) {
        self.0.set_message(note);
    }

    /// One sample is taken.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
