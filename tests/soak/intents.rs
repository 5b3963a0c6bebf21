//! The same event said in several ways: each destroys the sockets of one backend, and no others.

use anyhow::Result;
use serde_json::{Value, json};
use skreap::core::Backend;

/// The event, without its id, in the way whose turn it is. `frontends`: the service records them.
pub fn event(backend: &str, turn: u64, frontends: bool) -> Result<Value> {
    let named: Backend = backend.parse()?;
    let (protocol, to, port) = (named.protocol(), named.addr(), named.port());
    Ok(match turn % 6 {
        // By its bucket.
        0 => json!({
            "type": "terminate", "where": {"protocol": protocol, "to": [to], "ports": [port.to_string()]},
        }),
        // By a pass: nobody is connected to the lowest ports.
        1 => json!({
            "type": "terminate", "where": {"protocol": protocol, "to": [to], "ports": [port.to_string(), "1-2"]},
        }),
        2 => json!({
            "type": "policy", "where": {"protocol": protocol, "to": [to]},
            "allow": [{"ports": [format!("1-{}", port - 1), format!("{}-65535", port + 1)]}],
        }),
        // There is no load balancer, so all are direct, or unknown since a service began.
        3 if frontends => json!({
            "type": "backend-deleted", "backend": backend, "frontend": "direct", "unknown_frontend": "destroy",
        }),
        _ => json!({"type": "backend-deleted", "backend": backend}),
    })
}

/// Whether this kernel can record frontends, and an engine of this name can know them.
pub fn has_frontends(engine: &str) -> bool {
    let knows = ["auto", "netlink", "kfunc", "index-scan"].contains(&engine);
    knows
        && skreap::probe::all().features.iter().any(|finding| finding.feature == "frontends" && finding.works)
}
