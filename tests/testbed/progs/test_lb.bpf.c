// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * A socket load balancer of two entries, for tests: what a client connects or sends to (a virtual address) is
 * made into a backend, as Cilium's bpf_sock.c does.  Answers are not translated back.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define ALLOW 1
#define ENTRIES 2

/* Addresses and ports in network order, IPv4 in [0]; protocol 0: not in use */
struct lb_entry {
	__be32 vip[4];
	__be32 backend[4];
	__be16 vip_port;
	__be16 backend_port;
	__u16 family;
	__u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENTRIES);
	__type(key, __u32);
	__type(value, struct lb_entry);
} lb_entries SEC(".maps");

static __always_inline struct lb_entry *entry_at(__u32 i, __u16 family, __u32 protocol)
{
	struct lb_entry *e = bpf_map_lookup_elem(&lb_entries, &i);

	return e && e->protocol && e->family == family && e->protocol == protocol ? e : NULL;
}

static __always_inline int translate4(struct bpf_sock_addr *ctx)
{
	__u32 i;

	for (i = 0; i < ENTRIES; i++) {
		struct lb_entry *e = entry_at(i, AF_INET, ctx->protocol);

		if (!e || ctx->user_ip4 != e->vip[0] || ctx->user_port != e->vip_port)
			continue;
		ctx->user_ip4 = e->backend[0];
		ctx->user_port = e->backend_port;
		break;
	}
	return ALLOW;
}

static __always_inline int translate6(struct bpf_sock_addr *ctx)
{
	/* volatile: clang would merge the loads into one with a computed context address */
	volatile struct bpf_sock_addr *c = ctx;
	__u32 i;

	for (i = 0; i < ENTRIES; i++) {
		struct lb_entry *e = entry_at(i, AF_INET6, c->protocol);

		if (!e || c->user_port != e->vip_port || c->user_ip6[0] != e->vip[0] ||
		    c->user_ip6[1] != e->vip[1] || c->user_ip6[2] != e->vip[2] || c->user_ip6[3] != e->vip[3])
			continue;
		c->user_ip6[0] = e->backend[0];
		c->user_ip6[1] = e->backend[1];
		c->user_ip6[2] = e->backend[2];
		c->user_ip6[3] = e->backend[3];
		c->user_port = e->backend_port;
		break;
	}
	return ALLOW;
}

SEC("cgroup/connect4")
int lb_connect4(struct bpf_sock_addr *ctx)
{
	return translate4(ctx);
}

SEC("cgroup/connect6")
int lb_connect6(struct bpf_sock_addr *ctx)
{
	return translate6(ctx);
}

/* Of IPv6 sockets that name an IPv4 address: as that one is translated. */
SEC("cgroup/connect6")
int lb_mapped(struct bpf_sock_addr *ctx)
{
	volatile struct bpf_sock_addr *c = ctx;
	__u32 i;

	if (c->user_ip6[0] || c->user_ip6[1] || c->user_ip6[2] != bpf_htonl(0xffff))
		return ALLOW;
	for (i = 0; i < ENTRIES; i++) {
		struct lb_entry *e = entry_at(i, AF_INET, c->protocol);

		if (!e || c->user_port != e->vip_port || c->user_ip6[3] != e->vip[0])
			continue;
		c->user_ip6[3] = e->backend[0];
		c->user_port = e->backend_port;
		break;
	}
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int lb_sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate4(ctx);
}

SEC("cgroup/sendmsg6")
int lb_sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate6(ctx);
}

/* Holds up a connect between the hooks before this one and its effect. */
#define DELAY_NS 700000000ULL
#define SPINS_MAX (1 << 23)

static long spin(__u32 i, void *until)
{
	return bpf_ktime_get_ns() >= *(__u64 *)until;
}

SEC("cgroup/connect4")
int lb_delay4(struct bpf_sock_addr *ctx)
{
	__u64 until = bpf_ktime_get_ns() + DELAY_NS;

	bpf_loop(SPINS_MAX, spin, &until, 0);
	bpf_loop(SPINS_MAX, spin, &until, 0);
	bpf_loop(SPINS_MAX, spin, &until, 0);
	bpf_loop(SPINS_MAX, spin, &until, 0);
	return ALLOW;
}
