"""Counting BPF programs on the socket hooks of a cgroup, through bpf(2) alone.

Constants and structs: include/uapi/linux/bpf.h, and bpf_common.h for the instructions.
"""

import contextlib
import ctypes
import errno
import os
import struct
from clients import skip

# enum bpf_cmd
BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_PROG_ATTACH = 0, 1, 5, 6, 8
BPF_PROG_QUERY, BPF_LINK_CREATE = 16, 28
BPF_F_ALLOW_OVERRIDE, BPF_F_ALLOW_MULTI, BPF_F_QUERY_EFFECTIVE = 1, 2, 1
BPF_MAP_TYPE_ARRAY = 2
BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_CGROUP_SOCK_ADDR = 9, 18
# enum bpf_attach_type
ADDRESS_HOOKS = {"connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15}
ADDRESS_HOOKS |= {"recvmsg4": 19, "recvmsg6": 20}
SOCK_HOOKS = {"sock_create": 2, "sock_release": 34}
HOOKS = ADDRESS_HOOKS | SOCK_HOOKS
# Offsets in struct bpf_sock_addr
USER_IP4, USER_PORT = 4, 24
# syscall(2) of x86-64 and of the generic table
SYS_BPF = {"x86_64": 321}.get(os.uname().machine, 280)

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attr):
    """bpf(2); without it, without the right to use it, or without cgroup links: a skip."""
    buffer = ctypes.create_string_buffer(attr, 128)
    result = libc.syscall(SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        no_links = command == BPF_LINK_CREATE and code == errno.EINVAL
        if no_links or code in (errno.ENOSYS, errno.EPERM):
            skip(f"bpf command {command}: {os.strerror(code)}")
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result


def instruction(code, dst=0, src=0, offset=0, value=0):
    return struct.pack("=BBhi", code, dst | src << 4, offset, value)


def counting_program(hook, map_fd):
    """A program that counts in the map and allows the call.

    On an address hook it stores the port, and the address of IPv4.
    """
    port, address = hook in ADDRESS_HOOKS, hook.endswith("4")
    code = [
        instruction(0xBF, 6, 1),  # r6 = ctx
        instruction(0x62, 10, 0, -4, 0),  # key on the stack = 0
        instruction(0xBF, 2, 10),  # r2 = frame pointer
        instruction(0x07, 2, 0, 0, -4),  # r2 -= 4
        instruction(0x18, 1, 1, 0, map_fd),  # r1 = map
        instruction(0),
        instruction(0x85, value=1),  # bpf_map_lookup_elem
        instruction(0x15, 0, 0, 2 + 2 * port + 2 * address, 0),  # if r0 == 0 goto end
        instruction(0xB7, 1, 0, 0, 1),  # r1 = 1
        instruction(0xDB, 0, 1, 0, 0),  # lock *(u64 *)r0 += r1
    ]
    if port:
        code += [
            instruction(0x61, 1, 6, USER_PORT),  # r1 = ctx->user_port
            instruction(0x63, 0, 1, 8),  # *(u32 *)(r0 + 8) = r1
        ]
    if address:
        code += [
            instruction(0x61, 1, 6, USER_IP4),  # r1 = ctx->user_ip4
            instruction(0x63, 0, 1, 12),  # *(u32 *)(r0 + 12) = r1
        ]
    code += [instruction(0xB7, 0, 0, 0, 1), instruction(0x95)]  # end: return 1
    return b"".join(code)


def load(hook, code):
    """Loads a program for a hook and returns its descriptor."""
    code = ctypes.create_string_buffer(code)
    gpl = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "=IIQQIIQII16sII",
        BPF_PROG_TYPE_CGROUP_SOCK if hook in SOCK_HOOKS else BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        (len(code) - 1) // 8,
        ctypes.addressof(code),
        ctypes.addressof(gpl),
        *(0, 0, 0, 0, 0),  # log, kernel version, flags
        b"finding",
        0,  # interface
        HOOKS[hook],  # expected_attach_type
    )
    return bpf(BPF_PROG_LOAD, attr)


def verdict_program(allow):
    """A program that allows or denies the call and does nothing else."""
    return instruction(0xB7, 0, 0, 0, int(allow)) + instruction(0x95)


def link(program, hook, cgroup):
    """Attaches a program by a link, which ends with its descriptor."""
    with open_folder(cgroup) as target:
        return bpf(BPF_LINK_CREATE, struct.pack("=IIII", program, target, HOOKS[hook], 0))


def attach(program, hook, cgroup, flags):
    """Attaches a program without a link; it stays until the cgroup is removed."""
    with open_folder(cgroup) as target:
        bpf(BPF_PROG_ATTACH, struct.pack("=IIII", target, program, HOOKS[hook], flags))


def pin(fd, path):
    """Pins a map, program or link in a bpffs."""
    name = ctypes.create_string_buffer(path.encode())
    bpf(BPF_OBJ_PIN, struct.pack("=QI", ctypes.addressof(name), fd))


def query(hook, cgroup, flags=0):
    """The number of programs on the hook, and the revision of the list."""
    ids = ctypes.create_string_buffer(4 * 64)
    with open_folder(cgroup) as target:
        head = struct.pack("=IIIIQI", target, HOOKS[hook], flags, 0, ctypes.addressof(ids), 64)
        buffer = ctypes.create_string_buffer(head, 128)
        if libc.syscall(SYS_BPF, BPF_PROG_QUERY, buffer, len(buffer)) < 0:
            raise OSError(ctypes.get_errno(), "BPF_PROG_QUERY")
    return struct.unpack_from("=I", buffer, 24)[0], struct.unpack_from("=Q", buffer, 56)[0]


class Counter:
    """A counting program with its map; `link` attaches it to a cgroup."""

    def __init__(self, hook):
        self.hook = hook
        self.map = bpf(BPF_MAP_CREATE, struct.pack("=IIII", BPF_MAP_TYPE_ARRAY, 4, 16, 1))
        self.program = load(hook, counting_program(hook, self.map))

    def link(self, cgroup):
        """Attaches by a link, which ends with this process."""
        self.link_fd = link(self.program, self.hook, cgroup)
        return self

    def read(self):
        """How often it ran, and the address and port that it saw last."""
        key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(16)
        attr = struct.pack("=IxxxxQQQ", self.map, ctypes.addressof(key), ctypes.addressof(value), 0)
        bpf(BPF_MAP_LOOKUP_ELEM, attr)
        count, port, address = struct.unpack("=Q4s4s", value.raw)
        return count, ".".join(map(str, address)), struct.unpack("!H", port[:2])[0]


@contextlib.contextmanager
def open_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def join(cgroup):
    """Moves this process into the cgroup."""
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
        procs.write("0")
