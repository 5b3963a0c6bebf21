// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * The full scan: every socket of the netns the iterator was made in, destroyed where it matches.
 *
 * The iterators hold the socket's lock while a program looks at it, so what is destroyed is what was
 * compared.  Sockets that user space has to know of (dry runs, failures) are the output of the pass.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "../include/abi.h"

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "peer.bpf.h"
#include "socket.bpf.h"
#include "cgroup.bpf.h"
#include "accepted.bpf.h"
#include "filter.bpf.h"

/* The cgroup whose sockets, and those of the cgroups below, may be touched; 0: all. Set before load. */
const volatile __u64 cfg_cgroup;

/* What to look for; set before the first pass. */
struct scan_request {
	struct peer peer;
	__u32 states; /* bit 1 << TCP_*: these TCP sockets are looked at; full sockets only */
	__u32 dry_run;
	__u32 filtered; /* 1: no peer, but all sockets to which the filter applies */
	__u64 cookie; /* not 0: exactly this socket, if it has the peer, or none if that has no port */
};

/* What came of it; sums over all passes since the request was set. */
struct scan_counts {
	__u64 scanned;	   /* sockets shown by the iterators */
	__u64 matched;	   /* sockets that are connected to the peer, and may be touched */
	__u64 destroyed;
	__u64 gone;	   /* destroy said ENOENT: closed meanwhile */
	__u64 unsupported; /* destroy said EOPNOTSUPP: state or kind that cannot be destroyed */
	__u64 failed;	   /* destroy said anything else; the socket is in the output */
	__u64 kernel;	   /* left alone: connected to the peer, and opened by the kernel for itself */
	__u64 accepted;	   /* left alone: connected to the peer, and the server's side of the connection */
};

/* One socket of the output. */
struct scan_hit {
	struct skreap_victim victim;
	__s32 error; /* of the destroy, -errno; 0 in a dry run */
	__u32 padding;
};

struct scan {
	struct scan_request request;
	struct scan_counts n;
	struct scan_hit hit; /* being put together; one pass at a time */
};

struct scan scan;

/* False if the output is full: the iterator then shows the same socket again. */
static __always_inline bool output(struct seq_file *seq, const struct sock *sk, __u8 protocol, int error)
{
	sock_identify(sk, protocol, &scan.hit.victim);
	scan.hit.victim.relation = SKREAP_CONNECTED;
	scan.hit.error = error;
	return !bpf_seq_write(seq, &scan.hit, sizeof(scan.hit));
}

static __always_inline bool matches(const struct sock *sk, __u8 protocol)
{
	const struct scan_request *request = &scan.request;
	struct peer live, wanted;

	if (request->filtered) {
		live_peer(sk, protocol, &live);
		if (!live.dport || !filter_socket(sk, filter_peer(&live)))
			return false;
		return sk->sk_socket && in_cgroup(sk, cfg_cgroup);
	}
	if (request->cookie && sock_cookie(sk) != request->cookie)
		return false;
	/* Looked for by name, it may have gone elsewhere since. */
	if (request->cookie && !request->peer.dport)
		return !sk->__sk_common.skc_dport;
	/* A zero address or port would match sockets that are bound, listening or just closed. */
	if (!request->peer.dport || sk->__sk_common.skc_dport != request->peer.dport)
		return false;
	if (!(request->peer.daddr[0] | request->peer.daddr[1] | request->peer.daddr[2] | request->peer.daddr[3]))
		return false;
	live_peer(sk, protocol, &live);
	wanted = request->peer;
	if (!same_peer(&live, &wanted))
		return false;
	/* Sockets without a struct socket were closed by their owner: nobody waits for them. */
	return sk->sk_socket && in_cgroup(sk, cfg_cgroup);
}

/* True for a socket that no engine touches, although it is connected to the peer. */
static __always_inline bool left_alone(const struct sock *sk, __u8 protocol)
{
	struct peer live;

	/* Its owner in the kernel's matter, see record.bpf.h. */
	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock)) {
		scan.n.kernel++;
		return true;
	}
	if (protocol != IPPROTO_TCP)
		return false;
	live_peer(sk, protocol, &live);
	if (!was_accepted(sk, &live))
		return false;
	scan.n.accepted++;
	return true;
}

static __always_inline int visit(struct seq_file *seq, struct sock_common *c, __u8 protocol)
{
	const struct sock *sk = sock_of(c);
	int error;

	/* First of all: sockets in TIME_WAIT and NEW_SYN_RECV are shorter than a struct sock. */
	if (protocol == IPPROTO_TCP && !(scan.request.states >> (c->skc_state & 31) & 1)) {
		scan.n.scanned++;
		return 0;
	}
	if (!matches(sk, protocol) || left_alone(sk, protocol)) {
		scan.n.scanned++;
		return 0;
	}
	if (scan.request.dry_run) {
		if (!output(seq, sk, protocol, 0))
			return 0;
		scan.n.scanned++;
		scan.n.matched++;
		return 0;
	}
	error = bpf_sock_destroy(c);
	if (!error)
		scan.n.destroyed++;
	else if (error == -ENOENT)
		scan.n.gone++;
	else if (error == -EOPNOTSUPP)
		scan.n.unsupported++;
	else if (output(seq, sk, protocol, error))
		scan.n.failed++;
	else
		return 0;
	scan.n.scanned++;
	scan.n.matched++;
	return 0;
}

SEC("iter/tcp")
int skreap_scan_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *c = ctx->sk_common;

	return c ? visit(ctx->meta->seq, c, IPPROTO_TCP) : 0;
}

SEC("iter/udp")
int skreap_scan_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;

	return udp ? visit(ctx->meta->seq, (struct sock_common *)udp, IPPROTO_UDP) : 0;
}
