// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * Which processes have some sockets open, and under which descriptors: one pass over the files of all processes, which
 * takes no socket's lock.
 *
 * Threads usually share the descriptors of their process, and the iterator shows those once.  A thread with a descriptor
 * table of its own is shown separately, so the thread is reported, not the process.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* One descriptor.  Numbers of threads are those of the reader's PID namespace. */
struct opener {
	__u64 cookie;
	__u32 thread;
	__u32 process;
	__u32 fd;
	__u32 bound; /* 1: a program has chosen its local address, not the kernel */
	__u32 mark;  /* SO_MARK */
	__u32 padding;
};
_Static_assert(sizeof(struct opener) == 32, "no hidden padding");

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct opener opener_type;

/* include/net/sock.h */
#define SOCK_BINDADDR_LOCK 4

#define WANTED_MAX (1 << 17)

/* The cookies of the sockets that are looked for */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WANTED_MAX);
	__type(key, __u64);
	__type(value, __u8);
} wanted SEC(".maps");

/* The number of a task in the PID namespace `level` levels below that of the machine */
static __always_inline __u32 number_of(struct task_struct *task, __u32 level)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 number = 0;

	if (!pid || level > 32)
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid) + bpf_core_field_offset(struct upid, nr));
	return number;
}

SEC("iter/task_file")
int skreap_openers(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task, *reader;
	struct file *file = ctx->file;
	struct opener found = {};
	struct socket *socket;
	struct sock *sk, *named;
	__u32 level;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	/* Plain loads, which cost no call of a helper: most files that come here are somebody else's sockets. */
	named = socket->sk;
	if (!named)
		return 0;
	sk = bpf_core_cast(named, struct sock);
	/* Read, and not asked for: that would give one to every socket of the machine. */
	found.cookie = *(volatile const __s64 *)&sk->__sk_common.skc_cookie.counter;
	if (!found.cookie || !bpf_map_lookup_elem(&wanted, &found.cookie))
		return 0;
	reader = (struct task_struct *)bpf_get_current_task();
	level = BPF_CORE_READ(reader, thread_pid, level);
	found.thread = number_of(task, level);
	found.process = number_of(BPF_CORE_READ(task, group_leader), level);
	found.fd = ctx->fd;
	found.mark = sk->sk_mark;
	found.bound = !!(BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDADDR_LOCK);
	/* If there is no room, the iterator shows the same file again. */
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}
