//! UDP sockets of other processes: their peers. Each call on a socket but [`cookie`] and [`is_ipv6`] takes the lock of the
//! socket, and waits while its owner holds it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use skreap_bpf::socket_option;

/// `SO_BINDTOIFINDEX` (asm-generic/socket.h, since 5.0).
const SO_BINDTOIFINDEX: libc::c_int = 62;

/// The cookie of the socket.
///
/// # Errors
/// The errno of getsockopt(2): `ENOTSOCK` if it is none.
pub(crate) fn cookie(socket: &UdpSocket) -> io::Result<u64> {
    socket_option(socket, libc::SO_COOKIE)
}

/// True for a socket that is connected with IPv6 addresses, which IPv4 ones are mapped to.
///
/// # Errors
/// The errno of getsockopt(2).
pub(crate) fn is_ipv6(socket: &UdpSocket) -> io::Result<bool> {
    Ok(number(socket, libc::SO_DOMAIN)? == libc::AF_INET6)
}

/// Its peer, an IPv4 one as such; `None` without one.
///
/// # Errors
/// The errno of getpeername(2).
pub(crate) fn peer(socket: &UdpSocket) -> io::Result<Option<SocketAddr>> {
    match socket.peer_addr() {
        Ok(peer) => Ok(Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Connects it.
///
/// # Errors
/// The errno of connect(2).
pub(crate) fn connect(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    let is_mapped = to.is_ipv4() && is_ipv6(socket)?;
    socket.connect(addr_for(to, is_mapped))
}

fn addr_for(to: SocketAddr, is_ipv6: bool) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) if is_ipv6 => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

/// As [`connect`], for a socket that was seen to be one of IPv6, or not to be.
///
/// # Errors
/// The errno of connect(2).
pub(crate) fn connect_as(socket: &UdpSocket, to: SocketAddr, is_ipv6: bool) -> io::Result<()> {
    match socket.connect(addr_for(to, is_ipv6)) {
        // Its program has made it one of IPv4 since (`IPV6_ADDRFORM`).
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => connect(socket, to),
        connected => connected,
    }
}

/// The settings of a socket that decide its route, together with its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Routing {
    /// The interface that it is bound to (`SO_BINDTODEVICE`); 0: none.
    pub(crate) ifindex: u32,
    /// `SO_MARK`.
    pub(crate) mark: u32,
}

/// The source address that a new socket in the netns of the calling thread has when it is connected there.
///
/// # Errors
/// The errno of connect(2): `ENETUNREACH` without a route.
pub(crate) fn source(to: SocketAddr, routing: Routing) -> io::Result<IpAddr> {
    let any =
        if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = bound(any, routing)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// False if the kernel connects no socket there that has this source address and is in the netns of the calling thread. True
/// if it does, or if that cannot be found out.
pub(crate) fn is_possible(from: IpAddr, to: SocketAddr, routing: Routing) -> bool {
    let refused = |e: io::Error| e.raw_os_error() == Some(libc::EINVAL);
    bound(from, routing).map_or(true, |socket| !socket.connect(to).is_err_and(refused))
}

/// A new one.
fn bound(from: IpAddr, routing: Routing) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0))?;
    for (option, value) in [(SO_BINDTOIFINDEX, routing.ifindex), (libc::SO_MARK, routing.mark)] {
        if value != 0 {
            set(&socket, option, value)?;
        }
    }
    Ok(socket)
}

/// True if the address is one of the netns of the calling thread, on whatever interface; false if that cannot be found out.
pub(crate) fn is_local(addr: IpAddr) -> bool {
    // Where sockets may be bound to any address, a bind says nothing.
    let family = if addr.is_ipv4() { "ipv4" } else { "ipv6" };
    let bind_says = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    bind_says.is_ok_and(|anywhere| anywhere.trim() == "0") && UdpSocket::bind((addr, 0)).is_ok()
}

/// Binds it to the interface if it is bound to none.
///
/// # Errors
/// The errno of setsockopt(2): `ENODEV` if there is no such interface.
pub(crate) fn bind_if_unbound(socket: &UdpSocket, ifindex: u32) -> io::Result<()> {
    if ifindex == 0 || number(socket, SO_BINDTOIFINDEX)? != 0 {
        return Ok(());
    }
    set(socket, SO_BINDTOIFINDEX, ifindex)
}

fn set(socket: &UdpSocket, option: libc::c_int, value: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn number(socket: &UdpSocket, option: libc::c_int) -> io::Result<libc::c_int> {
    let (mut value, mut length): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes into `value`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    if ret == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_host_are_local() {
        let local = |addr: &str| is_local(addr.parse().unwrap());
        // Elsewhere a bind says nothing.
        let expected =
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_nonlocal_bind").is_ok_and(|n| n == "0\n");
        assert_eq!([local("127.0.0.1"), local("127.9.9.9")], [expected; 2]);
        assert!(!local("192.0.2.1") && !local("2001:db8::1"));
    }

    #[test]
    fn loopback_is_no_source_for_others() {
        let (loopback, any): (IpAddr, Routing) = ("127.0.0.1".parse().unwrap(), Routing::default());
        assert!(is_possible(loopback, "127.0.0.2:9".parse().unwrap(), any));
        // Without a route nothing is said of the source.
        let elsewhere: SocketAddr = "192.0.2.1:9".parse().unwrap();
        assert_eq!(is_possible(loopback, elsewhere, any), source(elsewhere, any).is_err());
    }

    #[test]
    fn a_socket_is_connected_in_its_own_family() {
        for (bind, to) in [("127.0.0.1:0", "127.0.0.1:9"), ("[::]:0", "127.0.0.1:9"), ("[::1]:0", "[::1]:9")]
        {
            // Without IPv6 there is nothing to see.
            let Ok(socket) = UdpSocket::bind(bind) else { continue };
            let to: SocketAddr = to.parse().unwrap();
            assert_eq!(is_ipv6(&socket).unwrap(), bind.starts_with('['));
            assert_eq!(peer(&socket).unwrap(), None);
            connect(&socket, to).unwrap();
            assert_eq!(peer(&socket).unwrap(), Some(to));
        }
    }
}
