//! UDP clients.

use anyhow::Result;

use super::call::LONG;
use super::scene::{Scene, WAITERS, must, received, tally};
use super::table::{Row, Sees, row};
use crate::sockets::udp;

pub const ROWS: &[Row] = &[
    row!("receives next", Sees::Always("recv: ECONNABORTED, recv: waits, send: EDESTADDRREQ"), receives),
    row!("waits in recv", Sees::Always("recv: ECONNABORTED"), waits_in_recv),
    row!("sends next", Sees::Always("send: EDESTADDRREQ, recv: ECONNABORTED, recv: waits"), sends),
    row!("asks for SO_ERROR next", Sees::Always("SO_ERROR: ECONNABORTED, SO_ERROR: 0, recv: waits"), asks),
    row!("polls", Sees::Always("poll: OUT ERR, SO_ERROR: ECONNABORTED, poll: OUT"), polls),
    row!("has not read a reply yet", Sees::Always("recv: ECONNABORTED, recv: data, recv: waits"), unread),
    row!(
        "several threads wait in recv",
        Sees::Always("1 of 3 recv: ECONNABORTED, 2 of 3 recv: waits"),
        several_in_recv
    ),
    row!("several threads wait in poll", Sees::Always("3 of 3 poll: ERR"), several_in_poll),
    row!(
        "reads the error, connects again",
        Sees::Always("SO_ERROR: ECONNABORTED, connect: ok, send: ok, recv: data"),
        reads_and_connects
    ),
    row!(
        "connects again at once, sends",
        Sees::Always("connect: ok, send: ECONNABORTED, send: ok, recv: data, recv: waits"),
        connects_and_sends
    ),
    row!(
        "connects again at once, receives",
        Sees::Always("connect: ok, recv: ECONNABORTED, send: ok, recv: data"),
        connects_and_receives
    ),
    row!("asks for its peer", Sees::Always("getpeername: ENOTCONN"), peer),
    row!("asks for its port, which the kernel gave it", Sees::Always("local port: 0"), given_port),
    row!("asks for its port, which it has bound", Sees::Always("local port: 4000"), bound_port),
];

fn receives(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.recv(&client);
    s.recv(&client);
    s.send(&client);
    Ok(())
}

fn waits_in_recv(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    client.wait_at_most(LONG);
    let woken = s.while_waiting(&client, udp(1), received, 1)?;
    s.note(format!("recv: {}", woken.concat()));
    Ok(())
}

fn sends(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.send(&client);
    s.recv(&client);
    s.recv(&client);
    Ok(())
}

fn asks(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.error(&client);
    s.error(&client);
    s.recv(&client);
    Ok(())
}

fn polls(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.poll(&client);
    s.error(&client);
    s.poll(&client);
    Ok(())
}

fn unread(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reply_arrives(&client)?;
    s.reap(udp(1), 1)?;
    s.recv(&client);
    s.recv(&client);
    s.recv(&client);
    Ok(())
}

/// Those that sleep on are given a second more than the one that is woken needs.
fn several_in_recv(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    client.wait_at_most(LONG / 5);
    let woken = s.while_waiting(&client, udp(1), |client| format!("recv: {}", received(client)), WAITERS)?;
    s.note(tally(woken));
    Ok(())
}

fn several_in_poll(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    let poll = |client: &super::call::Socket| format!("poll: {}", client.poll_in(LONG).join(" "));
    let woken = s.while_waiting(&client, udp(1), poll, WAITERS)?;
    s.note(tally(woken));
    Ok(())
}

fn reads_and_connects(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.error(&client);
    s.connect(&client, udp(2).socket_addr());
    client.wait_at_most(LONG);
    s.send(&client);
    s.recv(&client);
    Ok(())
}

/// Two datagrams are sent, and one reply comes: the first was lost.
fn connects_and_sends(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.connect(&client, udp(2).socket_addr());
    s.send(&client);
    s.send(&client);
    client.wait_at_most(LONG);
    s.recv(&client);
    client.wait_at_most(super::call::WAIT);
    s.recv(&client);
    Ok(())
}

fn connects_and_receives(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.connect(&client, udp(2).socket_addr());
    s.recv(&client);
    client.wait_at_most(LONG);
    s.send(&client);
    s.recv(&client);
    Ok(())
}

fn peer(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    must(client.peer())?;
    s.reap(udp(1), 1)?;
    let peer = super::call::name(client.peer());
    s.note(format!("getpeername: {peer}"));
    Ok(())
}

fn given_port(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(udp(1))?;
    s.reap(udp(1), 1)?;
    s.note(format!("local port: {}", client.local()?.port()));
    Ok(())
}

fn bound_port(s: &mut Scene<'_>) -> Result<()> {
    let client = s.bound_client(udp(1), "0.0.0.0:4000")?;
    s.reap(udp(1), 1)?;
    s.note(format!("local port: {}", client.local()?.port()));
    Ok(())
}
