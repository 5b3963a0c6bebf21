//! Tests of reading and checking selectors.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::strategies;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ports(text: &str) -> PortRange {
    text.parse().unwrap()
}

/// The field at fault and how the message begins.
fn refused(value: &Value, field: &str, message: &str) {
    let error = read_selector(value).unwrap_err();
    assert_eq!(error.field, field, "field of {value}: {error}");
    assert!(error.message.starts_with(message), "{value}: {error}");
}

#[test]
fn reads_and_writes_every_field() {
    let json = json!({
        "protocol": "udp", "to": ["10.0.0.0/8", "fd00::/8", "192.0.2.7"], "ports": ["53", "8000-9000"],
        "cgroup": "/sys/fs/cgroup/a.slice", "netns": "/run/netns/blue", "uid": 1000, "interface": "eth0",
    });
    let selector = read_selector(&json).unwrap();
    assert_eq!(selector.protocol, Some(Protocol::Udp));
    assert_eq!(selector.to, [prefix("10.0.0.0/8"), prefix("fd00::/8"), prefix("192.0.2.7/32")]);
    assert_eq!(selector.ports, [ports("53-53"), ports("8000-9000")]);
    assert_eq!(selector.cgroup, Some(CgroupName::Path("/sys/fs/cgroup/a.slice".to_owned())));
    assert_eq!(selector.netns, Some(NetnsName::Path("/run/netns/blue".to_owned())));
    assert_eq!((selector.uid, selector.interface.unwrap().as_str()), (Some(1000), "eth0"));
    assert_eq!(serde_json::to_value(&selector).unwrap(), json);
    assert_eq!(serde_json::from_value::<Selector>(json).unwrap(), selector);
}

#[test]
fn a_mapped_address_is_ipv4_and_an_ipv6_prefix_holds_none() {
    let holds = |text: &str, addr: &str| prefix(text).contains(addr.parse().unwrap());
    assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3") && !holds("10.0.0.0/8", "::ffff:11.1.2.3"));
    assert!(holds("::/0", "fd00::1") && !holds("::/0", "10.0.0.1") && !holds("::/0", "::ffff:10.0.0.1"));
    for everything in ["0.0.0.0/0", "::ffff:0:0/96"] {
        assert!(holds(everything, "10.0.0.1") && holds(everything, "::ffff:10.0.0.1"));
        assert!(!holds(everything, "fd00::1"));
        assert_eq!(prefix(everything).to_string(), "0.0.0.0/0");
    }
    assert_eq!(
        prefix("10.0.0.0/8").range(),
        ("10.0.0.0".parse().unwrap(), "10.255.255.255".parse().unwrap())
    );
    assert_eq!(prefix("fd00::/127").range(), ("fd00::".parse().unwrap(), "fd00::1".parse().unwrap()));
    assert_eq!(prefix("::ffff:10.0.0.1").to_string(), "10.0.0.1");
}

#[test]
fn places_have_several_names() {
    let netns = |text: &str| text.parse::<NetnsName>();
    assert_eq!(netns("blue"), Ok(NetnsName::Name("blue".to_owned())));
    assert_eq!(netns("/proc/7/ns/net"), Ok(NetnsName::Path("/proc/7/ns/net".to_owned())));
    assert_eq!(netns("1234"), Ok(NetnsName::Pid(1234)));
    assert_eq!(netns("cookie:18446744073709551615"), Ok(NetnsName::Cookie(u64::MAX)));
    for bad in
        ["", ".", "..", "a/b", "0", "007", "4294967296", "cookie:", "cookie:0", "cookie:x", "a:b", "a\nb"]
    {
        assert_eq!(netns(bad), Err(PlaceError::Netns(excerpt_of(bad))), "{bad:?}");
    }
    assert_eq!("id:4242".parse(), Ok(CgroupName::Id(4242)));
    assert_eq!("/a".parse(), Ok(CgroupName::Path("/a".to_owned())));
    for bad in ["", "a.slice", "id:", "id:0", "id:+1", "4242", "/a\n"] {
        assert_eq!(bad.parse::<CgroupName>(), Err(PlaceError::Cgroup(excerpt_of(bad))), "{bad:?}");
    }
}

fn excerpt_of(text: &str) -> String {
    format!("{text:?}")
}

#[test]
fn refuses_with_field_and_reason() {
    refused(&json!([]), "", "it is an array; write an object such as");
    refused(
        &json!({}),
        "",
        "it has no condition, and would select every socket; write at least one of: protocol",
    );
    refused(&json!({"too": 1}), "too", "field \"too\" is not known; a selector takes: protocol, to, ports");
    refused(&json!({"protocol": "sctp"}), "protocol", "\"sctp\" is not a protocol; write one of: tcp, udp");
    refused(&json!({"to": "10.0.0.0/8"}), "to", "it is a string; write an array such as");
    refused(&json!({"to": []}), "to", "it is empty; write an array such as");
    refused(&json!({"to": ["10.0.0.0/8", 7]}), "to[1]", "it is a number; write a string");
    refused(
        &json!({"to": ["10.0.0.1/8"]}),
        "to[0]",
        "the address has bits behind the prefix; write 10.0.0.0/8",
    );
    refused(&json!({"to": ["10.0.0.0/33"]}), "to[0]", "the prefix is too long; write a length from 1 to 32");
    refused(&json!({"to": ["host"]}), "to[0]", "\"host\" is not an address or a prefix; write one such as");
    for zero in ["0.0.0.0", "::", "0.0.0.0/32", "::/128", "::ffff:0.0.0.0"] {
        let message = if zero.starts_with('0') || zero.contains("ffff") { "" } else { "::" };
        refused(&json!({"to": [zero]}), "to[0]", message);
        assert!(matches!(zero.parse::<Prefix>(), Err(PrefixError::Unspecified(_))), "{zero}");
    }
    refused(
        &json!({"to": ["fe80::1"], "ports": ["53"]}),
        "to[0]",
        "it is link-local, and every link may have a host",
    );
    refused(
        &json!({"interface": "eth0"}),
        "interface",
        "every network namespace may have an interface of that name",
    );
    refused(
        &json!({"interface": "a b", "netns": "x"}),
        "interface",
        "\"a b\" is no interface; write its name",
    );
    refused(&json!({"ports": [53]}), "ports[0]", "it is a number; write a string");
    refused(&json!({"ports": ["0"]}), "ports[0]", "port 0 is that of sockets without a peer");
    refused(&json!({"ports": ["0-9"]}), "ports[0]", "port 0 is that of sockets without a peer");
    refused(&json!({"ports": ["9-8"]}), "ports[0]", "the range 9-8 ends before it begins; write 8-9");
    for bad in ["", "-", "5-", "-5", "05", "5-07", "65536", "1-2-3", "+5", "http"] {
        refused(&json!({"ports": [bad]}), "ports[0]", &format!("{bad:?} is not a port or a range of ports;"));
    }
    for uid in [json!(-1), json!(4_294_967_295_u32), json!("root"), json!(1.5), json!(null)] {
        refused(&json!({"uid": uid}), "uid", "it is not the number of a user;");
    }
    refused(&json!({"netns": 1234}), "netns", "it is a number; write a string");
}

#[test]
fn limits_are_refused_with_the_number() {
    let networks =
        |n: usize| (0..n).map(|i| json!(format!("10.{}.{}.0/24", i / 256, i % 256))).collect::<Vec<_>>();
    assert_eq!(read_selector(&json!({"to": networks(1024)})).unwrap().to.len(), 1024);
    refused(&json!({"to": networks(1025)}), "to", "it has 1025 entries; write at most 1024");
    let ranges = |n: usize| (1..=n).map(|i| json!(i.to_string())).collect::<Vec<_>>();
    assert_eq!(read_selector(&json!({"ports": ranges(256)})).unwrap().ports.len(), 256);
    refused(&json!({"ports": ranges(257)}), "ports", "it has 257 entries; write at most 256");
    let many = read_selector(&json!({"to": networks(1000), "ports": ranges(200)})).unwrap();
    let few = read_selector(&json!({"to": networks(24), "ports": ranges(56)})).unwrap();
    assert_eq!(check_limits([&many, &few].into_iter()), Ok(()));
    let more = read_selector(&json!({"to": networks(25)})).unwrap();
    let error = check_limits([&many, &more].into_iter()).unwrap_err();
    assert_eq!(error, "the event has 1025 prefixes in all; write at most 1024");
    let more = read_selector(&json!({"ports": ranges(57)})).unwrap();
    let error = check_limits([&many, &more].into_iter()).unwrap_err();
    assert_eq!(error, "the event has 257 port ranges in all; write at most 256");
}

#[test]
fn what_is_allowed_has_a_protocol_and_a_peer_only() {
    let read = |value: Value| read_allow(&value).map_err(|e| e.to_string());
    assert_eq!(read(json!([{"to": ["10.0.0.0/8"], "ports": ["53"]}, {"protocol": "tcp"}])).unwrap().len(), 2);
    let error = |value: Value| read(value).unwrap_err();
    assert!(error(json!({})).starts_with("it is an object; write an array such as"));
    assert!(
        error(json!([]))
            .starts_with("it is empty: nothing would be allowed, which is what \"terminate\" is for")
    );
    assert!(error(json!([{"protocol": "tcp"}, {}])).starts_with("[1]: it has no condition, and would allow"));
    assert!(
        error(json!([{"uid": 0}])).starts_with("[0].uid: field \"uid\" is not known; a selector takes: prot")
    );
    assert!(error(json!([{"to": ["10.0.0.1", "fe80::1/128"]}])).starts_with("[0].to[1]: it is link-local"));
    assert_eq!(read(json!([{"to": ["fe80::/10", "169.254.0.1"]}])).unwrap().len(), 1);
    let many = vec![json!({"protocol": "tcp"}); 63];
    assert_eq!(error(json!(many)), "it has 63 entries; write at most 62");
}

#[test]
fn an_exact_selector_names_its_backends() {
    let exact = |value: Value| {
        let backends = read_selector(&value).unwrap().exact()?;
        Some(backends.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let named =
        exact(json!({"protocol": "tcp", "to": ["10.0.0.1", "fd00::1/128"], "ports": ["80"], "uid": 0}));
    assert_eq!(named.unwrap(), ["tcp://10.0.0.1:80", "tcp://[fd00::1]:80"]);
    let twice = json!({
        "protocol": "udp", "to": ["10.0.0.2", "::ffff:10.0.0.1", "10.0.0.1"], "ports": ["53", "53-53", "80"],
    });
    let named = ["udp://10.0.0.1:53", "udp://10.0.0.1:80", "udp://10.0.0.2:53", "udp://10.0.0.2:80"];
    assert_eq!(exact(twice).unwrap(), named);
    for other in [
        json!({"to": ["10.0.0.1"], "ports": ["80"]}),
        json!({"protocol": "tcp", "to": ["10.0.0.0/31"], "ports": ["80"]}),
        json!({"protocol": "tcp", "to": ["10.0.0.1"], "ports": ["80-81"]}),
        json!({"protocol": "tcp", "to": ["10.0.0.1"]}),
        json!({"protocol": "tcp", "to": ["224.0.0.1"], "ports": ["80"]}),
    ] {
        assert_eq!(exact(other.clone()), None, "{other}");
    }
}

proptest! {
    #[test]
    fn text_round_trips(selector in strategies::selector()) {
        let json = serde_json::to_string(&selector).unwrap();
        prop_assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
    }

    #[test]
    fn a_prefix_holds_exactly_its_range(addr in any::<IpAddr>(), length in 0..=128_u8, other in any::<IpAddr>()) {
        let made = match Prefix::new(addr, length) {
            Err(PrefixError::Network(crate::NetworkError::HostBits(instead))) => instead.to_string().parse(),
            made => made,
        };
        if let Ok(prefix) = made {
            let (first, last) = prefix.range();
            // What is mapped is IPv4, and in no IPv6 prefix.
            prop_assert_eq!(prefix.contains(last), last.to_canonical() == last);
            prop_assert_eq!(prefix.contains(first), first.to_canonical() == first);
            let other = other.to_canonical();
            let inside = first.is_ipv4() == other.is_ipv4() && first <= other && other <= last;
            prop_assert_eq!(prefix.contains(other), inside);
        }
    }
}
