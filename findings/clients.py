"""Helpers for the clients and servers of the findings. Needs the standard library and `ss`."""

import ctypes
import errno
import functools
import os
import socket
import subprocess
import sys

# Seconds to wait for what must not come, and for what must come, also on a busy machine.
SHORT = 1.0
LONG = 20.0


def skip(what):
    """Ends a finding that this kernel cannot show."""
    print(f"skipped: needs {what}", file=sys.stderr)
    sys.exit(77)


def destroy(*expression):
    """Destroys the sockets that an `ss` expression selects, by SOCK_DESTROY of sock_diag."""
    require_destroy()
    kill(*expression)


@functools.cache
def require_destroy():
    """Destroys a private socket; `ss -K` reports nothing if the kernel cannot do that."""
    server = udp(bind=("127.0.0.1", 0))
    client = udp(peer=server.getsockname())
    kill("-u", "dport", "=", f":{server.getsockname()[1]}")
    if outcome(within(SHORT, client).recv, 1) != "ECONNABORTED":
        skip("SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY, CONFIG_INET_UDP_DIAG)")


def kill(*expression):
    command = ["ss", "-K", "-H", "-n", *expression]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def udp(family=socket.AF_INET, bind=None, peer=None):
    """A UDP socket, bound and connected if asked for, that waits LONG at most."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(LONG)
    if bind:
        sock.bind(bind)
    if peer:
        sock.connect(peer)
    return sock


def outcome(call, *args):
    """The result of a call as a word: its value, its errno's name, or "nothing" on a timeout."""
    try:
        result = call(*args)
    except socket.timeout:
        return "nothing"
    except OSError as error:
        return errno.errorcode[error.errno]
    if isinstance(result, bytes):
        return repr(result.decode()) if result else "end of file"
    return "ok" if result is None or isinstance(result, int) else str(result)


def within(seconds, sock):
    """Sets the socket's timeout and returns the socket."""
    sock.settimeout(seconds)
    return sock


def disconnect(sock):
    """connect() with AF_UNSPEC, which Python's socket module does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), bytes(16), 16):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
