//! Ctrl-C: a flag that is checked between samples, so that everything is removed in order.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// How soon a sleep notices a signal.
const TURN: Duration = Duration::from_millis(100);

/// Whether the user has asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The error that [`Stop::check`] returns: nothing is wrong, the user has stopped the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped by a signal; the results of the finished cases are kept")
    }
}

impl std::error::Error for Stopped {}

impl Stop {
    /// Takes SIGINT and SIGTERM. A second signal ends the process at once.
    ///
    /// # Errors
    /// When a signal handler cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and sets it, the next finds it
            // set.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop.0))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.0)))
                .with_context(|| format!("handle signal {signal}"))?;
        }
        Ok(stop)
    }

    /// # Errors
    /// [`Stopped`] once a signal has come.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Stopped.into()) } else { Ok(()) }
    }

    /// Waits.
    ///
    /// # Errors
    /// [`Stopped`] once a signal has come.
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(TURN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_stops() {
        let stop = Stop::default();
        assert!(stop.check().is_ok());
        stop.0.store(true, Ordering::Relaxed);
        assert!(stop.check().unwrap_err().is::<Stopped>());
    }
}
