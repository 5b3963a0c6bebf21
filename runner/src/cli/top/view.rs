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
use super::style::{heading, numbers};

/// Most events shown; the rest of the screen is for backends.
const EVENTS_SHOWN: u16 = 8;
/// From this height on there is room for more than the lists.
const TALL: u16 = 40;

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
        let [head, facts, _, latency, _, backends, _, recent, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(3),
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
        self.draw_facts(facts, buffer);
        if tall {
            self.draw_latency(latency, buffer);
        } else {
            self.latency_line().render(latency, buffer);
        }
        let rows = self.list.rows(&self.top, self.before());
        let table = self.list.table(&rows, self.top.backends, backends.width);
        ratatui::widgets::Widget::render(table, backends, buffer);
        self.draw_recent(recent, buffer);
        self.draw_foot(foot, buffer);
    }

    fn draw_head(&self, area: Rect, buffer: &mut Buffer) {
        let s = &self.top.status;
        let up = age(Duration::from_nanos(s.uptime_ns));
        let clients = counted(s.clients.connected, "client");
        let line = format!(" skreap {}   engine {}   up {up}   {clients}", s.version, s.engine);
        buffer.set_style(area, Style::new().add_modifier(Modifier::REVERSED));
        Line::raw(line).render(area, buffer);
    }

    fn draw_facts(&self, area: Rect, buffer: &mut Buffer) {
        let (s, t) = (&self.top.status, &self.top.status.totals);
        let c = &s.index.counters;
        let full = s.index.nodes * 100 / c.capacity.max(1);
        let index = format!(
            "{} to {}, {} of {} nodes ({full} %)",
            counted(self.top.sockets, "socket"),
            counted(self.top.backends, "backend"),
            grouped(s.index.nodes),
            grouped(c.capacity),
        );
        let per_second =
            |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(" ({}/s)", rated(rate)));
        let destroyed = t.all_destroyed();
        let events = format!(
            "{}{}, {} waiting; {}{} {} destroyed",
            grouped(t.all_events()),
            per_second(self.rate(|top| top.status.totals.all_events())),
            grouped(s.waiting),
            grouped(destroyed),
            per_second(self.rate(|top| top.status.totals.all_destroyed())),
            plural(destroyed, "socket", "sockets"),
        );
        let [first, second, third] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
        Line::from(vec![label("index"), Span::raw(index)]).render(first, buffer);
        Line::from(vec![label("events"), Span::raw(events)]).render(second, buffer);
        self.health_line().render(third, buffer);
    }

    fn health_line(&self) -> Line<'static> {
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
        let mut health = vec![label("health")];
        for (i, (name, n)) in alarms.into_iter().enumerate() {
            let gap = if i == 0 { "" } else { ", " };
            let style = if n > 0 { alarm() } else { Style::new() };
            health.push(Span::raw(gap));
            health.push(Span::styled(format!("{name} {}", grouped(n)), style));
        }
        Line::from(health)
    }

    /// The whole time of an event, where there is one line for it.
    fn latency_line(&self) -> Line<'static> {
        let l = &self.top.status.latency;
        let t = &l.total;
        let text = match l.count {
            0 => "no event yet".to_owned(),
            n => format!(
                "p50 {}, p90 {}, p99 {}, max {} ({})",
                duration(t.p50_ns),
                duration(t.p90_ns),
                duration(t.p99_ns),
                duration(t.max_ns),
                last_events(n)
            ),
        };
        Line::from(vec![label("latency"), Span::raw(text)])
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
        let room = area.width.saturating_sub(OTHERS.iter().map(|c| c + 1).sum());
        let name = u16::try_from(longest).unwrap_or(u16::MAX).min(room).max(10);
        let [ago, result, killed, took] = OTHERS;
        let widths = [ago, name, result, killed, took].map(Constraint::Length);
        let rows = recent.iter().zip(names).map(|(event, name)| event_row(event, name));
        let head =
            Row::new(["LAST EVENTS", "BACKEND", "RESULT", "KILLED", "TOOK"].map(Cell::from)).style(heading());
        let table = Table::new(rows.collect::<Vec<_>>(), widths).header(head);
        ratatui::widgets::Widget::render(table, area, buffer);
    }

    fn draw_foot(&self, area: Rect, buffer: &mut Buffer) {
        let line = match (&self.failed, self.mode) {
            (_, Mode::Filter) => Line::raw(format!("/{}_   Enter keeps, Esc drops", self.list.filter)),
            (Some(why), _) => Line::styled(format!("no answer, trying on: {why}"), alarm()),
            (None, _) => {
                let took = duration(self.top.took_ns);
                Line::raw(format!("q ends, ? explains, / filters, c r u n b sort; index read in {took}"))
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

fn event_row(event: &Recent, subject: String) -> Row<'static> {
    let ago = format!("  {} ago", brief_age(Duration::from_nanos(event.age_ns)));
    let color = match event.result {
        EventResult::Complete | EventResult::DryRun => Color::Reset,
        _ => Color::Red,
    };
    let result = Cell::from(event.result.name()).style(Style::new().fg(color));
    let killed = format!("{} of {}", short(event.destroyed), short(event.victims));
    Row::new([Cell::from(ago), subject.into(), result, killed.into(), duration(event.total_ns).into()])
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
