//! Two namespaces that reach each other, and a route that ends it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use skreap::lab::Netns;

const DEVICE: &str = "veth0";
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Joins two namespaces by a pair of veth devices with these addresses, each /24.
pub fn connect(near: &Netns, near_ip: Ipv4Addr, far: &Netns, far_ip: Ipv4Addr) -> Result<()> {
    let far_fd = far.fd().context("the far netns was given up")?.as_raw_fd();
    near.run(|| add_veth(far_fd))?.context("join the namespaces")?;
    for (netns, ip) in [(near, near_ip), (far, far_ip)] {
        netns.run(|| address_and_up(ip))?.with_context(|| format!("in netns {}", netns.name()))?;
    }
    Ok(())
}

/// `ip route add unreachable IP/32`.
pub fn make_unreachable(netns: &Netns, ip: Ipv4Addr) -> Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 32;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unreachable;
    route.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(ip))];
    netns
        .run(|| request(RouteNetlinkMessage::NewRoute(route), CREATE))?
        .with_context(|| format!("add an unreachable route to {ip} in netns {}", netns.name()))
}

/// Makes a device here, and its peer, of the same name, in the netns of the descriptor.
fn add_veth(far: i32) -> Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName(DEVICE.to_owned()), LinkAttribute::NetNsFd(far)];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(DEVICE.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    request(RouteNetlinkMessage::NewLink(link), CREATE).context("make a pair of veth devices")
}

fn address_and_up(ip: Ipv4Addr) -> Result<()> {
    let index = device_index()?;
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 24;
    address.header.index = index;
    let ip = IpAddr::V4(ip);
    address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    request(RouteNetlinkMessage::NewAddress(address), CREATE).with_context(|| format!("add {ip}"))?;

    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::SetLink(link), 0).with_context(|| format!("bring {DEVICE} up"))
}

fn device_index() -> Result<u32> {
    let name = std::ffi::CString::new(DEVICE).context("name of the device")?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()).with_context(|| format!("find {DEVICE}")),
        index => Ok(index),
    }
}

/// Sends one request in the netns of the calling thread and waits for the kernel's verdict.
fn request(message: RouteNetlinkMessage, flags: u16) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("open a route netlink socket")?;
    socket.bind_auto().context("bind the route netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect the route netlink socket")?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).context("send the route netlink request")?;
    let (answer, _) = socket.recv_from_full().context("receive the route netlink answer")?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .context("decode the route netlink answer")?;
    match answer.payload {
        NetlinkPayload::Error(verdict) if verdict.code.is_none() => Ok(()),
        NetlinkPayload::Error(verdict) => Err(verdict.to_io().into()),
        other => bail!("the kernel answered a route netlink request with {other:?}"),
    }
}
