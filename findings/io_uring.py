"""A small io_uring ring, one request at a time. Constants and structs: include/uapi/linux/io_uring.h."""

import ctypes
import errno
import mmap
import os
import struct
import time
from clients import LONG, skip

# These numbers are the same on every architecture
SYS_SETUP, SYS_ENTER, SYS_REGISTER = 425, 426, 427
OFF_SQES = 0x10000000
ENTER_GETEVENTS, REGISTER_FILES = 1, 2
SQE_FIXED_FILE = 1
OP_CONNECT, OP_SEND, OP_RECV, OP_SOCKET = 16, 26, 27, 45
# struct io_uring_sqe up to file_index
SQE = struct.Struct("=BBHiQQIIQHHi16x")

libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    def __init__(self):
        parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
        self.fd = libc.syscall(SYS_SETUP, 8, parameters)
        if self.fd < 0:
            skip(f"io_uring: {os.strerror(ctypes.get_errno())}")
        sq_entries, cq_entries = struct.unpack_from("=II", parameters)
        self.sq = struct.unpack_from("=8I", parameters, 40)  # struct io_sqring_offsets
        self.cq = struct.unpack_from("=8I", parameters, 80)  # struct io_cqring_offsets
        size = max(self.sq[6] + 4 * sq_entries, self.cq[5] + 16 * cq_entries)
        self.ring = mmap.mmap(self.fd, size)
        self.sqes = mmap.mmap(self.fd, SQE.size * sq_entries, offset=OFF_SQES)
        self.sq_mask, self.cq_mask = sq_entries - 1, cq_entries - 1

    def word(self, offset):
        return struct.unpack_from("=I", self.ring, offset)[0]

    def submit(self, opcode, fd, address=0, length=0, offset=0, flags=0, file_index=0):
        """Starts a request, which completes at once or later."""
        tail = self.word(self.sq[1])
        index = tail & self.sq_mask
        SQE.pack_into(
            self.sqes, index * SQE.size, opcode, flags, 0, fd, offset, address, length, 0, 0, 0, 0, file_index
        )
        struct.pack_into("=I", self.ring, self.sq[6] + 4 * index, index)
        struct.pack_into("=I", self.ring, self.sq[1], tail + 1)
        if libc.syscall(SYS_ENTER, self.fd, 1, 0, 0, None, 0) != 1:
            raise OSError(ctypes.get_errno(), "io_uring_enter")

    def wait(self, seconds=LONG):
        """The result of the next request: a number, an errno's name, or "nothing"."""
        deadline = time.monotonic() + seconds
        while True:
            libc.syscall(SYS_ENTER, self.fd, 0, 0, ENTER_GETEVENTS, None, 0)
            head = self.word(self.cq[0])
            if head != self.word(self.cq[1]):
                _, result = struct.unpack_from("=Qi", self.ring, self.cq[5] + 16 * (head & self.cq_mask))
                struct.pack_into("=I", self.ring, self.cq[0], head + 1)
                return errno.errorcode[-result] if result < 0 else result
            if time.monotonic() > deadline:
                return "nothing"
            time.sleep(0.01)

    def register_files(self, count):
        """Makes an empty table of direct descriptors."""
        empty = (ctypes.c_int * count)(*[-1] * count)
        if libc.syscall(SYS_REGISTER, self.fd, REGISTER_FILES, empty, count):
            skip(f"direct descriptors of io_uring: {os.strerror(ctypes.get_errno())}")
