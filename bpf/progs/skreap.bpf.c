// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* Entry points: the hooks that fill the index, the iterators that put pre-existing sockets into it, and the walk that
 * empties a bucket of it. */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "../include/abi.h"
#include "../include/kfunc.h"

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "config.bpf.h"
#include "counters.bpf.h"
#include "key.bpf.h"
#include "socket.bpf.h"
#include "index.bpf.h"
#include "loop.bpf.h"
#include "sockref.bpf.h"
#include "kernel_notes.bpf.h"
#include "incomplete.bpf.h"
#include "frontend.bpf.h"
#include "record.bpf.h"
#include "release.bpf.h"
#include "pending.bpf.h"
#include "walk.bpf.h"
#include "rekey.bpf.h"
#include "sent.bpf.h"
#include "bootstrap.bpf.h"
#include "connects.bpf.h"

/* The hooks only take note: 1 lets the call go on. */
#define ALLOW 1

#define LOOPBACK bpf_htonl(0x7f000001)

static __always_inline __be32 own_ipv4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *bsk = (struct bpf_sock *)ctx->sk;
	__be32 own = bsk ? bpf_core_cast(bsk, struct inet_sock)->inet_saddr : 0;

	return own ? own : LOOPBACK;
}

/*
 * What a zero address stands for is decided after the hook: the socket's own address, or loopback.  A connect() to it
 * makes the socket a wildcard, so that its live peer decides.  A sender has none: it is taken for one to the own address if
 * it is bound to one, and to loopback otherwise, as in udp_sendmsg() and udpv6_sendmsg().  A connect() with an address of
 * another family is refused after the hook, whatever stands where we look for ours.
 *
 * Without a port there is no backend, and nothing to record: a connected socket that sends with control messages and no
 * name comes to these hooks with an address that is all zero, and a UDP connect() to port 0 leaves the socket without
 * a peer.  (An AF_UNSPEC name is another matter: IPv4 sends to its address, IPv6 takes it for no name.)
 */
static __always_inline int record4(struct bpf_sock_addr *ctx, __u32 tag)
{
	__be32 daddr = ctx->user_ip4;
	__u32 frontend;

	if (!ctx->user_port)
		return ALLOW;
	frontend = frontend_take(ctx, AF_INET, &daddr, ctx->user_port);
	if (!daddr && tag & NODE_SENDMSG)
		daddr = own_ipv4(ctx);
	else if (!daddr && ctx->user_family == AF_INET)
		tag |= NODE_WILDCARD;
	record(ctx, key_ipv4(daddr, ctx->user_port, ctx->protocol), tag, frontend);
	return ALLOW;
}

static __always_inline int record6(struct bpf_sock_addr *ctx, __u32 tag)
{
	/* volatile: clang would merge the loads into one with a computed context address */
	volatile struct bpf_sock_addr *c = ctx;
	struct peer p = {
		.daddr = {c->user_ip6[0], c->user_ip6[1], c->user_ip6[2], c->user_ip6[3]},
		.dport = c->user_port,
		.family = AF_INET6,
		.protocol = c->protocol,
	};
	bool ipv6 = !is_v4mapped(p.daddr[0], p.daddr[1], p.daddr[2]);
	__u32 frontend;
	__u64 key;

	if (!p.dport)
		return ALLOW;
	frontend = frontend_take(ctx, AF_INET6, p.daddr, p.dport);
	if (!(p.daddr[3] | (ipv6 ? p.daddr[0] | p.daddr[1] | p.daddr[2] : 0))) {
		if (tag & NODE_SENDMSG)
			p.daddr[3] = ipv6 ? bpf_htonl(1) : own_ipv4(ctx);
		else if (c->user_family == AF_INET6)
			tag |= NODE_WILDCARD;
	}
	key = ipv6 ? key_of(&p) : key_ipv4(p.daddr[3], p.dport, p.protocol);
	if (record(ctx, key, ipv6 ? tag | NODE_IPV6 : tag, frontend) && ipv6 && tag & NODE_SENDMSG)
		bpf_map_update_elem(&ipv6_names, &key, &p, BPF_ANY);
	return ALLOW;
}

SEC("cgroup/connect4")
int skreap_connect4(struct bpf_sock_addr *ctx)
{
	connects_note4(ctx);
	return record4(ctx, NODE_CONNECT);
}

SEC("cgroup/connect6")
int skreap_connect6(struct bpf_sock_addr *ctx)
{
	connects_note6(ctx);
	return record6(ctx, NODE_CONNECT);
}

SEC("cgroup/sendmsg4")
int skreap_sendmsg4(struct bpf_sock_addr *ctx)
{
	return record4(ctx, NODE_SENDMSG);
}

SEC("cgroup/sendmsg6")
int skreap_sendmsg6(struct bpf_sock_addr *ctx)
{
	return record6(ctx, NODE_SENDMSG);
}

SEC("cgroup/sock_release")
int skreap_sock_release(struct bpf_sock *ctx)
{
	record_release(sock_of(ctx));
	return ALLOW;
}

SEC("syscall")
int skreap_init(void *ctx)
{
	return index_init();
}

SEC("syscall")
int skreap_functions(struct skreap_functions *ctx)
{
	if (cfg_refs == SKREAP_REFS_KERNEL) {
		ctx->acquire = bpf_ksym_exists(bpf_sock_acquire);
		ctx->release = bpf_ksym_exists(bpf_sock_release);
		ctx->destroy = bpf_ksym_exists(bpf_sock_destroy_peer_might_sleep);
		barrier(); /* or the compiler makes one path of both, which the verifier has to follow */
		return 0;
	}
	ctx->acquire = bpf_ksym_exists(skreap_sock_acquire_v1);
	ctx->release = bpf_ksym_exists(skreap_sock_release_v1);
	ctx->destroy = bpf_ksym_exists(skreap_sock_try_destroy_v1);
	return 0;
}

SEC("syscall")
int skreap_walk(struct skreap_walk *ctx)
{
	int err = walk(ctx);

	ctx->error = err;
	return err;
}

SEC("syscall")
int skreap_rekey(struct skreap_rekey *ctx)
{
	int err = rekey(ctx);

	ctx->error = err;
	return err;
}

SEC("syscall")
int skreap_sent(struct skreap_sent *ctx)
{
	int err = sent(ctx);

	ctx->error = err;
	return err;
}

SEC("syscall")
int skreap_connecting(struct skreap_connecting *ctx)
{
	connecting.process = bpf_get_current_pid_tgid() >> 32;
	__sync_fetch_and_add(&connecting.users, ctx->users);
	return 0;
}

SEC("syscall")
int skreap_incomplete(struct skreap_incomplete_update *ctx)
{
	int err = incomplete_update(ctx);

	ctx->error = err;
	return err;
}

SEC("iter/tcp")
int skreap_bootstrap_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *c = ctx->sk_common;

	if (c)
		bootstrap_tcp(ctx->meta->seq, c);
	return 0;
}

SEC("iter/udp")
int skreap_bootstrap_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;

	if (udp)
		bootstrap_udp(ctx->meta->seq, udp);
	return 0;
}

SEC("iter/task_file")
int skreap_bootstrap_file(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;

	if (file)
		bootstrap_file(ctx->meta->seq, file);
	return 0;
}
