/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Notes: backends to which the kernel's own sockets have connected.
 *
 * A socket that the kernel has opened for itself (a subflow of MPTCP, an NFS mount) runs the hooks of
 * connect() but never cgroup/sock_release, so it has no node: nothing would ever remove it.  It sets a
 * bit that stands for its backend, and for one in 65,536 others.  An event on such a backend looks for
 * the sockets themselves (runner/src/engine/kernel_sockets.rs).
 *
 * A note stays as long as the index: no hook says when the last such socket is closed.
 */
#ifndef SKREAP_KERNEL_NOTES_BPF_H
#define SKREAP_KERNEL_NOTES_BPF_H

#define NOTE_WORDS 2048u /* 32 notes each */

struct skreap_kernel_notes {
	__u32 backends[NOTE_WORDS];
	__u32 everything; /* one has connected to an address that does not say where it leads */
	__u32 any;	  /* there is any note: what user space looks at first */
};

struct skreap_kernel_notes kernel_notes SEC(".bss.kernel");

/* tag: of the node that the socket does not get */
static __always_inline void note_kernel_socket(__u64 key, __u32 tag)
{
	__u32 bit = (__u32)(key >> 32) % (NOTE_WORDS * 32);

	if (!(tag & NODE_CONNECT))
		return;
	if (tag & NODE_WILDCARD)
		kernel_notes.everything = 1;
	else
		__sync_fetch_and_or(&kernel_notes.backends[bit / 32 % NOTE_WORDS], 1u << bit % 32);
	/* A full barrier: a reader that sees this also sees the note. */
	__sync_lock_test_and_set(&kernel_notes.any, 1);
}

static __always_inline bool kernel_socket_noted(__u64 key)
{
	__u32 bit = (__u32)(key >> 32) % (NOTE_WORDS * 32);

	if (!*(volatile __u32 *)&kernel_notes.any)
		return false;
	return *(volatile __u32 *)&kernel_notes.everything ||
	       *(volatile __u32 *)&kernel_notes.backends[bit / 32 % NOTE_WORDS] & 1u << bit % 32;
}

/*
 * An in-kernel socket (MPTCP subflow, NFS, ...) fires connect but never cgroup/sock_release: its node
 * would stay for ever, so it leaves a note.  Anything but plain TCP and UDP cannot be destroyed by tuple.
 */
static __always_inline bool sock_may_be_indexed(const struct sock *sk, __u64 key, __u32 tag)
{
	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock)) {
		__sync_fetch_and_add(&counters.ignored_kernel, 1);
		note_kernel_socket(key, tag);
		return false;
	}
	if ((sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM) ||
	    (sk->sk_protocol == IPPROTO_TCP && sk->sk_type == SOCK_STREAM))
		return true;
	__sync_fetch_and_add(&counters.ignored_protocol, 1);
	return false;
}

#endif
