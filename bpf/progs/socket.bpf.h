/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* The live socket: its peer, and its name for user space. */
#ifndef SKREAP_SOCKET_BPF_H
#define SKREAP_SOCKET_BPF_H

#include "peer.bpf.h"

static __always_inline struct sock *sock_of(const void *sk)
{
	return bpf_core_cast(sk, struct sock);
}

static __always_inline __u64 sock_cookie(const struct sock *sk)
{
	return *(volatile const __s64 *)&sk->__sk_common.skc_cookie.counter;
}

/* The peer the socket has now; p->dport == 0: none */
static __always_inline void live_peer(const struct sock *sk, __u8 protocol, struct peer *p)
{
	const struct sock_common *c = &sk->__sk_common;

	p->dport = c->skc_dport;
	p->protocol = protocol;
	p->family = AF_INET;
	p->daddr[1] = p->daddr[2] = p->daddr[3] = 0;
	if (c->skc_family != AF_INET6 || !bpf_core_field_exists(c->skc_v6_daddr)) {
		p->daddr[0] = c->skc_daddr;
		return;
	}
	p->daddr[0] = c->skc_v6_daddr.in6_u.u6_addr32[0];
	p->daddr[1] = c->skc_v6_daddr.in6_u.u6_addr32[1];
	p->daddr[2] = c->skc_v6_daddr.in6_u.u6_addr32[2];
	p->daddr[3] = c->skc_v6_daddr.in6_u.u6_addr32[3];
	if (is_v4mapped(p->daddr[0], p->daddr[1], p->daddr[2])) {
		p->daddr[0] = p->daddr[3];
		p->daddr[2] = p->daddr[3] = 0;
	} else {
		p->family = AF_INET6;
	}
}

/*
 * Everything that sock_diag needs to find exactly this socket, in its own family (a mapped peer
 * stays mapped).
 */
static __always_inline void sock_identify(const struct sock *sk, __u8 protocol, struct skreap_victim *v)
{
	const struct sock_common *c = &sk->__sk_common;
	__u64 cookie = sock_cookie(sk);

	v->id.sport = bpf_htons(c->skc_num);
	v->id.dport = c->skc_dport;
	v->id.ifindex = c->skc_bound_dev_if;
	v->id.cookie[0] = (__u32)cookie;
	v->id.cookie[1] = cookie >> 32;
	v->netns = c->skc_net.net->net_cookie;
	v->netns_inum = c->skc_net.net->ns.inum;
	v->family = c->skc_family;
	v->protocol = protocol;
	v->state = c->skc_state;
	v->id.saddr[1] = v->id.saddr[2] = v->id.saddr[3] = 0;
	v->id.daddr[1] = v->id.daddr[2] = v->id.daddr[3] = 0;
	if (c->skc_family != AF_INET6 || !bpf_core_field_exists(c->skc_v6_daddr)) {
		v->id.saddr[0] = c->skc_rcv_saddr;
		v->id.daddr[0] = c->skc_daddr;
		return;
	}
	v->id.saddr[0] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
	v->id.saddr[1] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
	v->id.saddr[2] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
	v->id.saddr[3] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
	v->id.daddr[0] = c->skc_v6_daddr.in6_u.u6_addr32[0];
	v->id.daddr[1] = c->skc_v6_daddr.in6_u.u6_addr32[1];
	v->id.daddr[2] = c->skc_v6_daddr.in6_u.u6_addr32[2];
	v->id.daddr[3] = c->skc_v6_daddr.in6_u.u6_addr32[3];
}

#endif
