//! TCP clients.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::call::{LONG, Socket, name};
use super::scene::{Scene, WAITERS, must, received, tally};
use super::table::{Row, Sees, row};
use crate::sockets::tcp;

pub const ROWS: &[Row] = &[
    row!("receives next", Sees::Always("recv: ECONNABORTED, recv: 0, send: EPIPE"), receives),
    row!("waits in recv", Sees::Always("recv: ECONNABORTED"), waits_in_recv),
    row!("sends next", Sees::Always("send: ECONNABORTED, send: EPIPE, recv: 0"), sends),
    row!(
        "asks for SO_ERROR next",
        Sees::Always("SO_ERROR: ECONNABORTED, SO_ERROR: 0, recv: 0, send: EPIPE"),
        asks
    ),
    row!(
        "polls",
        Sees::Always("poll: IN OUT ERR HUP RDHUP, SO_ERROR: ECONNABORTED, poll: IN OUT HUP RDHUP"),
        polls
    ),
    row!("has not read a reply yet", Sees::Always("recv: data, recv: ECONNABORTED, recv: 0"), unread),
    row!(
        "several threads wait in recv",
        Sees::Always("2 of 3 recv: 0, 1 of 3 recv: ECONNABORTED"),
        several_in_recv
    ),
    row!(
        "connects again with the same descriptor",
        Sees::Always(
            "recv: ECONNABORTED, connect: EISCONN, connect to AF_UNSPEC: ok, connect: ok, send: ok, recv: data"
        ),
        connects_again
    ),
    row!(
        "connects again at once",
        Sees::Always("connect: EISCONN, connect to AF_UNSPEC: ok, connect: ok, send: ok, recv: data"),
        connects_again_at_once
    ),
    row!("waits in connect", Sees::Always("connect: ECONNABORTED"), waits_in_connect),
    row!("has ended its side (FIN_WAIT2)", Sees::Always("recv: ECONNABORTED, recv: 0"), half_closed),
    row!(
        "its peer has ended (CLOSE_WAIT), it receives",
        Sees::Always("recv: data, recv: 0, recv: 0, send: ECONNABORTED, send: EPIPE"),
        close_wait_receives
    ),
    row!(
        "its peer has ended (CLOSE_WAIT), it sends",
        Sees::Always("send: ECONNABORTED, recv: data, recv: 0, send: EPIPE"),
        close_wait_sends
    ),
    row!("the peer, if it lives, receives", Sees::Always("recv: ECONNRESET"), peer_receives),
];

/// A listener of one test, and a client that it has accepted.
fn pair(s: &mut Scene<'_>) -> Result<(Socket, Socket, Socket)> {
    let listener = s.listener(tcp(3), 8)?;
    let client = s.client(tcp(3))?;
    let accepted = listener.accept();
    let accepted = accepted.map_err(|errno| anyhow::anyhow!("accept: {}", name(Err(errno))))?;
    Ok((listener, client, accepted))
}

fn receives(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reap(tcp(1), 1)?;
    s.recv(&client);
    s.recv(&client);
    s.send(&client);
    Ok(())
}

fn waits_in_recv(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    client.wait_at_most(LONG);
    let woken = s.while_waiting(&client, tcp(1), received, 1)?;
    s.note(format!("recv: {}", woken.concat()));
    Ok(())
}

fn sends(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reap(tcp(1), 1)?;
    s.send(&client);
    s.send(&client);
    s.recv(&client);
    Ok(())
}

fn asks(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reap(tcp(1), 1)?;
    s.error(&client);
    s.error(&client);
    s.recv(&client);
    s.send(&client);
    Ok(())
}

fn polls(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reap(tcp(1), 1)?;
    s.poll(&client);
    s.error(&client);
    s.poll(&client);
    Ok(())
}

fn unread(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reply_arrives(&client)?;
    s.reap(tcp(1), 1)?;
    s.recv(&client);
    s.recv(&client);
    s.recv(&client);
    Ok(())
}

fn several_in_recv(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    client.wait_at_most(LONG);
    let woken = s.while_waiting(&client, tcp(1), |client| format!("recv: {}", received(client)), WAITERS)?;
    s.note(tally(woken));
    Ok(())
}

fn connects_again(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reap(tcp(1), 1)?;
    s.recv(&client);
    s.connect(&client, tcp(2).socket_addr());
    s.disconnect(&client);
    client.wait_at_most(LONG);
    s.connect(&client, tcp(2).socket_addr());
    s.send(&client);
    s.recv(&client);
    Ok(())
}

/// Nothing has taken the error before.
fn connects_again_at_once(s: &mut Scene<'_>) -> Result<()> {
    let client = s.client(tcp(1))?;
    s.reap(tcp(1), 1)?;
    s.connect(&client, tcp(2).socket_addr());
    s.disconnect(&client);
    client.wait_at_most(LONG);
    s.connect(&client, tcp(2).socket_addr());
    s.send(&client);
    s.recv(&client);
    Ok(())
}

/// A backlog of 0 has room for one connection: the kernel drops the SYN of the next.
fn waits_in_connect(s: &mut Scene<'_>) -> Result<()> {
    let _listener = s.listener(tcp(3), 0)?;
    let _first = s.client(tcp(3))?;
    let client = s.open(tcp(3))?;
    client.wait_at_most(LONG);
    let woken = thread::scope(|scope| {
        let connect = scope.spawn(|| name(client.connect(tcp(3).socket_addr())));
        // Until its SYN is out it is not there yet.
        thread::sleep(Duration::from_millis(200));
        let reaped = s.reap(tcp(3), 2);
        let woken = connect.join().unwrap_or_default();
        reaped.map(|()| woken)
    })?;
    s.note(format!("connect: {woken}"));
    Ok(())
}

fn half_closed(s: &mut Scene<'_>) -> Result<()> {
    let (_listener, client, accepted) = pair(s)?;
    must(client.shutdown_write())?;
    ensure!(received(&accepted) == "0", "the end did not arrive");
    // Until the answer to the end is back.
    thread::sleep(Duration::from_millis(50));
    s.reap(tcp(3), 1)?;
    s.recv(&client);
    s.recv(&client);
    Ok(())
}

/// A client in CLOSE_WAIT that has something to read.
fn close_wait(s: &mut Scene<'_>) -> Result<Socket> {
    let (_listener, client, accepted) = pair(s)?;
    must(accepted.send(b"data"))?;
    must(accepted.shutdown_write())?;
    ensure!(client.poll(LONG).contains(&"RDHUP"), "the end did not arrive");
    s.reap(tcp(3), 1)?;
    Ok(client)
}

fn close_wait_receives(s: &mut Scene<'_>) -> Result<()> {
    let client = close_wait(s)?;
    s.recv(&client);
    s.recv(&client);
    s.recv(&client);
    s.send(&client);
    s.send(&client);
    Ok(())
}

fn close_wait_sends(s: &mut Scene<'_>) -> Result<()> {
    let client = close_wait(s)?;
    s.send(&client);
    s.recv(&client);
    s.recv(&client);
    s.send(&client);
    Ok(())
}

fn peer_receives(s: &mut Scene<'_>) -> Result<()> {
    let (_listener, _client, accepted) = pair(s)?;
    accepted.wait_at_most(LONG);
    s.reap(tcp(3), 1)?;
    s.recv(&accepted);
    Ok(())
}
