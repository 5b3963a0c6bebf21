//! The server's side of a connection is no client: no engine touches it, whoever its peer is.

use anyhow::{Context as _, Result, ensure};
use skreap::core::Backend;
use skreap_testbed::{Family, OpenSpec};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![case!(accepted_sockets_are_left_alone)]
}

/// The backend that is gone has the address and port of a client. Also when nobody listens any more, and whatever was sent.
fn accepted_sockets_are_left_alone(world: &mut World) -> Result<()> {
    world.add_address(tcp(1).addr())?;
    world.add_address(tcp6(1).addr())?;
    let mut server = world.client("server")?;
    let mut client = world.client("client")?;
    for (listen, connect_to) in [
        (tcp(1).socket_addr(), tcp(1)),
        (tcp6(1).socket_addr(), tcp6(1)),
        ("[::]:81".parse()?, Backend::new(tcp(1).protocol(), tcp(1).addr(), 81)?),
    ] {
        let family = if listen.is_ipv4() { Family::V4 } else { Family::V6 };
        let spec = OpenSpec { bind: Some(listen), ..OpenSpec::new(tcp(1).protocol(), family) };
        let listener = server.open(spec)?;
        server.listen(listener, 16)?;
        for sent in [false, true] {
            let near = connect(&mut client, connect_to)?;
            let far = server.accept(listener, PATIENCE_MS)?;
            if sent {
                client.send_bytes(near.handle, b"request")?;
                ensure!(server.recv(far, PATIENCE_MS)? == b"request");
                server.close(listener)?;
            }
            let peer = server.state(far)?.peer.context("accepted, and no peer")?;
            let gone: Backend =
                format!("tcp://{}", std::net::SocketAddr::new(peer.ip().to_canonical(), peer.port()))
                    .parse()?;
            let dry = world.dry_run(gone)?;
            ensure!(dry.victims == 0 && dry.complete && dry.sockets == Some(Vec::new()), "{dry:?}");
            let report = world.reap(gone)?;
            expect_complete(&report, 0)?;
            let counted = u64::from(!world.uses_index());
            ensure!(report.skipped.accepted == counted && report.visited == counted, "{report:?}");
            // It still works, in both directions.
            server.send_bytes(far, b"answer")?;
            ensure!(client.recv(near.handle, PATIENCE_MS)? == b"answer");
        }
    }
    Ok(())
}
