//! `skreap top`

mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use serde::Deserialize as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use skreap::core::Request;
use skreap::status::Top;

use super::{Failure, SocketArg, client};
use view::View;

/// How long a key may wait for the screen.
const TICK: Duration = Duration::from_millis(100);
/// The frame of `--once`: what any terminal holds.
const ONCE: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArg,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Print one frame as text and end; so it does when the output is no terminal
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
    let mut session = client::Session::connect(&path)?;
    let mut view = View::new(look(&mut session)?);
    if args.once || !io::stdout().is_terminal() {
        print(&view)?;
        return Ok(());
    }
    let looks = keep_looking(path, session, Duration::from_secs_f64(args.interval))?;
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).context("cannot handle signals")?;
    }
    // Also restores the terminal on a panic.
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let watched = (|| {
        while !ended.load(Ordering::Relaxed) {
            terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut()))?;
            if !event::poll(TICK)? {
                looks.try_iter().for_each(|look| view.update(look));
                continue;
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Release => {}
                Event::Key(key) => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => break,
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => break,
                    KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
                    KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
                    KeyCode::PageDown | KeyCode::Char(' ') => view.scroll(10),
                    KeyCode::PageUp => view.scroll(-10),
                    KeyCode::Home => view.scroll(isize::MIN),
                    _ => {}
                },
                _ => {}
            }
        }
        io::Result::Ok(())
    })();
    ratatui::restore();
    watched.context("cannot draw on the terminal")?;
    Ok(())
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
            None => client::Session::connect(path),
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
