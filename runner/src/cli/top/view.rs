//! What `skreap top` shows, on any area.

use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, Widget as _};
use skreap::core::PhaseSummary;
use skreap::status::{EventResult, Recent, Top};

use super::super::text::{age, counted, duration, grouped, plural, short};
use super::backends::List;
use super::help::draw_help;
use super::narrow::{as_many_as_fit, columns_that_fit, cut, wrap};
use super::style::{heading, numbers};

/// Most events shown; the rest of the screen is for backends.
const EVENTS_SHOWN: u16 = 8;
/// From this height on there is room for more than the lists.
const TALL: u16 = 40;

/// The width of the table of phases.
const LATENCY_TABLE: u16 = 74;
/// What the name of a backend should have before there is room for more columns.
const NAME: u16 = 14;

/// What takes the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    List,
    /// Letters go to the filter.
    Filter,
    Help,
}

/// The last two looks, and what of them is shown.
pub(super) struct View {
    pub(super) top: Top,
    pub(super) at: Instant,
    before: Option<(Instant, Top)>,
    /// Why the last look failed.
    failed: Option<String>,
    pub(super) list: List,
    pub(super) mode: Mode,
}

impl View {
    pub(super) fn new(top: Top) -> Self {
        Self {
            top,
            at: Instant::now(),
            before: None,
            failed: None,
            list: List::default(),
            mode: Mode::default(),
        }
    }

    pub(super) fn update(&mut self, (at, seen): (Instant, Result<Top, String>)) {
        match seen {
            Ok(top) => {
                let old = std::mem::replace(&mut self.top, top);
                // Another service counts from 0: there is no rate between the two.
                let same = old.status.pid == self.top.status.pid;
                self.before = same.then_some((self.at, old));
                self.at = at;
                self.failed = None;
            }
            Err(why) => self.failed = Some(why),
        }
        self.scroll(0);
    }

    pub(super) fn scroll(&mut self, rows: isize) {
        let last = self.list.rows(&self.top, None).len().saturating_sub(1);
        self.list.scrolled = self.list.scrolled.saturating_add_signed(rows).min(last);
    }

    /// The look before the last one, and the time between the two.
    fn before(&self) -> Option<(Duration, &Top)> {
        self.before.as_ref().map(|(at, top)| (self.at.duration_since(*at), top))
    }

    /// Change of a number per second between the last two looks.
    pub(super) fn rate(&self, of: impl Fn(&Top) -> u64) -> Option<f64> {
        let (time, before) = self.before()?;
        let seconds = time.as_secs_f64();
        (seconds > 0.0).then(|| (of(&self.top) as f64 - of(before) as f64) / seconds)
    }

    pub(super) fn draw(&self, area: Rect, buffer: &mut Buffer) {
        if self.mode == Mode::Help {
            return draw_help(area, buffer);
        }
        // What a small screen leaves out, lists need more.
        let tall = area.height >= TALL;
        let (gap, latency, share) = if tall { (1, 5, 5) } else { (0, 1, 8) };
        let most = EVENTS_SHOWN.min(area.height / share).max(1);
        let events = (self.top.status.recent.len() as u16).clamp(1, most);
        let lines = self.facts(area.width);
        let latency_lines =
            if tall && area.width >= LATENCY_TABLE { None } else { Some(self.latency_lines(area.width)) };
        let latency = latency_lines.as_ref().map_or(latency, |lines| lines.len() as u16);
        let [head, facts, _, latency, _, backends, _, recent, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(lines.len() as u16),
            Constraint::Length(gap),
            Constraint::Length(latency),
            Constraint::Length(gap),
            Constraint::Min(2),
            Constraint::Length(gap),
            Constraint::Length(1 + events),
            Constraint::Length(1),
        ])
        .areas(area);
        self.draw_head(head, buffer);
        draw_lines(lines, facts, buffer);
        match latency_lines {
            Some(lines) => draw_lines(lines, latency, buffer),
            None => self.draw_latency(latency, buffer),
        }
        let rows = self.list.rows(&self.top, self.before());
        let table = self.list.table(&rows, (self.top.largest.len(), self.top.backends), backends.width);
        ratatui::widgets::Widget::render(table, backends, buffer);
        self.draw_recent(recent, buffer);
        self.draw_foot(foot, buffer);
    }

    fn draw_head(&self, area: Rect, buffer: &mut Buffer) {
        let s = &self.top.status;
        let up = age(Duration::from_nanos(s.uptime_ns));
        let clients = counted(s.clients.connected, "client");
        let parts =
            [format!(" skreap {}", s.version), format!("engine {}", s.engine), format!("up {up}"), clients];
        buffer.set_style(area, Style::new().add_modifier(Modifier::REVERSED));
        Line::raw(as_many_as_fit(&parts, "   ", area.width)).render(area, buffer);
    }

    fn facts(&self, width: u16) -> Vec<Line<'static>> {
        let (s, t) = (&self.top.status, &self.top.status.totals);
        let c = &s.index.counters;
        let full = s.index.nodes * 100 / c.capacity.max(1);
        let index = [
            format!("{} to {},", counted(self.top.sockets, "socket"), counted(self.top.backends, "backend")),
            format!("{} of {} nodes ({full} %)", grouped(s.index.nodes), grouped(c.capacity)),
        ];
        let sockets = s.sockets.unwrap_or_default();
        let sockets = [
            format!("{} connected,", grouped(sockets.connected)),
            format!("{} unconnected,", grouped(sockets.unconnected)),
            format!("{} without a peer,", grouped(sockets.no_peer)),
            format!("{} moved on", grouped(sockets.moved_on)),
        ];
        let per_second =
            |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(" ({}/s)", rated(rate)));
        let destroyed = t.all_destroyed();
        let events = [
            format!(
                "{}{},",
                grouped(t.all_events()),
                per_second(self.rate(|top| top.status.totals.all_events()))
            ),
            format!("{} waiting;", grouped(s.waiting)),
            format!(
                "{}{} {} destroyed",
                grouped(destroyed),
                per_second(self.rate(|top| top.status.totals.all_destroyed())),
                plural(destroyed, "socket", "sockets"),
            ),
        ];
        let plain =
            |name, parts: &[String]| wrap(label(name), parts.iter().cloned().map(Span::raw).collect(), width);
        let mut lines = plain("index", &index);
        lines.extend(plain("sockets", &sockets));
        lines.extend(self.frontends().into_iter().flat_map(|parts| plain("named", &parts)));
        lines.extend(plain("events", &events));
        lines.extend(wrap(label("health"), self.health(), width));
        lines
    }

    /// What the owners of the sockets named, where that is recorded.
    fn frontends(&self) -> Option<[String; 4]> {
        let known = self.top.status.index.frontends?;
        let ways = self.top.status.sockets.unwrap_or_default().frontends.unwrap_or_default();
        Some([
            format!("{} the backend itself,", grouped(ways.direct)),
            format!("{} a frontend,", grouped(ways.translated)),
            format!("{} unknown;", grouped(ways.unknown)),
            format!("{} of {} frontends", grouped(known.known), grouped(known.room)),
        ])
    }

    fn health(&self) -> Vec<Span<'static>> {
        let (s, t) = (&self.top.status, &self.top.status.totals);
        let c = &s.index.counters;
        let mut alarms: Vec<(&str, u64)> = vec![
            ("failed", t.all_failed()),
            ("incomplete", t.results(EventResult::Incomplete)),
            ("errors", t.results(EventResult::Error)),
            ("dropped", c.dropped_full + c.dropped_chain),
            ("stale", c.stale),
        ];
        if let Some(audit) = &s.audit {
            alarms.push(("audit", audit.differences()));
        }
        if s.order.is_some_and(|order| !order.last) {
            alarms.push(("hooks not last", 1));
        }
        if s.order.and_then(|order| order.first).is_some_and(|place| !place.first) {
            alarms.push(("hooks not first", 1));
        }
        let last = alarms.len() - 1;
        let span = |(i, (name, n)): (usize, (&str, u64))| {
            let style = if n > 0 { alarm() } else { Style::new() };
            let end = if i == last { "" } else { "," };
            Span::styled(format!("{name} {}{end}", grouped(n)), style)
        };
        alarms.into_iter().enumerate().map(span).collect()
    }

    /// The whole time of an event, where there is no room for a table.
    fn latency_lines(&self, width: u16) -> Vec<Line<'static>> {
        let l = &self.top.status.latency;
        let t = &l.total;
        let parts = match l.count {
            0 => vec!["no event yet".to_owned()],
            n => vec![
                format!("p50 {},", duration(t.p50_ns)),
                format!("p90 {},", duration(t.p90_ns)),
                format!("p99 {},", duration(t.p99_ns)),
                format!("max {}", duration(t.max_ns)),
                format!("({})", last_events(n)),
            ],
        };
        wrap(label("latency"), parts.into_iter().map(Span::raw).collect(), width)
    }

    fn draw_latency(&self, area: Rect, buffer: &mut Buffer) {
        let l = &self.top.status.latency;
        let title = match l.count {
            0 => "LATENCY".to_owned(),
            n => format!("LATENCY ({})", last_events(n)),
        };
        let row = |name: &str, p: &PhaseSummary| {
            let cells = if l.count == 0 {
                ["-", "-", "-", "-"].map(str::to_owned)
            } else {
                [p.p50_ns, p.p90_ns, p.p99_ns, p.max_ns].map(duration)
            };
            numbers(format!("  {name}"), cells)
        };
        let rows = [
            row("queue", &l.queue),
            row("walk", &l.walk),
            row("destroy", &l.destroy),
            row("total", &l.total),
        ];
        let widths = [26, 11, 11, 11, 11].map(Constraint::Length);
        let head = numbers(title, ["P50", "P90", "P99", "MAX"].map(str::to_owned)).style(heading());
        ratatui::widgets::Widget::render(Table::new(rows, widths).header(head), area, buffer);
    }

    fn draw_recent(&self, area: Rect, buffer: &mut Buffer) {
        const OTHERS: [u16; 4] = [13, 10, 14, 8];
        let recent = &self.top.status.recent;
        let names: Vec<String> = recent.iter().map(subject).collect();
        let longest = names.iter().map(String::len).max().unwrap_or_default().max("BACKEND".len());
        let longest = u16::try_from(longest).unwrap_or(u16::MAX);
        let fit = columns_that_fit(&OTHERS, longest.min(NAME), area.width).max(1);
        let room = area.width.saturating_sub(OTHERS.iter().take(fit).map(|c| c + 1).sum());
        let name = longest.min(room);
        let [ago, result, killed, took] = OTHERS;
        let widths = [ago, name, result, killed, took].map(Constraint::Length).into_iter().take(fit + 1);
        let rows = recent.iter().zip(names).map(|(event, text)| event_row(event, cut(text, name), fit + 1));
        let head = ["LAST EVENTS", "BACKEND", "RESULT", "KILLED", "TOOK"].map(Cell::from);
        let head = Row::new(head.into_iter().take(fit + 1)).style(heading());
        let table = Table::new(rows.collect::<Vec<_>>(), widths).header(head);
        ratatui::widgets::Widget::render(table, area, buffer);
    }

    fn draw_foot(&self, area: Rect, buffer: &mut Buffer) {
        let line = match (&self.failed, self.mode) {
            (_, Mode::Filter) => {
                let (sent, all) = (self.top.largest.len() as u64, self.top.backends);
                let only = match all > sent {
                    true => format!("; of {} the {sent} largest are searched", short(all)),
                    false => String::new(),
                };
                Line::raw(format!("/{}_   Enter keeps, Esc drops{only}", self.list.filter))
            }
            (Some(why), _) => Line::styled(format!("no answer, trying on: {why}"), alarm()),
            (None, _) => {
                let took = format!("index read in {}", duration(self.top.took_ns));
                let keys = ["q ends", "? explains", "/ filters", "c r u n b sort"].map(str::to_owned);
                Line::raw(as_many_as_fit(&[keys.as_slice(), &[took]].concat(), ", ", area.width))
            }
        };
        line.render(area, buffer);
    }
}

fn last_events(n: u64) -> String {
    if n == 1 { "1 event".to_owned() } else { format!("last {} events", grouped(n)) }
}

fn alarm() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn label(name: &str) -> Span<'static> {
    Span::styled(format!("{name:<8}"), heading())
}

/// What an event is about.
fn subject(event: &Recent) -> String {
    match (event.backend, event.backends) {
        (Some(backend), 0 | 1) => backend.to_string(),
        (Some(backend), n) => format!("{backend} and {} more", n - 1),
        (None, _) => event.kind.clone(),
    }
}

fn draw_lines(lines: Vec<Line<'static>>, area: Rect, buffer: &mut Buffer) {
    for (row, line) in area.rows().zip(lines) {
        line.render(row, buffer);
    }
}

/// The first `columns` of it.
fn event_row(event: &Recent, subject: String, columns: usize) -> Row<'static> {
    let ago = format!("  {} ago", brief_age(Duration::from_nanos(event.age_ns)));
    let color = match event.result {
        EventResult::Complete | EventResult::DryRun => Color::Reset,
        _ => Color::Red,
    };
    let result = Cell::from(event.result.name()).style(Style::new().fg(color));
    let killed = format!("{} of {}", short(event.destroyed), short(event.victims));
    let cells = [Cell::from(ago), subject.into(), result, killed.into(), duration(event.total_ns).into()];
    Row::new(cells.into_iter().take(columns))
}

/// The largest unit alone.
fn brief_age(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

fn rated(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { short(rate.max(0.0).round() as u64) }
}
