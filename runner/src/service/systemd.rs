//! Notifications of the service manager: ready, alive, status, ending (`sd_notify`).
//!
//! The reaper's own thread shows by a [`Heartbeat`] that it makes progress: after each event, while it
//! waits for the rate of destroys, and once in a while when idle. A second thread passes the beat
//! on, and does nothing else. A reaper that is stuck in an event has no beat, so the watchdog of
//! the service manager ends the service. Sending from the reaper's thread would be simpler, but
//! then a service manager that does not read would delay events.

use std::env;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sd_notify::NotifyState;

use crate::engine::nanos;
use crate::observe::monitor::Monitor;
use crate::observe::status::{EventResult, Status};
use crate::service::source::Stop;

/// Longest interval between two beats of an idle reaper.
const REST: Duration = Duration::from_secs(1);
/// Shortest interval between two updates of the status line.
const TELL: Duration = Duration::from_secs(2);
/// Notifications in the time that the watchdog grants.
const PER_WATCHDOG: u32 = 4;

/// Set by the reaper's thread, read by the notifying thread. Clones are the same beat.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    /// Nanoseconds after `start`.
    last: AtomicU64,
    rest: Duration,
}

impl Heartbeat {
    /// A beat that is due at least so often.
    fn every(rest: Duration) -> Self {
        Self(Arc::new(Inner { start: Instant::now(), last: AtomicU64::new(0), rest }))
    }

    /// The work has moved on.
    pub fn beat(&self) {
        self.0.last.store(nanos(self.0.start.elapsed()), Ordering::Relaxed);
    }

    /// Longest time that an idle thread may wait until the next [`beat`](Self::beat).
    #[must_use]
    pub fn rest(&self) -> Duration {
        self.0.rest
    }

    /// Time since the last one.
    fn age(&self) -> Duration {
        let last = Duration::from_nanos(self.0.last.load(Ordering::Relaxed));
        self.0.start.elapsed().saturating_sub(last)
    }
}

impl Default for Heartbeat {
    /// A beat without a watchdog.
    fn default() -> Self {
        Self::every(REST)
    }
}

/// The service manager, if this process has one that wants notifications (`$NOTIFY_SOCKET`).
#[derive(Debug)]
pub struct Supervisor {
    beat: Heartbeat,
    /// Time that the watchdog allows between two signs of life (`$WATCHDOG_USEC`).
    watchdog: Option<Duration>,
    told: bool,
    ready: OnReady,
}

/// What is done when the service is ready, besides telling.
#[derive(Default)]
struct OnReady(Option<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for OnReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnReady(..)" } else { "OnReady" })
    }
}

impl Supervisor {
    /// Reads the environment.
    #[must_use]
    pub fn of_this_process() -> Self {
        let told = env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        let watchdog = sd_notify::watchdog_enabled().filter(|time| told && !time.is_zero());
        let rest = watchdog.map_or(REST, |time| REST.min(time / PER_WATCHDOG));
        Self { beat: Heartbeat::every(rest), watchdog, told, ready: OnReady::default() }
    }

    /// Calls this as well when the service is ready.
    #[must_use]
    pub fn on_ready(mut self, ready: impl Fn() + Send + Sync + 'static) -> Self {
        self.ready = OnReady(Some(Box::new(ready)));
        self
    }

    /// The beat for the reaper's thread.
    #[must_use]
    pub fn beat(&self) -> &Heartbeat {
        &self.beat
    }

    /// Reports that the service is ready, from then on that it is alive, and when `stop` is given
    /// that it is ending. Without a service manager there is no thread and no notification.
    ///
    /// # Errors
    /// The errno of the first notification (an invalid path, for example), or of creating the
    /// thread.
    pub fn ready(&self, monitor: &Monitor, stop: &Stop) -> io::Result<NotifierThread> {
        if let OnReady(Some(ready)) = &self.ready {
            ready();
        }
        if !self.told {
            return Ok(NotifierThread(None));
        }
        self.beat.beat();
        let line = monitor.status().map(|status| line(&status)).unwrap_or_default();
        sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&line)]).map_err(|e| {
            let socket = env::var_os("NOTIFY_SOCKET").map(PathBuf::from).unwrap_or_default();
            io::Error::new(
                e.kind(),
                format!("cannot notify the service manager at {}: {e}", socket.display()),
            )
        })?;
        let (end, ended) = bounded(0);
        let teller = Notifier {
            beat: self.beat.clone(),
            watchdog: self.watchdog,
            monitor: monitor.clone(),
            line,
            told: Instant::now(),
            silent: false,
        };
        let stop = stop.clone();
        let thread =
            thread::Builder::new().name("supervisor".to_owned()).spawn(move || teller.run(&stop, &ended))?;
        Ok(NotifierThread(Some((end, thread))))
    }
}

/// The notifying thread. Dropping this waits for its end; `stop` must have been given.
#[derive(Debug)]
pub struct NotifierThread(Option<(Sender<()>, thread::JoinHandle<()>)>);

impl NotifierThread {
    /// Notifies until the end. `stop` must have been given, or this waits for it.
    pub fn end(self) {
        let Some((end, thread)) = self.0 else { return };
        drop(end);
        if thread.join().is_err() {
            tracing::error!("the thread that notifies the service manager panicked");
        }
    }
}

struct Notifier {
    beat: Heartbeat,
    watchdog: Option<Duration>,
    monitor: Monitor,
    /// The last line of the status.
    line: String,
    told: Instant,
    /// The reaper has shown no sign of life for too long.
    silent: bool,
}

impl Notifier {
    fn run(mut self, stop: &Stop, ended: &Receiver<()>) {
        let period = self.watchdog.map_or(TELL, |time| TELL.min(time / PER_WATCHDOG));
        loop {
            self.alive();
            stop.pause(period);
            if stop.given() {
                break;
            }
            if self.told.elapsed() >= TELL {
                self.status();
            }
        }
        notify(&[NotifyState::Stopping, NotifyState::Status("answering what was accepted, then ending")]);
        while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            self.alive();
        }
    }

    /// Passes the beat on, if there was one in half of the allowed time.
    fn alive(&mut self) {
        let Some(granted) = self.watchdog else { return };
        let age = self.beat.age();
        let silent = age > granted / 2;
        if silent && !self.silent {
            tracing::error!(
                silent_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                "the reaper makes no progress; the watchdog of the service manager is not fed any more"
            );
        }
        self.silent = silent;
        if !silent {
            notify(&[NotifyState::Watchdog]);
        }
    }

    fn status(&mut self) {
        self.told = Instant::now();
        // Numbers that cannot be read now are reported the next time.
        let Ok(status) = self.monitor.status() else { return };
        let line = line(&status);
        if line != self.line {
            notify(&[NotifyState::Status(&line)]);
            self.line = line;
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {e}");
    }
}

/// The line that `systemctl status` shows.
fn line(s: &Status) -> String {
    let mut events = [0_u64; 2];
    for (result, n) in s.totals.events.values().flatten() {
        events[usize::from(!matches!(result, EventResult::Complete | EventResult::DryRun))] += n;
    }
    let destroyed: u64 = s.totals.destroyed.values().flat_map(|by| by.values()).sum();
    let mut line = format!(
        "engine {}; {} of {} memberships; {}, {} destroyed",
        s.engine,
        s.index.nodes,
        s.index.counters.capacity,
        counted(events[0] + events[1], "event"),
        counted(destroyed, "socket"),
    );
    if events[1] > 0 {
        line += &format!("; {} NOT COMPLETE", counted(events[1], "event"));
    }
    if s.order.is_some_and(|order| !order.last) {
        line += "; NOT THE LAST HOOKS";
    }
    line
}

fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_ages_until_the_next() {
        let beat = Heartbeat::every(Duration::from_millis(3));
        assert_eq!(beat.rest(), Duration::from_millis(3));
        thread::sleep(Duration::from_millis(5));
        assert!(beat.age() >= Duration::from_millis(5));
        beat.beat();
        let young = beat.age();
        thread::sleep(Duration::from_millis(5));
        assert!(beat.age() >= young + Duration::from_millis(5));
        // Clones are one.
        let other = beat.clone();
        let before = beat.age();
        other.beat();
        assert!(beat.age() < before);
    }
}
