//! The kinds of work that the hooks are in the way of.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// socket, connect, close of a UDP socket.
    UdpConnectClose,
    /// socket, connect, accept, and close of both ends.
    TcpConnectClose,
    /// connect of a UDP socket to the other of two backends.
    UdpReconnect,
    /// sendto on a UDP socket that is not connected.
    UdpSendto,
    /// socket, close.
    NeverConnected,
}

impl Case {
    /// Every case.
    pub const ALL: [Self; 5] = [
        Self::UdpConnectClose,
        Self::TcpConnectClose,
        Self::UdpReconnect,
        Self::UdpSendto,
        Self::NeverConnected,
    ];

    /// As in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpConnectClose => "udp-connect-close",
            Self::TcpConnectClose => "tcp-connect-close",
            Self::UdpReconnect => "udp-reconnect",
            Self::UdpSendto => "udp-sendto",
            Self::NeverConnected => "never-connected",
        }
    }

    /// Operations of each thread in a timed batch: some 20 ms.
    pub const fn operations(self) -> u32 {
        match self {
            Self::UdpConnectClose | Self::UdpSendto => 10_000,
            Self::TcpConnectClose => 1_000,
            Self::UdpReconnect | Self::NeverConnected => 20_000,
        }
    }
}
