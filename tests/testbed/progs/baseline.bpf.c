// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * What the hooks are compared with: programs that do nothing, and programs that record each socket in an LRU
 * hash keyed by cookie and peer, as Cilium's socket load balancer does (bpf_sock.c, LB4_REVERSE_NAT_SK_MAP).
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define ALLOW 1

struct lru_key {
	__u64 cookie;
	__be32 daddr[4];
	__be16 dport;
	__u16 padding;
	__u32 padding2;
};

struct lru_value {
	__be32 address[4];
	__be16 port;
	__u16 rev_nat_index;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct lru_key);
	__type(value, struct lru_value);
} lru SEC(".maps");

static __always_inline int lru_record(struct bpf_sock_addr *ctx, const struct lru_key *key)
{
	struct lru_value value = {}, *old;

	old = bpf_map_lookup_elem(&lru, key);
	if (old && old->port == key->dport)
		return ALLOW;
	value.address[0] = key->daddr[0];
	value.port = key->dport;
	bpf_map_update_elem(&lru, key, &value, BPF_ANY);
	return ALLOW;
}

static __always_inline int lru_record4(struct bpf_sock_addr *ctx)
{
	struct lru_key key = {
		.cookie = bpf_get_socket_cookie(ctx),
		.daddr[0] = ctx->user_ip4,
		.dport = ctx->user_port,
	};

	return lru_record(ctx, &key);
}

static __always_inline int lru_record6(struct bpf_sock_addr *ctx)
{
	volatile struct bpf_sock_addr *c = ctx;
	struct lru_key key = {
		.cookie = bpf_get_socket_cookie(ctx),
		.daddr = {c->user_ip6[0], c->user_ip6[1], c->user_ip6[2], c->user_ip6[3]},
		.dport = c->user_port,
	};

	return lru_record(ctx, &key);
}

SEC("cgroup/connect4")
int lru_connect4(struct bpf_sock_addr *ctx)
{
	return lru_record4(ctx);
}

SEC("cgroup/connect6")
int lru_connect6(struct bpf_sock_addr *ctx)
{
	return lru_record6(ctx);
}

SEC("cgroup/sendmsg4")
int lru_sendmsg4(struct bpf_sock_addr *ctx)
{
	return lru_record4(ctx);
}

SEC("cgroup/sendmsg6")
int lru_sendmsg6(struct bpf_sock_addr *ctx)
{
	return lru_record6(ctx);
}

/* Cilium deletes the entry of a socket on release, by the peer the socket has then. */
SEC("cgroup/sock_release")
int lru_sock_release(struct bpf_sock *ctx)
{
	struct lru_key key = {
		.cookie = bpf_get_socket_cookie(ctx),
		.daddr[0] = ctx->dst_ip4,
		.dport = ctx->dst_port,
	};

	bpf_map_delete_elem(&lru, &key);
	return ALLOW;
}

SEC("cgroup/connect4")
int empty_connect4(struct bpf_sock_addr *ctx)
{
	return ALLOW;
}

SEC("cgroup/connect6")
int empty_connect6(struct bpf_sock_addr *ctx)
{
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int empty_sendmsg4(struct bpf_sock_addr *ctx)
{
	return ALLOW;
}

SEC("cgroup/sendmsg6")
int empty_sendmsg6(struct bpf_sock_addr *ctx)
{
	return ALLOW;
}

SEC("cgroup/sock_release")
int empty_sock_release(struct bpf_sock *ctx)
{
	return ALLOW;
}
