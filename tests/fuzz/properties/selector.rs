//! A selector: what is accepted says the same when it is written and read again, and selects something; each of its
//! values reads as it is written. Text that names a prefix, ports or a place does so in one way.

use skreap::bpf::{Filter, Rule};
use skreap::core::{CgroupName, MAX_PORT_RANGES, MAX_PREFIXES, NetnsName, PortRange, Prefix, Selector};

/// See the module.
pub fn holds(data: &[u8]) {
    if let Ok(selector) = serde_json::from_slice::<Selector>(data) {
        accepted(&selector);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        named(text);
    }
}

fn accepted(selector: &Selector) {
    assert!(!selector.is_empty() && selector.check().is_ok());
    assert!(selector.to.len() <= MAX_PREFIXES && selector.ports.len() <= MAX_PORT_RANGES);
    assert!(!selector.to_string().contains(char::is_control), "safe in a log: {selector:?}");
    let written = serde_json::to_vec(selector).unwrap();
    assert!(!written.contains(&b'\n'), "one line");
    assert_eq!(&serde_json::from_slice::<Selector>(&written).unwrap(), selector);
    let rule = Rule { to: selector.to.clone(), ports: selector.ports.clone(), ..Rule::default() };
    assert!(Filter::new(&rule, None, &[], 0).is_ok(), "a selector has room: {selector:?}");
    for backend in selector.exact().unwrap_or_default() {
        assert!(selector.admits_peer(backend.protocol(), backend.addr(), backend.port()), "{backend}");
    }
}

fn named(text: &str) {
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
        let (first, last) = prefix.range();
        assert!(first <= last && !prefix.single().is_some_and(|addr| addr.is_unspecified()));
    }
    if let Ok(ports) = text.parse::<PortRange>() {
        assert_eq!(ports.to_string().parse(), Ok(ports));
        assert!(ports.first() > 0 && ports.first() <= ports.last());
    }
    if let Ok(netns) = text.parse::<NetnsName>() {
        assert_eq!(netns.to_string(), text);
    }
    if let Ok(cgroup) = text.parse::<CgroupName>() {
        assert_eq!(cgroup.to_string(), text);
    }
}
