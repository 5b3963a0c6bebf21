/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Bootstrap: sockets that are older than the hooks are put into the index by socket iterators, once, while the
 * hooks are attached already.
 *
 * The race with close: an iterator may show a socket whose cgroup/sock_release has run, or runs now, on another
 * CPU.  A node that is linked after it would stay for ever.  So the node is linked first, and then the file is
 * looked at.  If it still had a reference, its last one goes later, and the release after that finds the node.
 * If it had none, the node is taken out again here; whether the release was before, after or in between does
 * not matter, as one of the two takes it out under the shard's lock and the other finds nothing.  The iterator holds
 * the socket's lock meanwhile, for which a close waits after its release: a walk that meets the node does not find
 * the socket closed, and does not take it for one whose release was missed.
 *
 * The race with connect() needs nothing: who comes second finds the membership there, under the same lock.
 *
 * The server's side of a TCP connection is left out: it never connected, so the hooks would not have recorded it
 * either.  Such a socket is a copy of its listener, so it has a backlog, and the handshake has left the interface
 * of the peer's first packet where a socket keeps the one for multicast.  Both must be so.  The side of a client
 * has neither; it would need to have listened before and to have chosen an interface for multicast, on TCP.  The
 * mistake that is left, a listener with a backlog of 0, costs a node and nothing else.
 */
#ifndef SKREAP_BOOTSTRAP_BPF_H
#define SKREAP_BOOTSTRAP_BPF_H

#include "cgroup.bpf.h"

/* States of TCP sockets that are, or are about to be, connected to somebody.  Those in TIME_WAIT and NEW_SYN_RECV
 * are shorter than a struct sock. */
#define TCP_WITH_PEER \
	(1 << TCP_ESTABLISHED | 1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV | 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | \
	 1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING)

/* The process' own, not the index': in .data, so that it is not pinned. */
struct skreap_bootstrap bootstrap SEC(".data.bootstrap");

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

static __always_inline bool was_accepted(const struct sock *sk, const struct peer *live)
{
	const struct inet_sock *inet = bpf_core_cast(sk, struct inet_sock);

	if (!sk->sk_max_ack_backlog)
		return false;
	if (live->family == AF_INET)
		return !bpf_core_field_exists(inet->mc_index) || inet->mc_index;
	return !bpf_core_field_exists(inet->pinet6) || (inet->pinet6 && inet->pinet6->mcast_oif);
}

/* trusted: the socket as the iterator gave it, which the cookie helper asks for */
static __always_inline void bootstrap_visit(void *trusted, const struct sock *sk, __u8 protocol,
					    struct skreap_bootstrap_counts *n)
{
	struct membership m = {};
	struct shard *s;
	struct peer live;
	int result;

	live_peer(sk, protocol, &live);
	if (!live.dport || sk->sk_protocol != protocol || !in_cgroup(sk, bootstrap.cgroup))
		return;
	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock)) {
		note_kernel_socket(key_of(&live), NODE_CONNECT);
		return;
	}
	if (protocol == IPPROTO_TCP && was_accepted(sk, &live)) {
		n->accepted++;
		return;
	}
	if (!is_open(sk)) {
		n->closed++;
		return;
	}
	m.sk = (__u64)sk;
	m.cookie = bpf_get_socket_cookie(trusted);
	m.key = key_of(&live);
	m.live_key = m.key;
	m.found = 1;
	/* Nobody knows which thread has connected it: as if several had. */
	m.tag = NODE_CONNECT | (live.family == AF_INET6 ? NODE_IPV6 : 0);
	s = shard_at(shard_of(m.cookie));
	if (!s)
		return;
	result = record_membership(s, &m, trusted);
	if (result == RECORD_NEW)
		n->indexed++;
	else if (result == RECORD_KNOWN)
		n->known++;
	else
		n->dropped++;
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

static __always_inline void bootstrap_tcp(struct sock_common *c)
{
	if (1 << (c->skc_state & 31) & TCP_WITH_PEER)
		bootstrap_visit(c, sock_of(c), IPPROTO_TCP, &bootstrap.tcp);
}

static __always_inline void bootstrap_udp(struct udp_sock *udp)
{
	bootstrap_visit(udp, sock_of(udp), IPPROTO_UDP, &bootstrap.udp);
}

#endif
