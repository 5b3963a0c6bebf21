//! The ICMP message that a host sends for a datagram to a port that nobody has open.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

/// Types and codes of RFC 792.
const DESTINATION_UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE: u8 = 3;
const ICMP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// Sends one from the calling thread's netns to each of these clients of UDP.
///
/// # Errors
/// Addresses of another family, and the errno of socket(2) and sendto(2).
pub fn port_unreachable(backend: SocketAddr, clients: &[SocketAddr]) -> Result<()> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .context("a raw socket for ICMP")?;
    for client in clients {
        let (SocketAddr::V4(backend), SocketAddr::V4(client)) = (backend, *client) else {
            bail!("{client} and {backend} are not both of IPv4");
        };
        let to = SockaddrIn::from(SocketAddrV4::new(*client.ip(), 0));
        sendto(raw.as_raw_fd(), &message(backend, client), &to, MsgFlags::empty())
            .with_context(|| format!("tell {client}"))?;
    }
    Ok(())
}

/// The message, with the headers of the datagram that it is about: all that the receiver finds the socket by.
fn message(backend: SocketAddrV4, client: SocketAddrV4) -> Vec<u8> {
    let mut about = vec![0_u8; IPV4_HEADER + UDP_HEADER];
    about[0] = 0x45;
    about[2..4].copy_from_slice(&((IPV4_HEADER + UDP_HEADER) as u16).to_be_bytes());
    about[8] = 64;
    about[9] = libc::IPPROTO_UDP as u8;
    let put = |about: &mut Vec<u8>, at: usize, ip: &Ipv4Addr| {
        about[at..at + 4].copy_from_slice(&ip.octets());
    };
    put(&mut about, 12, client.ip());
    put(&mut about, 16, backend.ip());
    let sum = checksum(&about[..IPV4_HEADER]);
    about[10..12].copy_from_slice(&sum.to_be_bytes());
    about[IPV4_HEADER..IPV4_HEADER + 2].copy_from_slice(&client.port().to_be_bytes());
    about[IPV4_HEADER + 2..IPV4_HEADER + 4].copy_from_slice(&backend.port().to_be_bytes());
    about[IPV4_HEADER + 4..IPV4_HEADER + 6].copy_from_slice(&(UDP_HEADER as u16).to_be_bytes());

    let mut message = vec![0; ICMP_HEADER];
    message[0] = DESTINATION_UNREACHABLE;
    message[1] = PORT_UNREACHABLE;
    message.extend(about);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_datagram_and_adds_up() {
        let message = message("10.97.0.1:5353".parse().unwrap(), "10.97.0.2:40000".parse().unwrap());
        assert_eq!(message.len(), 36);
        assert_eq!(checksum(&message), 0);
        assert_eq!(checksum(&message[8..28]), 0);
        assert_eq!(message[20..28], [10, 97, 0, 2, 10, 97, 0, 1]);
        assert_eq!(message[28..32], [0x9c, 0x40, 0x14, 0xe9]);
    }
}
