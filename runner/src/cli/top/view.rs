//! What `skreap top` shows, on any area.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, Widget as _};
use skreap::core::{Backend, PhaseSummary};
use skreap::status::{EventResult, Recent, Top};

use super::super::text::{age, duration, grouped, short};

/// Most events shown; the rest of the screen is for backends.
const EVENTS_SHOWN: u16 = 8;

/// The last two looks.
pub(super) struct View {
    top: Top,
    at: Instant,
    before: Option<(Instant, Top)>,
    /// Why the last look failed.
    failed: Option<String>,
    scrolled: usize,
}

impl View {
    pub(super) fn new(top: Top) -> Self {
        Self { top, at: Instant::now(), before: None, failed: None, scrolled: 0 }
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
        let last = self.top.largest.len().saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add_signed(rows).min(last);
    }

    /// Change of a number per second between the last two looks.
    fn rate(&self, of: impl Fn(&Top) -> u64) -> Option<f64> {
        let (at, before) = self.before.as_ref()?;
        let seconds = self.at.duration_since(*at).as_secs_f64();
        (seconds > 0.0).then(|| (of(&self.top) as f64 - of(before) as f64) / seconds)
    }

    pub(super) fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let events = (self.top.status.recent.len() as u16).clamp(1, EVENTS_SHOWN.min(area.height / 5).max(1));
        let [head, facts, _, latency, _, backends, _, recent, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(3),
            Constraint::Length(1),
            Constraint::Length(5),
            Constraint::Length(1),
            Constraint::Min(2),
            Constraint::Length(1),
            Constraint::Length(1 + events),
            Constraint::Length(1),
        ])
        .areas(area);
        self.draw_head(head, buffer);
        self.draw_facts(facts, buffer);
        self.draw_latency(latency, buffer);
        self.draw_backends(backends, buffer);
        self.draw_recent(recent, buffer);
        self.draw_foot(foot, buffer);
    }

    fn draw_head(&self, area: Rect, buffer: &mut Buffer) {
        let s = &self.top.status;
        let up = age(Duration::from_nanos(s.uptime_ns));
        let left = format!(" skreap {}   engine {}   up {up}", s.version, s.engine);
        let clients = s.clients.connected;
        let right = format!("{clients} client{} ", if clients == 1 { "" } else { "s" });
        let style = Style::new().add_modifier(Modifier::REVERSED);
        buffer.set_style(area, style);
        Line::raw(left).render(area, buffer);
        Line::raw(right).right_aligned().render(area, buffer);
    }

    fn draw_facts(&self, area: Rect, buffer: &mut Buffer) {
        let (s, t) = (&self.top.status, &self.top.status.totals);
        let c = &s.index.counters;
        let full = s.index.nodes * 100 / c.capacity.max(1);
        let index = format!(
            "{} sockets to {} backends, {} of {} nodes ({full} %)",
            grouped(self.top.sockets),
            grouped(self.top.backends),
            grouped(s.index.nodes),
            grouped(c.capacity),
        );
        let per_second =
            |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(" ({}/s)", rated(rate)));
        let events = format!(
            "{}{}, {} waiting; {}{} sockets destroyed",
            grouped(t.all_events()),
            per_second(self.rate(|top| top.status.totals.all_events())),
            grouped(s.waiting),
            grouped(t.all_destroyed()),
            per_second(self.rate(|top| top.status.totals.all_destroyed())),
        );
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
            let style =
                if n > 0 { Style::new().fg(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() };
            health.push(Span::raw(gap));
            health.push(Span::styled(format!("{name} {}", grouped(n)), style));
        }
        let [first, second, third] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
        Line::from(vec![label("index"), Span::raw(index)]).render(first, buffer);
        Line::from(vec![label("events"), Span::raw(events)]).render(second, buffer);
        Line::from(health).render(third, buffer);
    }

    fn draw_latency(&self, area: Rect, buffer: &mut Buffer) {
        let l = &self.top.status.latency;
        let title = match l.count {
            0 => "LATENCY".to_owned(),
            1 => "LATENCY (1 event)".to_owned(),
            n => format!("LATENCY (last {n} events)"),
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

    fn draw_backends(&self, area: Rect, buffer: &mut Buffer) {
        let before: Option<(f64, HashMap<Backend, u64>)> = self.before.as_ref().map(|(at, top)| {
            let sizes = top.largest.iter().map(|b| (b.backend, b.sockets.connected)).collect();
            (self.at.duration_since(*at).as_secs_f64(), sizes)
        });
        let rows = self.top.largest.iter().skip(self.scrolled).map(|b| {
            // What is new among the largest may have been there before, unseen: it has no rate.
            let change = before
                .as_ref()
                .and_then(|(seconds, sizes)| {
                    let change = b.sockets.connected as f64 - *sizes.get(&b.backend)? as f64;
                    (change != 0.0 && *seconds > 0.0).then(|| signed(change / seconds))
                })
                .unwrap_or_default();
            let n = &b.sockets;
            numbers(
                format!("  {}", b.backend),
                [short(n.connected), change, short(n.unconnected), short(n.netns)],
            )
        });
        let title = match self.scrolled {
            0 => "BACKEND".to_owned(),
            n => format!("BACKEND (from {} on)", n + 1),
        };
        let heads = ["SOCKETS", "/S", "UNCONN", "NETNS"].map(str::to_owned);
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(6),
        ];
        let table = Table::new(rows, widths).header(numbers(title, heads).style(heading()));
        ratatui::widgets::Widget::render(table, area, buffer);
    }

    fn draw_recent(&self, area: Rect, buffer: &mut Buffer) {
        let rows = self.top.status.recent.iter().map(event_row);
        let head =
            Row::new(["LAST EVENTS", "BACKEND", "RESULT", "KILLED", "TOOK"].map(Cell::from)).style(heading());
        let widths = [
            Constraint::Length(13),
            Constraint::Fill(1),
            Constraint::Length(10),
            Constraint::Length(14),
            Constraint::Length(8),
        ];
        ratatui::widgets::Widget::render(Table::new(rows, widths).header(head), area, buffer);
    }

    fn draw_foot(&self, area: Rect, buffer: &mut Buffer) {
        match &self.failed {
            Some(why) => {
                let style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
                Line::styled(format!("no answer, trying on: {why}"), style).render(area, buffer);
            }
            None => {
                let took = duration(self.top.took_ns);
                Line::raw("q quits, arrows scroll").render(area, buffer);
                Line::raw(format!("index read in {took} ")).right_aligned().render(area, buffer);
            }
        }
    }
}

fn heading() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn label(name: &str) -> Span<'static> {
    Span::styled(format!("{name:<8}"), heading())
}

/// A name, and numbers that end below each other.
fn numbers(name: String, numbers: [String; 4]) -> Row<'static> {
    let cells = numbers.map(|n| Cell::from(Line::raw(n).right_aligned()));
    Row::new(std::iter::once(Cell::from(name)).chain(cells))
}

fn event_row(event: &Recent) -> Row<'static> {
    let ago = format!("  {} ago", brief_age(Duration::from_nanos(event.age_ns)));
    let backend = match (event.backend, event.backends) {
        (Some(backend), 0 | 1) => backend.to_string(),
        (Some(backend), n) => format!("{backend} and {} more", n - 1),
        (None, _) => event.kind.clone(),
    };
    let color = match event.result {
        EventResult::Complete | EventResult::DryRun => Color::Reset,
        _ => Color::Red,
    };
    let result = Cell::from(event.result.name()).style(Style::new().fg(color));
    let killed = format!("{} of {}", short(event.destroyed), short(event.victims));
    Row::new([Cell::from(ago), backend.into(), result, killed.into(), duration(event.total_ns).into()])
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

fn signed(rate: f64) -> String {
    let size = rate.abs();
    let text = if size < 10.0 { format!("{size:.1}") } else { short(size.round() as u64) };
    format!("{}{text}", if rate < 0.0 { '-' } else { '+' })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A service with two backends and one event, `sockets` connected to the first backend.
    fn top(sockets: u64, events: u64) -> Top {
        let phase = json!({"p50": 1500, "p90": 21_400, "p99": 452_000, "max": 2_740_000, "clamped": 0});
        let counters = skreap::bpf::Counters { capacity: 1_048_576, ..Default::default() };
        let backend =
            |name: &str, n: u64| json!({"backend": name, "connected": n, "unconnected": 3, "netns": 2});
        serde_json::from_value(json!({
            "status": {
                "version": "0.1.0", "pid": 7, "uptime_ns": 11_520_000_000_000_u64, "engine": "netlink",
                "engine_why": "", "cgroup": "/sys/fs/cgroup", "unconnected": "preserve",
                "index": {"max_sockets": 1_048_576, "nodes": sockets + 5, "map_bytes": 1, "incomplete_marks": 0,
                          "counters": counters},
                "totals": {"events": {"backend-deleted": {"complete": events}}, "destroyed": {"netlink": {"udp": 12_345}},
                           "skipped": skreap::core::Skipped::default(), "failed": {"EPERM": 2}, "incomplete": {}},
                "latency": {"count": events, "queue": phase, "walk": phase, "destroy": phase, "total": phase},
                "waiting": 1, "clients": skreap::source::ClientCounts { connected: 2, ..Default::default() },
                "hooks": [], "order": null, "audit": null,
                "recent": [{"age_ns": 61_000_000_000_u64, "id": "e", "type": "backend-deleted",
                            "backend": "tcp://[fd00:1111:2222::5]:8080", "backends": 1, "result": "failed",
                            "victims": 16_000, "destroyed": 15_998, "total_ns": 2_740_000}]
            },
            "sockets": sockets + 5, "backends": 2,
            "largest": [backend("udp://10.0.0.1:53", sockets), backend("tcp://[fd00:1111:2222::5]:8080", 5)],
            "moved_on": 0, "no_peer": 0, "age_ns": 0, "took_ns": 54_000
        }))
        .unwrap()
    }

    fn lines(view: &View, width: u16, height: u16) -> Vec<String> {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        view.draw(area, &mut buffer);
        let rows = buffer.content.chunks(usize::from(width.max(1)));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn all_of_it_fits_80_by_24() {
        let mut view = View::new(top(16_000, 1));
        let later = view.at + Duration::from_secs(2);
        view.update((later, Ok(top(16_100, 11))));
        let lines = lines(&view, 80, 24);
        let all = lines.join("\n");
        for text in [
            " skreap 0.1.0   engine netlink   up 3 h 12 min",
            "2 clients",
            "index   16,105 sockets to 2 backends, 16,105 of 1,048,576 nodes (1 %)",
            "events  11 (5.0/s), 1 waiting; 12,345 (0/s) sockets destroyed",
            "health  failed 2, incomplete 0, errors 0, dropped 0, stale 0",
            "  total                        1.50 µs     21.4 µs      452 µs     2.74 ms",
            "  udp://10.0.0.1:53",
            "16.1k      +50       3      2",
            "  61 s ago",
            "tcp://[fd00:1111:2222::5]:8080",
            "15.9k of 16.0k",
            "2.74 ms",
            "index read in 54.0 µs",
        ] {
            assert!(all.contains(text), "no {text:?} in\n{all}");
        }
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn no_area_is_too_small() {
        let view = View::new(top(5, 0));
        for (width, height) in [(0, 0), (1, 1), (10, 3), (79, 5), (40, 24), (300, 100)] {
            lines(&view, width, height);
        }
    }

    #[test]
    fn another_service_has_no_rates_and_silence_is_said() {
        let mut view = View::new(top(5, 9));
        let mut other = top(7, 1);
        other.status.pid = 8;
        view.update((view.at + Duration::from_secs(1), Ok(other)));
        assert!(view.rate(|top| top.sockets).is_none());
        view.update((view.at + Duration::from_secs(2), Err("gone".to_owned())));
        assert!(lines(&view, 80, 24).join("\n").contains("no answer, trying on: gone"));
        view.scroll(100);
        assert_eq!(view.scrolled, 1);
        view.scroll(isize::MIN);
        assert_eq!(view.scrolled, 0);
    }
}
