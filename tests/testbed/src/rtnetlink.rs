//! The few route-netlink requests the lab needs, in the netns of the calling thread.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::sys;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Sends one request and waits for the kernel's verdict.
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

/// Brings a device up.
pub(super) fn set_up(device: &str) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = sys::device_index(device).with_context(|| format!("find {device}"))?;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::SetLink(link), 0).with_context(|| format!("bring {device} up"))
}

/// Puts a host address (/32 or /128) on a device. IPv6 addresses skip duplicate address
/// detection, so that they can be used at once.
pub(super) fn add_address(device: &str, ip: IpAddr) -> Result<()> {
    add_address_of(device, ip, if ip.is_ipv4() { 32 } else { 128 })
}

/// As [`add_address`], with the network that it reaches: a prefix of this many bits.
pub(super) fn add_address_of(device: &str, ip: IpAddr, prefix: u8) -> Result<()> {
    let mut address = AddressMessage::default();
    address.header.index = sys::device_index(device).with_context(|| format!("find {device}"))?;
    address.header.prefix_len = prefix;
    match ip {
        IpAddr::V4(_) => address.header.family = AddressFamily::Inet,
        IpAddr::V6(_) => {
            address.header.family = AddressFamily::Inet6;
            address.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    request(RouteNetlinkMessage::NewAddress(address), CREATE).with_context(|| format!("add {ip} to {device}"))
}

/// Makes a pair of veth devices, both down; the second in the netns of the descriptor, if there is one.
pub(super) fn add_veth(a: &str, b: &str, far: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName(b.to_owned())];
    peer.attributes.extend(far.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(a.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    request(RouteNetlinkMessage::NewLink(link), CREATE)
        .with_context(|| format!("make the veth pair {a}, {b}"))
}

/// `ip route add unreachable IP/32`.
pub(super) fn add_unreachable(ip: Ipv4Addr) -> Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 32;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unreachable;
    route.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(ip))];
    request(RouteNetlinkMessage::NewRoute(route), CREATE)
        .with_context(|| format!("add an unreachable route to {ip}"))
}
