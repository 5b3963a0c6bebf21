//! What ends `skreap top` from outside: a signal, or a terminal that has gone away.
//!
//! Neither may depend on the threads that use the terminal. The one that reads keys does not return once the terminal
//! is gone (crossterm reads on after EIO), and the one that draws is blocked while the terminal takes no output. So
//! the end is noticed by threads that do neither, and carried out by them if the screen has not been left in time.

use std::io;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::terminal::disable_raw_mode;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::super::serve::is_ignored;

/// How long the screen may take to be left in good order.
const GRACE: Duration = Duration::from_millis(500);

/// Receives once when it is time to end. A hangup that was ignored at the start (nohup) stays ignored.
pub(super) fn watch() -> anyhow::Result<Receiver<()>> {
    let (sender, ended) = bounded(1);
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals =
        Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup)).context("cannot handle signals")?;
    let on_signal = sender.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                end(&on_signal);
            }
        })
        .context("cannot start the signal thread")?;
    thread::Builder::new()
        .name("hangup".to_owned())
        .spawn(move || {
            wait_for_hangup();
            end(&sender);
        })
        .context("cannot start the thread that watches the terminal")?;
    Ok(ended)
}

/// Asks for the end, and ends the process if that has no effect.
fn end(sender: &Sender<()>) {
    // If there is something in it already, the end was asked for.
    let _ = sender.try_send(());
    thread::sleep(GRACE);
    // The screen cannot be written to; its settings can be restored nevertheless.
    let _ = disable_raw_mode();
    std::process::exit(0);
}

/// Returns when the terminal on stdout is gone, or cannot be watched any more.
fn wait_for_hangup() {
    loop {
        match poll_hangup(PollTimeout::NONE) {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                tracing::warn!("cannot watch the terminal: {e}");
                // Signals still end the process.
                loop {
                    thread::park();
                }
            }
        }
    }
}

/// True if the terminal on stdout is gone.
pub(super) fn hung_up() -> bool {
    poll_hangup(PollTimeout::ZERO).unwrap_or(false)
}

fn poll_hangup(timeout: PollTimeout) -> io::Result<bool> {
    let stdout = io::stdout();
    // No event is asked for: only a hangup or an error is reported.
    Ok(poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::empty())], timeout)? > 0)
}
