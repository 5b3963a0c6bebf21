//! What `top` draws, and what keys do to it.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use serde_json::json;
use skreap::status::Top;

use super::keys::Next;
use super::view::View;

/// A service with two backends and one event, `sockets` connected to the first backend.
fn top(sockets: u64, events: u64) -> Top {
    let phase = json!({"p50": 1500, "p90": 21_400, "p99": 452_000, "max": 2_740_000, "clamped": 0});
    let mut counters = skreap::bpf::Counters::default();
    counters.capacity = 1_048_576;
    let mut clients = skreap::source::ClientCounts::default();
    clients.connected = 2;
    let backend = |name: &str, n: u64| json!({"backend": name, "connected": n, "unconnected": 3, "netns": 2});
    serde_json::from_value(json!({
        "status": {
            "version": "0.1.0", "pid": 7, "uptime_ns": 11_520_000_000_000_u64, "engine": "netlink",
            "engine_why": "", "cgroup": "/sys/fs/cgroup", "unconnected": "preserve",
            "index": {"max_sockets": 1_048_576, "nodes": sockets + 5, "map_bytes": 1, "incomplete_backends": 0,
                      "counters": counters},
            "totals": {"events": {"backend-deleted": {"complete": events}}, "destroyed": {"netlink": {"udp": 12_345}},
                       "skipped": skreap::core::Skipped::default(), "failed": {"EPERM": 2}, "incomplete": {}},
            "latency": {"count": events, "queue": phase, "walk": phase, "destroy": phase, "total": phase},
            "waiting": 1, "clients": clients,
            "sockets": {"connected": sockets + 5, "unconnected": 6, "no_peer": 2, "moved_on": 1},
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
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn all_of_it_fits_80_by_24() {
    let mut view = View::new(top(16_000, 1));
    let later = view.at + Duration::from_secs(2);
    view.update((later, Ok(top(16_100, 11))));
    let lines = lines(&view, 80, 24);
    let all = lines.join("\n");
    for text in [
        " skreap 0.1.0   engine netlink   up 3 h 12 min   2 clients",
        "index   16,105 sockets to 2 backends, 16,105 of 1,048,576 nodes (1 %)",
        "sockets 16,105 connected, 6 unconnected, 2 without a peer, 1 moved on",
        "events  11 (5.0/s), 1 waiting; 12,345 (0/s) sockets destroyed",
        "health  failed 2, incomplete 0, errors 0, dropped 0, stale 0",
        "latency p50 1.50 µs, p90 21.4 µs, p99 452 µs, max 2.74 ms (last 11 events)",
        "BACKEND                           SOCKETS↓        /S   UNCONN   NETNS",
        "  udp://10.0.0.1:53                  16.1k       +50        3       2",
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
fn what_owners_named_is_shown_where_it_is_recorded() {
    let plain = lines(&View::new(top(16_000, 1)), 80, 24).join("\n");
    assert!(!plain.contains("named"), "{plain}");
    let mut view = serde_json::to_value(top(16_000, 1)).unwrap();
    view["status"]["index"]["frontends"] =
        json!({"known": 3, "room": 16_384, "not_first": 1, "no_note": 0, "table_full": 0});
    view["status"]["sockets"]["frontends"] = json!({"direct": 5, "translated": 16_000, "unknown": 6});
    view["status"]["order"] = json!({"last": true, "moves": 0, "held_back": 0, "behind": 0, "rekeyed": 0,
                                     "first": {"first": false, "moves": 2}});
    let all = lines(&View::new(serde_json::from_value(view).unwrap()), 100, 24).join("\n");
    let text = "named   5 the backend itself, 16,000 a frontend, 6 unknown; 3 of 16,384 frontends";
    assert!(all.contains(text), "{all}");
    assert!(all.contains("hooks not first 1"), "{all}");
}

#[test]
fn one_of_each_is_said_so() {
    let mut one = top(1, 1);
    one.sockets = 1;
    one.backends = 1;
    one.status.clients.connected = 1;
    one.status.totals.destroyed.values_mut().for_each(|by| by.values_mut().for_each(|n| *n = 1));
    let all = lines(&View::new(one), 80, 24).join("\n");
    for text in ["   1 client\n", "index   1 socket to 1 backend, ", "; 1 socket destroyed", "(1 event)"] {
        assert!(all.contains(text), "no {text:?} in\n{all}");
    }
}

/// `many` backends: the `n`th has `n` sockets, `10 - n % 10` unconnected ones, and is in `n % 7` netns.
fn many(many: u64) -> Top {
    let mut top = top(1, 0);
    let backend = |n: u64| json!({"backend": format!("udp://10.0.0.{n}:53"), "connected": n, "unconnected": 10 - n % 10, "netns": n % 7});
    top.largest = (1..=many).rev().map(|n| serde_json::from_value(backend(n)).unwrap()).collect();
    top.backends = many;
    top
}

/// The last numbers of the addresses that are shown, from the top.
fn shown(view: &View, width: u16, height: u16) -> Vec<u64> {
    let lines = lines(view, width, height);
    let from = lines.iter().position(|line| line.starts_with("BACKEND")).unwrap();
    let rows = lines[from + 1..].iter().map_while(|line| line.strip_prefix("  udp://10.0.0."));
    rows.map(|row| row.split_once(':').unwrap().0.parse().unwrap()).collect()
}

fn press(view: &mut View, keys: &str) -> Next {
    let mut next = Next::Stay;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            letter => KeyCode::Char(letter),
        };
        next = view.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    next
}

#[test]
fn a_small_screen_is_for_backends() {
    let view = View::new(many(90));
    assert_eq!(shown(&view, 80, 24).len(), 14);
    assert_eq!(shown(&view, 200, 50).len(), 33);
    assert!(lines(&view, 200, 50).join("\n").contains("  destroy  "));
}

/// Nothing is cut off without a mark, and no column is half there.
#[test]
fn all_of_it_fits_40_columns() {
    let mut view = View::new(top(16_000, 1));
    view.update((view.at + Duration::from_secs(2), Ok(top(16_100, 11))));
    assert_eq!(
        lines(&view, 40, 24),
        [
            " skreap 0.1.0   engine netlink",
            "index   16,105 sockets to 2 backends,",
            "        16,105 of 1,048,576 nodes (1 %)",
            "sockets 16,105 connected, 6 unconnected,",
            "        2 without a peer, 1 moved on",
            "events  11 (5.0/s), 1 waiting;",
            "        12,345 (0/s) sockets destroyed",
            "health  failed 2, incomplete 0,",
            "        errors 0, dropped 0, stale 0",
            "latency p50 1.50 µs, p90 21.4 µs,",
            "        p99 452 µs, max 2.74 ms",
            "        (last 11 events)",
            "BACKEND               SOCKETS↓        /S",
            "  udp://10.0.0.1:53      16.1k       +50",
            "  tcp://[fd00:1111:…         5",
            "",
            "",
            "",
            "",
            "",
            "",
            "LAST EVENTS   BACKEND         RESULT",
            "  61 s ago    tcp://[fd00:11… failed",
            "q ends, ? explains, / filters",
        ]
    );
}

#[test]
fn a_wide_screen_keeps_columns_together() {
    let mut view = View::new(many(90));
    let later = view.at + Duration::from_secs(1);
    view.update((later, Ok(many(90))));
    for line in lines(&view, 200, 50).iter().filter(|line| !line.starts_with("index")) {
        assert!(line.chars().count() <= 100, "{line}");
    }
    // Twelve spaces at most between a name and its first number.
    let all = lines(&view, 200, 50);
    let row = all.iter().find(|line| line.starts_with("  udp://10.0.0.90:53")).unwrap();
    assert_eq!(row, "  udp://10.0.0.90:53        90                 10       6");
}

#[test]
fn keys_sort() {
    let mut view = View::new(many(12));
    assert_eq!(shown(&view, 80, 24), [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    for (key, expected) in [
        // Turned round, as it is the order already.
        ("c", [1, 2, 3]),
        ("u", [10, 11, 1]),
        ("n", [6, 12, 5]),
        ("n", [7, 8, 1]),
        ("b", [1, 2, 3]),
        ("b", [12, 11, 10]),
        ("c", [12, 11, 10]),
    ] {
        press(&mut view, key);
        assert_eq!(shown(&view, 80, 24)[..3], expected, "{key}");
    }
    let mut grown = many(12);
    for (at, change) in [(3, 100), (5, 7)] {
        grown.largest[at].sockets.connected += change;
    }
    let later = view.at + Duration::from_secs(1);
    view.update((later, Ok(grown)));
    press(&mut view, "r");
    assert_eq!(shown(&view, 80, 24)[..3], [9, 7, 12]);
    assert!(lines(&view, 80, 24).join("\n").contains("/S↓"));
}

#[test]
fn keys_filter() {
    let mut view = View::new(many(30));
    press(&mut view, "/.2");
    assert!(lines(&view, 80, 24).join("\n").contains("/.2_   Enter keeps, Esc drops"));
    // While it is typed, letters are no commands.
    press(&mut view, "q\x08\n");
    assert_eq!(shown(&view, 80, 24), [29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 2]);
    assert!(lines(&view, 80, 24).join("\n").contains("BACKEND (11 with \".2\")"));
    press(&mut view, "jj");
    assert_eq!(shown(&view, 80, 24)[0], 27);
    assert_eq!(press(&mut view, "\x1b"), Next::Stay);
    press(&mut view, "/9\x1b");
    assert_eq!(shown(&view, 80, 24).len(), 14);
    assert_eq!(press(&mut view, "\x1b"), Next::End);
    assert_eq!(press(&mut view, "q"), Next::End);
}

#[test]
fn a_filter_says_that_it_searches_the_largest() {
    let mut all = many(90);
    all.backends = 12_345;
    let mut view = View::new(all);
    press(&mut view, "/.2");
    let text = "/.2_   Enter keeps, Esc drops; of 12.3k the 90 largest are searched";
    assert!(lines(&view, 80, 24).contains(&text.to_owned()), "{:?}", lines(&view, 80, 24));
    let title = "BACKEND (11 with \".2\" in the 90 largest)";
    assert!(lines(&view, 80, 24).join("\n").contains(title), "{:?}", lines(&view, 80, 24));
}

#[test]
fn a_key_explains_all() {
    let mut view = View::new(many(3));
    press(&mut view, "?");
    let help = lines(&view, 80, 24);
    assert!(help.iter().all(|line| line.chars().count() <= 80 && !line.contains("udp://")), "{help:?}");
    for term in ["q, ^C", "c r u n b", "UNCONN", "hooks not last"] {
        assert!(help.iter().any(|line| line.trim_start().starts_with(term)), "no {term} in {help:?}");
    }
    // Nothing is cut off at the edge.
    assert_eq!(help[..23], lines(&view, 300, 24)[..23]);
    let words =
        |lines: Vec<String>| lines.join(" ").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines(&view, 40, 60)), words(lines(&view, 300, 60)));
    // Whatever leaves it does nothing else.
    assert_eq!(press(&mut view, "q"), Next::Stay);
    assert_eq!(shown(&view, 80, 24), [3, 2, 1]);
}

#[test]
fn no_area_is_too_small() {
    for keys in ["", "?", "/x"] {
        let mut view = View::new(top(5, 0));
        press(&mut view, keys);
        for (width, height) in [(0, 0), (1, 1), (10, 3), (79, 5), (40, 24), (300, 100)] {
            lines(&view, width, height);
        }
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
    assert_eq!(view.list.scrolled, 1);
    view.scroll(isize::MIN);
    assert_eq!(view.list.scrolled, 0);
}
