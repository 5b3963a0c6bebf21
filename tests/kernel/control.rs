//! Sends without an address, and names and connects without a port: nothing that an event could name, so nothing to
//! record.
//!
//! The kernel runs the hook of sendmsg for a connected socket too, with an address that is all zero, if there are control
//! messages and no name. QUIC stacks send every packet so.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Backend, Unconnected};
use skreap_testbed::{Client, Family, OpenSpec, Protocol};

use crate::case::{Case, case};
use crate::holder::descriptor_of;
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..WorldOptions::default() };
    vec![
        case!(control_messages_without_a_name_record_nothing).index_only().with(destroy),
        case!(names_without_a_port_record_nothing).index_only().with(destroy),
        case!(names_of_no_family_are_recorded_where_they_are_sent_to).index_only().with(destroy),
        case!(connects_to_port_zero_record_nothing).index_only(),
    ]
}

/// A control message with one number: level and type.
type Control = (libc::c_int, libc::c_int);

const TOS: Control = (libc::IPPROTO_IP, libc::IP_TOS);
const TCLASS: Control = (libc::IPPROTO_IPV6, libc::IPV6_TCLASS);
/// ECT(0)
const ECN: libc::c_int = 2;

/// `sendmsg(2)` with this name, or none, and a control message, or none.
fn send_message(socket: &OwnedFd, name: &mut [u8], control: Option<Control>) -> io::Result<usize> {
    let mut payload = *b"hello";
    let mut data = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // A buffer for one header and an int, aligned as a header is.
    let mut buffer = [0_u64; 4];
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    if !name.is_empty() {
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = name.len() as u32;
    }
    if let Some((level, kind)) = control {
        message.msg_control = buffer.as_mut_ptr().cast();
        // SAFETY: computes a size.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize;
        // SAFETY: the control buffer has room for one header and an int, which is all that is written.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as usize;
            libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(ECN);
        }
    }
    // SAFETY: everything that message points to outlives the call.
    match unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) } {
        sent @ 0.. => Ok(sent as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A `struct sockaddr_in` or `sockaddr_in6` with another family in it.
fn name(addr: SocketAddr, family: libc::c_int) -> Vec<u8> {
    let mut name = (family as u16).to_ne_bytes().to_vec();
    name.extend(addr.port().to_be_bytes());
    match addr {
        SocketAddr::V4(v4) => {
            name.extend(v4.ip().octets());
            name.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            name.extend([0; 4]);
            name.extend(v6.ip().octets());
            name.extend([0; 4]);
        }
    }
    name
}

fn os_error<T: std::fmt::Debug>(result: io::Result<T>) -> Result<i32> {
    match result {
        Ok(value) => anyhow::bail!("should have failed, but gave {value:?}"),
        Err(e) => e.raw_os_error().context("no errno"),
    }
}

/// The descriptor in this process: the hooks go by the socket's cgroup, whoever sends.
fn descriptor(client: &Client, socket: Socket) -> Result<OwnedFd> {
    descriptor_of(client.pid(), socket.cookie)
}

fn control_messages_without_a_name_record_nothing(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    let v6 = OpenSpec::new(Protocol::Udp, Family::V6);
    let cases: [(_, SocketAddr, &[Control]); 3] = [
        (spec_for(udp(1)), udp(1).socket_addr(), &[TOS]),
        (v6.clone(), udp6(1).socket_addr(), &[TCLASS]),
        (v6, mapped(udp(1)), &[TOS, TCLASS]),
    ];
    let mut cookies = Vec::new();
    for (spec, peer, controls) in cases {
        let socket = open_to(&mut client, spec, peer)?;
        cookies.push(socket.cookie);
        let fd = descriptor(&client, socket)?;
        for &control in controls {
            for _ in 0..100 {
                send_message(&fd, &mut [], Some(control)).with_context(|| format!("{peer} {control:?}"))?;
            }
        }
        let counters = world.counters()?;
        let sockets = cookies.len() as u64;
        ensure!(counters.live() == sockets && counters.inserts == sockets, "{peer}: {counters:?}");
    }
    let both = living(vec![udp(1), udp6(1)]);
    expect_complete(&world.tell(both, false)?, 0)?;
    expect_destroyed(&world.reap(udp6(1))?, &mut [&mut client], &cookies[1..2])?;
    let report = world.tell(living(vec![udp6(1)]), false)?;
    expect_destroyed(&report, &mut [&mut client], &[cookies[0], cookies[2]])
}

fn names_without_a_port_record_nothing(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    for backend in [udp(1), udp6(1)] {
        let (unconnected, connected) =
            (open(&mut client, spec_for(backend))?, connect(&mut client, backend)?);
        let before = world.counters()?.inserts;
        let addr = SocketAddr::new(backend.addr(), 0);
        let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        for socket in [unconnected, connected] {
            let fd = descriptor(&client, socket)?;
            for control in [None, Some(if addr.is_ipv4() { TOS } else { TCLASS })] {
                let sent = send_message(&fd, &mut name(addr, family), control);
                ensure!(os_error(sent)? == libc::EINVAL);
            }
        }
        ensure!(world.counters()?.inserts == before, "{backend}: {:?}", world.counters()?);
    }
    Ok(())
}

/// For IPv4 a name of family AF_UNSPEC is one of AF_INET; for IPv6 it is none.
fn names_of_no_family_are_recorded_where_they_are_sent_to(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    let sender = open(&mut client, spec_for(udp(1)))?;
    let fd = descriptor(&client, sender)?;
    send_message(&fd, &mut name(udp(1).socket_addr(), libc::AF_UNSPEC), None)?;
    ensure!(world.counters()?.inserts == 1);

    let sender6 = open(&mut client, spec_for(udp6(1)))?;
    let fd = descriptor(&client, sender6)?;
    let nameless = &mut name(udp6(1).socket_addr(), libc::AF_UNSPEC);
    ensure!(os_error(send_message(&fd, nameless, Some(TCLASS)))? == libc::EDESTADDRREQ);
    ensure!(world.counters()?.inserts == 1);

    let connected = connect(&mut client, udp6(1))?;
    let fd = descriptor(&client, connected)?;
    send_message(&fd, nameless, Some(TCLASS))?;
    ensure!(world.counters()?.inserts == 2, "{:?}", world.counters()?);
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[sender.cookie])?;
    expect_destroyed(&world.reap(udp6(1))?, &mut [&mut client], &[connected.cookie])
}

/// A UDP socket gets no peer by it; what it was connected to before it has left.
fn connects_to_port_zero_record_nothing(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    world.add_address(tcp(1).addr())?;
    let mut client = world.client("client")?;
    let port_zero = |backend: Backend| SocketAddr::new(backend.addr(), 0);
    for (family, addr) in [
        (Family::V4, port_zero(udp(1))),
        (Family::V6, port_zero(udp6(1))),
        (Family::V6, SocketAddr::new(udp(1).addr(), 0)),
        (Family::V4, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
        (Family::V6, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)),
    ] {
        let addr = match (family, addr) {
            (Family::V6, SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), 0),
            (_, addr) => addr,
        };
        open_to(&mut client, OpenSpec::new(Protocol::Udp, family), addr)?;
    }
    let socket = open(&mut client, spec_for(tcp(1)))?;
    errno(client.connect(socket.handle, port_zero(tcp(1))))?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 0 && counters.wildcard == 0, "{counters:?}");

    let moved = connect(&mut client, udp(1))?;
    client.connect(moved.handle, port_zero(udp(1)))?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 1 && counters.live() == 1, "{counters:?}");
    let report = world.reap(udp(1))?;
    expect_complete(&report, 0)?;
    ensure!(report.skipped.no_peer == 1 && report.visited == 1, "{report:?}");
    client.connect(moved.handle, udp(1).socket_addr())?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[moved.cookie])
}
