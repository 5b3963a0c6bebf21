//! `skreap top`

mod backends;
mod end;
mod help;
mod keys;
mod narrow;
mod style;
#[cfg(test)]
mod tests;
mod view;

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event};
use ratatui::layout::Rect;
use serde::Deserialize as _;
use skreap::core::Request;
use skreap::status::Top;

use super::{Failure, SocketArg, client};
use keys::Next;
use view::View;

/// Longest wait for a look, which the screen says is missing then: a walk over a large index takes seconds, not minutes.
const PATIENCE: Duration = Duration::from_secs(120);
/// The frame of `--once`: what any terminal holds.
const ONCE: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArg,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Print one frame as text and end. This is the default if the output is not a terminal, or one that cannot move its
    /// cursor (TERM=dumb)
    #[arg(long)]
    once: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds from 0.1 to 3600".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let path = args.socket.path();
    // The first look is made before the screen is touched: its failure is an error like any other.
    let mut session = client::Session::connect_within(&path, PATIENCE)?;
    let mut view = View::new(look(&mut session)?);
    let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if args.once || dumb || !io::stdout().is_terminal() {
        print(&view)?;
        return Ok(());
    }
    let looks = keep_looking(path, session, Duration::from_secs_f64(args.interval))?;
    let ended = end::watch()?;
    // Also restores the terminal on a panic.
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let watched = read_events().and_then(|events| show(&mut terminal, &mut view, &looks, &events, &ended));
    // A terminal that is gone needs no farewell, and is no error.
    if end::hung_up() {
        // Its drop would try to show the cursor, and complain.
        std::mem::forget(terminal);
        return Ok(());
    }
    ratatui::restore();
    watched?;
    Ok(())
}

/// Draws whenever there is something new, until it is time to end.
fn show(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    looks: &Receiver<Look>,
    events: &Receiver<io::Result<Event>>,
    ended: &Receiver<()>,
) -> anyhow::Result<()> {
    loop {
        terminal
            .draw(|frame| view.draw(frame.area(), frame.buffer_mut()))
            .context("cannot draw on the terminal")?;
        select! {
            recv(ended) -> _ => return Ok(()),
            recv(looks) -> look => view.update(look.context("the thread that asks the service has ended")?),
            recv(events) -> event => {
                let event = event.context("the thread that reads keys has ended")?;
                match event.context("cannot read from the terminal")? {
                    Event::Key(key) if view.key(key) == Next::End => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// What the terminal sends, read by a thread of its own: it does not return once the terminal is gone.
fn read_events() -> anyhow::Result<Receiver<io::Result<Event>>> {
    let (sender, events) = bounded(64);
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            loop {
                let event = event::read();
                let failed = event.is_err();
                if sender.send(event).is_err() || failed {
                    return;
                }
            }
        })
        .context("cannot start the thread that reads keys")?;
    Ok(events)
}

fn look(session: &mut client::Session) -> anyhow::Result<Top> {
    let answer = session.ask(&Request::Top { id: client::id("top") })?;
    Top::deserialize(answer.get("top").context("the answer has no top")?).context("cannot read the answer")
}

/// What was seen, and when; or why nothing was.
type Look = (Instant, Result<Top, String>);

/// Looks again and again, on a thread of its own: keys are answered even when the service is not there.
fn keep_looking(
    path: PathBuf,
    session: client::Session,
    interval: Duration,
) -> anyhow::Result<Receiver<Look>> {
    let (sender, looks) = bounded(4);
    thread::Builder::new()
        .name("looks".to_owned())
        .spawn(move || watch(&path, session, interval, &sender))
        .context("cannot start a thread")?;
    Ok(looks)
}

fn watch(path: &Path, session: client::Session, interval: Duration, looks: &Sender<Look>) {
    let mut session = Some(session);
    loop {
        thread::sleep(interval);
        let seen = match session.take() {
            Some(session) => Ok(session),
            None => client::Session::connect_within(path, PATIENCE),
        };
        let seen = seen.and_then(|mut connected| {
            let seen = look(&mut connected)?;
            session = Some(connected);
            Ok(seen)
        });
        if looks.send((Instant::now(), seen.map_err(|e| format!("{e:#}")))).is_err() {
            return;
        }
    }
}

/// One frame as text, without spaces at the ends of lines.
fn print(view: &View) -> io::Result<()> {
    let mut buffer = Buffer::empty(ONCE);
    view.draw(ONCE, &mut buffer);
    let mut out = io::stdout().lock();
    for row in buffer.content.chunks(usize::from(ONCE.width)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
