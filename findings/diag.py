"""Requests to sock_diag for IPv4 sockets. Constants and structs: include/uapi/linux/*.h."""

import socket
import struct
from clients import skip

NETLINK_SOCK_DIAG = 4  # netlink.h
NLMSG_ERROR, NLMSG_DONE = 2, 3  # netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300  # netlink.h
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21  # sock_diag.h
NO_COOKIE = 0xFFFFFFFFFFFFFFFF  # INET_DIAG_NOCOOKIE in both halves, inet_diag.h
ALL_STATES = 0xFFFFFFFF

# netlink.h: struct nlmsghdr, and the error of struct nlmsgerr behind it
HEADER = struct.Struct("=IHHII")
# inet_diag.h: struct inet_diag_req_v2 up to its id, and struct inet_diag_sockid
REQUEST = struct.Struct("=BBBxI")
# source port, destination port, source, destination, interface, cookie
ID = struct.Struct("!2s2s16s16s4s8s")
# inet_diag.h: the id's offset in struct inet_diag_msg
ID_OFFSET = 4
# include/uapi/asm-generic/socket.h
SO_COOKIE = 57


def cookie(sock):
    return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]


def packed_id(local=("0.0.0.0", 0), peer=("0.0.0.0", 0), number=NO_COOKIE):
    """struct inet_diag_sockid; the cookie is two 32-bit halves, the lower one first."""
    halves = struct.pack("=II", number & 0xFFFFFFFF, number >> 32)
    ports = [struct.pack("!H", end[1]) for end in (local, peer)]
    addresses = [socket.inet_aton(end[0]).ljust(16, b"\0") for end in (local, peer)]
    return ID.pack(*ports, *addresses, bytes(4), halves)


def open_diag():
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    except OSError:
        skip("sock_diag (CONFIG_INET_DIAG)")


def send(diag, kind, flags, protocol, sockid):
    body = REQUEST.pack(socket.AF_INET, protocol, 0, ALL_STATES) + sockid
    diag.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body)


def messages(buffer):
    """(type, flags, body) of each netlink message in a received buffer."""
    while buffer:
        length, kind, flags, _, _ = HEADER.unpack_from(buffer)
        yield kind, flags, buffer[HEADER.size : length]
        buffer = buffer[(length + 3) & ~3 :]


def cookie_of(body):
    """The cookie in a struct inet_diag_msg."""
    low, high = struct.unpack("=II", body[ID_OFFSET + 40 : ID_OFFSET + 48])
    return low | high << 32


def request(diag, kind, protocol, sockid):
    """One request by id: 0, or the errno that the kernel returns."""
    send(diag, kind, NLM_F_ACK if kind == SOCK_DESTROY else 0, protocol, sockid)
    for got, _, body in messages(diag.recv(65536)):
        return -struct.unpack_from("=i", body)[0] if got == NLMSG_ERROR else 0
