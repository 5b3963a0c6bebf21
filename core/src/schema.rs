//! JSON Schemas of the types that are one text on the wire. All others have theirs from their fields.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Backend, CgroupName, Frontend, NetnsName, Network, PortRange, Prefix, Refusal, Zone};

/// For a type that is a string on the wire. The pattern (ECMA 262) admits every valid string, and some that the
/// parser refuses.
macro_rules! text {
    ($type:ident, $pattern:expr, $description:literal, $($example:literal),+) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": $description,
                    "pattern": $pattern,
                    "examples": [$($example),+],
                })
            }
        }
    };
}

/// The pattern of a backend. An IPv6 address is in brackets, with its zone if it is link-local.
macro_rules! backend {
    () => {
        r"(tcp|udp)://([0-9.]+|\[[0-9a-fA-F:.]+(%[^/:%@\[\]?#\s]{1,15})?\]):[1-9][0-9]{0,4}"
    };
}

text!(
    Backend,
    concat!("^", backend!(), "$"),
    "What clients are connected to: protocol, address and port. A link-local address has a zone in events, and none in \
     reports.",
    "udp://10.0.0.1:53",
    "tcp://[fd00::1]:80",
    "udp://[fe80::1%eth0]:53"
);
text!(
    Frontend,
    concat!("^(direct|", backend!(), ")$"),
    "The address that a client named before a load balancer translated it, or `direct`: it named the backend itself.",
    "udp://10.96.0.10:53",
    "direct"
);
text!(
    Network,
    "^[0-9a-fA-F:.]+/[1-9][0-9]{0,2}$",
    "An address and the length of the prefix that counts, which is not 0. No bits behind the prefix.",
    "10.0.0.0/8",
    "fd00::/8"
);
text!(
    Prefix,
    "^[0-9a-fA-F:.]+(/(0|[1-9][0-9]{0,2}))?$",
    "An address, or an address and the length of the prefix that counts. No bits behind the prefix.",
    "10.0.0.53",
    "10.0.0.0/8",
    "::/0"
);
text!(
    PortRange,
    "^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$",
    "A port, or the first and the last port of a range.",
    "53",
    "8000-9000"
);
text!(
    CgroupName,
    "^(/.*|id:[1-9][0-9]*)$",
    "A cgroup: the absolute path of its directory, or its id (the inode number of that directory).",
    "/sys/fs/cgroup/a.slice",
    "id:4242"
);
text!(
    NetnsName,
    "^(/.*|cookie:[1-9][0-9]*|[^/:]+)$",
    "A network namespace: its name under /run/netns, an absolute path, the id of a process in it, or its cookie.",
    "blue",
    "/run/netns/blue",
    "31453",
    "cookie:4242"
);
text!(Zone, r"^[^/:%@\[\]?#\s]{1,15}$", "An interface: its name or its number.", "eth0", "2");

impl JsonSchema for Refusal {
    fn schema_name() -> Cow<'static, str> {
        "Refusal".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Self::wire_schema(generator)
    }
}
