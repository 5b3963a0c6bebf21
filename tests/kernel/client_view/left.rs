//! What a destroy leaves behind.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use skreap::core::Backend;

use super::call::{LONG, Socket, WAIT, name};
use super::scene::{Scene, must, received};
use super::table::{Row, Sees, row};
use crate::case::Skip;
use crate::sockets::{tcp, udp, udp6};

pub const ROWS: &[Row] = &[
    row!(
        "UDP over IPv4, bound: `sendto()` another server",
        Sees::Always("SO_ERROR: ECONNABORTED, sendto: ok, recv: data"),
        deaf_v4
    ),
    row!(
        "UDP over IPv6, bound: the same. **It hears nobody but the old peer** until it connects to an address",
        Sees::Always(
            "SO_ERROR: ECONNABORTED, sendto: ok, recv: waits, connect to AF_UNSPEC: ok, sendto: ok, recv: waits, \
             connect: ok, send: ok, recv: data"
        ),
        deaf_v6_bound
    ),
    row!(
        "UDP over IPv6, with a port that the kernel gave it: the same",
        Sees::Always(
            "SO_ERROR: ECONNABORTED, sendto: ok, recv: waits, connect to AF_UNSPEC: ok, sendto: ok, recv: waits, \
             connect: ok, send: ok, recv: data"
        ),
        deaf_v6
    ),
    row!("`SO_BINDTODEVICE`, UDP", Sees::Always("device before: lo, after: none"), device_udp),
    row!("`SO_BINDTODEVICE`, TCP", Sees::Always("device before: lo, after: lo"), device_tcp),
    row!(
        "`IP_TOS` and `SO_PRIORITY`",
        Sees::Always("TOS before: 16, after: 16, priority before: 6, after: 6"),
        options
    ),
    row!(
        "`SO_REUSEPORT`, bound to the wildcard address: datagrams for its group of two",
        Sees::Always("it takes all, the other none"),
        group_wildcard
    ),
    row!(
        "`SO_REUSEPORT`, bound to an address: datagrams for its group of two",
        Sees::Since(&[((6, 1), "it takes some, the other some"), ((6, 18), "it takes none, the other all")]),
        group_address
    ),
    row!(
        "kTLS (`TLS_TX`): writes after the error was read are **accepted and lost**",
        Sees::Always("recv: ECONNABORTED, send: ok"),
        ktls
    ),
    row!(
        "TCP, closed by its owner with unsent data (an orphan): **it is not reached**, and the kernel goes on sending",
        Sees::Always("destroyed: 0, the peer gets all data"),
        orphan
    ),
];

/// Sends to `other`, and listens; then what might help and does not, and what does.
fn deaf(s: &mut Scene<'_>, [gone, other]: [Backend; 2], bind: Option<&str>) -> Result<()> {
    let other = other.socket_addr();
    let client = match bind {
        Some(bind) => s.bound_client(gone, bind)?,
        None => s.client(gone)?,
    };
    s.reap(gone, 1)?;
    s.error(&client);
    if s.hears(&client, other) {
        return Ok(());
    }
    s.disconnect(&client);
    if s.hears(&client, other) {
        return Ok(());
    }
    s.connect(&client, other);
    s.send(&client);
    client.wait_at_most(LONG);
    s.recv(&client);
    Ok(())
}

impl Scene<'_> {
    /// True if what is sent there is answered.
    fn hears(&mut self, client: &Socket, addr: SocketAddr) -> bool {
        // A reply takes microseconds, but the machine may be busy.
        client.wait_at_most(WAIT * 5);
        self.send_to(client, addr);
        let heard = received(client);
        self.note(format!("recv: {heard}"));
        heard == "data"
    }
}

fn deaf_v4(s: &mut Scene<'_>) -> Result<()> {
    deaf(s, [udp(1), udp(2)], Some("0.0.0.0:4000"))
}

fn deaf_v6_bound(s: &mut Scene<'_>) -> Result<()> {
    deaf(s, [udp6(1), udp6(2)], Some("[::]:4000"))
}

fn deaf_v6(s: &mut Scene<'_>) -> Result<()> {
    deaf(s, [udp6(1), udp6(2)], None)
}

/// The name of the device that a socket is bound to.
fn device(socket: &Socket) -> String {
    match socket.get::<16>(libc::SOL_SOCKET, libc::SO_BINDTODEVICE) {
        Ok(name) if name.is_empty() => "none".to_owned(),
        Ok(name) => String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned(),
        Err(errno) => name(Err(errno)),
    }
}

fn device_of(s: &mut Scene<'_>, gone: Backend) -> Result<()> {
    let client = s.open(gone)?;
    must(client.set(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo"))?;
    must(client.connect(gone.socket_addr()))?;
    let before = device(&client);
    s.reap(gone, 1)?;
    let after = device(&client);
    s.note(format!("device before: {before}"));
    s.note(format!("after: {after}"));
    Ok(())
}

fn device_udp(s: &mut Scene<'_>) -> Result<()> {
    device_of(s, udp(1))
}

fn device_tcp(s: &mut Scene<'_>) -> Result<()> {
    device_of(s, tcp(1))
}

fn number(socket: &Socket, level: i32, option: i32) -> Result<i32> {
    let bytes = socket.get::<4>(level, option).map_err(|errno| anyhow::anyhow!(name(Err(errno))))?;
    Ok(i32::from_ne_bytes(bytes.try_into().map_err(|_| anyhow::anyhow!("no integer"))?))
}

fn options(s: &mut Scene<'_>) -> Result<()> {
    let client = s.open(udp(1))?;
    let kept = [
        ("TOS", libc::IPPROTO_IP, libc::IP_TOS, 16_i32),
        ("priority", libc::SOL_SOCKET, libc::SO_PRIORITY, 6),
    ];
    for (_, level, option, value) in kept {
        must(client.set(level, option, &value.to_ne_bytes()))?;
    }
    must(client.connect(udp(1).socket_addr()))?;
    let before: Vec<i32> = kept.iter().map(|(_, l, o, _)| number(&client, *l, *o)).collect::<Result<_>>()?;
    s.reap(udp(1), 1)?;
    for ((what, level, option, _), before) in kept.iter().zip(before) {
        let after = number(&client, *level, *option)?;
        s.note(format!("{what} before: {before}, after: {after}"));
    }
    Ok(())
}

/// Datagrams for a group are many enough that none of two members is left out by chance: 2^-63.
const DATAGRAMS: usize = 64;

/// Two sockets on one port, one of them connected and destroyed; then datagrams from many sockets.
fn group(s: &mut Scene<'_>, local: &str, to: &str) -> Result<()> {
    let to: SocketAddr = to.parse()?;
    s.world.add_address(to.ip())?;
    let mut members = Vec::new();
    for _ in 0..2 {
        let member = s.open(udp(1))?;
        must(member.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, &1_i32.to_ne_bytes()))?;
        must(member.bind(local.parse()?))?;
        members.push(member);
    }
    must(members[0].connect(udp(1).socket_addr()))?;
    s.reap(udp(1), 1)?;
    ensure!(members[0].error() == "ECONNABORTED");
    for _ in 0..DATAGRAMS {
        must(s.outside(udp(1))?.send_to(b"data", to))?;
    }
    let mut took = [0; 2];
    for (took, member) in took.iter_mut().zip(&members) {
        // Over loopback they are there when sendto returns.
        while member.poll_in(Duration::ZERO) == ["IN"] {
            ensure!(received(member) == "data");
            *took += 1;
        }
    }
    ensure!(took.iter().sum::<usize>() == DATAGRAMS, "{took:?}");
    let words = took.map(|n| match n {
        0 => "none",
        DATAGRAMS => "all",
        _ => "some",
    });
    s.note(format!("it takes {}, the other {}", words[0], words[1]));
    Ok(())
}

fn group_wildcard(s: &mut Scene<'_>) -> Result<()> {
    group(s, "0.0.0.0:4000", "10.177.0.100:4000")
}

fn group_address(s: &mut Scene<'_>) -> Result<()> {
    s.world.add_address("10.177.0.100".parse()?)?;
    group(s, "10.177.0.100:4000", "10.177.0.100:4000")
}

/// linux/tls.h: TLS_1_2_VERSION, TLS_CIPHER_AES_GCM_128, and a key of zeros.
fn key() -> [u8; 40] {
    let mut info = [0; 40];
    info[..2].copy_from_slice(&0x0303_u16.to_ne_bytes());
    info[2..4].copy_from_slice(&51_u16.to_ne_bytes());
    info
}

fn ktls(s: &mut Scene<'_>) -> Result<()> {
    const SOL_TLS: i32 = 282;
    const TLS_TX: i32 = 1;
    let client = s.client(tcp(1))?;
    match client.set(libc::IPPROTO_TCP, libc::TCP_ULP, b"tls") {
        Err(libc::ENOENT) => {
            s.reap(tcp(1), 1)?;
            return Err(Skip("no TLS ULP: use a kernel with CONFIG_TLS, and `modprobe tls`").into());
        }
        set => must(set)?,
    };
    must(client.set(SOL_TLS, TLS_TX, &key()))?;
    s.reap(tcp(1), 1)?;
    s.recv(&client);
    s.send(&client);
    Ok(())
}

fn orphan(s: &mut Scene<'_>) -> Result<()> {
    let listener = s.listener(tcp(4), 8)?;
    let client = s.client(tcp(4))?;
    let server = listener.accept().map_err(|errno| anyhow::anyhow!("accept: {}", name(Err(errno))))?;
    let mut sent = 0;
    // Until neither side has room; the server does not read.
    while let Ok(n) = client.send(&[0; 4096]) {
        sent += n;
    }
    drop(client);
    let report = s.world.reap(tcp(4))?;
    s.note(format!("destroyed: {}", report.destroyed));
    server.wait_at_most(LONG);
    let mut got = 0;
    let end = loop {
        match server.recv() {
            Ok(0) => break "",
            Ok(n) => got += n,
            Err(errno) => {
                s.note(format!("recv: {}", name(Err(errno))));
                break " and no end";
            }
        }
    };
    s.note(if got == sent {
        format!("the peer gets all data{end}")
    } else {
        format!("the peer gets {got} of {sent}")
    });
    Ok(())
}
