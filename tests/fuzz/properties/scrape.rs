//! A client of the metrics' address: it gets one answer that is well formed, or none if it did not finish its
//! request, and nobody gets protobuf who asked for something else first.

use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use skreap::fuzz::{prefers_protobuf, scrape};

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut registry = Registry::default();
        registry.register("fuzz", "One metric", Counter::<u64>::default());
        registry
    })
}

/// See the module.
pub fn holds(data: &[u8]) {
    if let Ok(accept) = std::str::from_utf8(data) {
        let both = format!("{accept},text/plain");
        assert!(!prefers_protobuf(&both), "nothing comes before a weight of 1: {both:?}");
    }
    if data.len() > 64 * 1024 {
        // Not all of that is read, and what is left unread resets the connection.
        return;
    }
    let answer = scrape(data, registry()).expect("the connection ends with the answer");
    if answer.is_empty() {
        assert!(data.len() < 8 * 1024, "a head without end is answered");
        let head = data.trim_ascii_start();
        let ends = |line: &[u8]| head.windows(line.len()).any(|w| w == line);
        assert!(!ends(b"\n\n") && !ends(b"\n\r\n"), "a whole head is answered, however busy the machine is");
        return;
    }
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let (head, body) = answer.split_at(end + 4);
    let mut lines = std::str::from_utf8(head).expect("text").split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status");
    assert!(["200", "400", "404", "405", "431"].contains(&code), "{status}");
    let header = |name: &str| head_value(head, name).unwrap_or_else(|| panic!("no {name}: {head:?}"));
    assert_eq!(header("Connection"), "close");
    let length: usize = header("Content-Length").parse().expect("a length");
    let is_head = data.trim_ascii_start().starts_with(b"HEAD ");
    assert!(body.len() == length || (is_head && body.is_empty()), "{length} is not {}", body.len());
    if code == "200" {
        assert!(data.windows(8).any(|w| w == b"/metrics"));
        let text = header("Content-Type").starts_with("application/openmetrics-text");
        assert!(!text || is_head || body.ends_with(b"# EOF\n"));
    }
}

fn head_value<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(head).ok()?;
    text.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
