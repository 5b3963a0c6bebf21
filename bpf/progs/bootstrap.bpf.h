/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Bootstrap: pre-existing sockets are put into the index, once, while the hooks are attached already.
 *
 * Two ways lead to them.  The iterator over the files of all processes has no socket's lock, so no owner can hold it
 * up.  It holds a reference to the file: the socket's release is yet to come, and finds the node.  The iterators over
 * the sockets of a netns also show those that no process has open (on their way over a unix socket, registered with
 * io_uring), and what they show is trusted, so that a reference can be taken of it (sockref.bpf.h); but they wait for the
 * lock of each socket.
 *
 * The race with close: an iterator over sockets may show one whose cgroup/sock_release has run, or runs now, on another
 * CPU.  A node that is linked after it would stay for ever.  So the node is linked first, and then the file is
 * looked at.  If it still had a reference, its last one goes later, and the release after that finds the node.
 * If it had none, the node is taken out again here; whether the release was before, after or in between does
 * not matter, as one of the two takes it out under the shard's lock and the other finds nothing.  The iterator holds
 * the socket's lock meanwhile, for which a close waits after its release: a walk that meets the node does not find
 * the socket closed, and does not take it for one whose release was missed.
 *
 * The race with connect() needs nothing: who comes second finds the membership there, under the same lock.
 *
 * The server's side of a TCP connection is left out (accepted.bpf.h): it never connected, so the hooks would not have
 * recorded it either.
 */
#ifndef SKREAP_BOOTSTRAP_BPF_H
#define SKREAP_BOOTSTRAP_BPF_H

#include "cgroup.bpf.h"
#include "accepted.bpf.h"

/* States of TCP sockets that are, or are about to be, connected to somebody.  Those in TIME_WAIT and NEW_SYN_RECV
 * are shorter than a struct sock. */
#define TCP_WITH_PEER \
	(1 << TCP_ESTABLISHED | 1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV | 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | \
	 1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING)

/* The process' own, not the index': in .data, so that it is not pinned. */
struct skreap_bootstrap bootstrap SEC(".data.bootstrap");

/* Never read: puts the types, and so their Rust twins, into the BTF of the object. */
const volatile struct skreap_bootstrap_socket bootstrap_socket_type;
const volatile enum skreap_bootstrap_what bootstrap_what_type;

/* Whether the socket's file still has a reference, so that its release is yet to come. */
static __always_inline bool is_open(const struct sock *sk)
{
	struct socket *socket = *(struct socket *const volatile *)&sk->sk_socket;
	struct file *file;
	__s64 refs;

	if (!socket)
		return false;
	file = *(struct file *const volatile *)&socket->file;
	if (!file)
		return false;
	if (bpf_core_field_exists(file->f_ref)) {
		/* file_ref_t: references - 1; below zero are the ways to have none */
		refs = *(const volatile __s64 *)&file->f_ref.refcnt.counter + 1;
	} else {
		struct file___6_12 *old = (void *)file;

		refs = *(const volatile __s64 *)&old->f_count.counter;
	}
	/* The memory of a file is used for another at once, but only after close took it from the socket. */
	return refs > 0 && *(struct socket *const volatile *)&sk->sk_socket == socket &&
	       *(struct file *const volatile *)&socket->file == file;
}

/* False if user space could not be told: the iterator then shows the same socket again. */
static __always_inline bool bootstrap_tell(struct seq_file *seq, __u64 cookie, __u8 protocol, __u8 what)
{
	struct skreap_bootstrap_socket met = {.cookie = cookie, .protocol = protocol, .what = what};

	return !bpf_seq_write(seq, &met, sizeof(met));
}

/* Records the socket.  trusted: as the kernel gave it, if a reference can be taken of that. */
static __always_inline int bootstrap_record(struct shard *s, struct membership *m, void *trusted)
{
	int result;

	if (trusted)
		return record_membership(s, m, trusted);
	m->node = 0;
	m->dead = 0;
	result = record_first(s, m);
	if (result == RECORD_NO_NODE)
		result = record_further(m);
	if (refs_enabled() && result == RECORD_NEW) {
		__sync_fetch_and_add(&counters.without_ref, 1);
		/* The node of a wildcard socket is there before the others go: a walk always finds one of them. */
		if (m->tag & NODE_WILDCARD)
			record_forget(m, DROP_LISTED);
	}
	return result;
}

/*
 * named: the socket as the cookie helper asks for it.  User space learns of a socket before anything is done about
 * it, and nothing that is done is done twice: what there was no room to tell of is shown again.
 */
static __always_inline void bootstrap_visit(struct seq_file *seq, void *named, void *trusted, const struct sock *sk,
					    __u8 protocol, struct skreap_bootstrap_counts *n)
{
	struct membership m = {};
	bool accepted;
	struct shard *s;
	struct peer live;
	int result;

	bootstrap.passed++;
	live_peer(sk, protocol, &live);
	if (!live.dport || sk->sk_protocol != protocol || !in_cgroup(sk, bootstrap.cgroup))
		return;
	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock)) {
		note_kernel_socket(key_of(&live), NODE_CONNECT);
		return;
	}
	m.cookie = bpf_get_socket_cookie(named);
	accepted = protocol == IPPROTO_TCP && was_accepted(sk, &live);
	if (!bootstrap_tell(seq, m.cookie, protocol, accepted ? SKREAP_BOOTSTRAP_ACCEPTED : SKREAP_BOOTSTRAP_CLIENT) ||
	    accepted)
		return;
	if (!is_open(sk)) {
		n->closed++;
		return;
	}
	m.sk = (__u64)sk;
	m.key = key_of(&live);
	m.live_key = m.key;
	m.found = 1;
	/* Nobody knows which thread has connected it: as if several had. */
	m.tag = NODE_CONNECT | (live.family == AF_INET6 ? NODE_IPV6 : 0);
	s = shard_at(shard_of(m.cookie));
	if (!s)
		return;
	result = bootstrap_record(s, &m, trusted);
	if (result == RECORD_NEW)
		n->indexed++;
	else if (result != RECORD_KNOWN && !bootstrap_tell(seq, m.cookie, protocol, SKREAP_BOOTSTRAP_DROPPED))
		return;
	record_count(&m, result);
	/* Dekker: the node before the look at the file, the last reference before the look at the record.  An
	 * exchange is a full barrier. */
	__sync_lock_test_and_set(&bootstrap.fence, 1);
	if (result == RECORD_NEW && !is_open(sk)) {
		/* Not as a release: that has run, and was counted, or runs now. */
		record_forget(&m, DROP_ALL);
		n->indexed--;
		n->closed++;
	}
}

static __always_inline void bootstrap_tcp(struct seq_file *seq, struct sock_common *c)
{
	if (1 << (c->skc_state & 31) & TCP_WITH_PEER)
		bootstrap_visit(seq, c, c, sock_of(c), IPPROTO_TCP, &bootstrap.tcp);
}

static __always_inline void bootstrap_udp(struct seq_file *seq, struct udp_sock *udp)
{
	bootstrap_visit(seq, udp, udp, sock_of(udp), IPPROTO_UDP, &bootstrap.udp);
}

/* The verifier takes a socket that was reached through its file for a name, but not for something to hold. */
static __always_inline void bootstrap_file(struct seq_file *seq, struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *named, *sk;

	if (!socket)
		return;
	named = socket->sk;
	if (!named)
		return;
	sk = sock_of(named);
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return;
	if (sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM)
		bootstrap_visit(seq, named, NULL, sk, IPPROTO_UDP, &bootstrap.udp);
	else if (sk->sk_protocol == IPPROTO_TCP && sk->sk_type == SOCK_STREAM &&
		 1 << (sk->__sk_common.skc_state & 31) & TCP_WITH_PEER)
		bootstrap_visit(seq, named, NULL, sk, IPPROTO_TCP, &bootstrap.tcp);
}

#endif
