// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * A second witness of every socket, for tests: it knows nothing of the index, and sees sockets where they are made.
 * What it still has when all sockets are closed are sockets whose cgroup/sock_release never ran.
 *
 * A socket is named by its address, which no two have at a time.  The server's side of a TCP connection is made by
 * the kernel and passes no cgroup/sock_create: its release finds nothing here.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define ALLOW 1
#define OPEN_MAX (1 << 18)

struct witnessed {
	__u64 cookie; /* 0: has neither connected nor sent to an address */
	__u64 ns;     /* CLOCK_MONOTONIC when it was made */
	__u32 tgid;   /* process that made it */
	__u16 family;
	__u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OPEN_MAX);
	__type(key, __u64);
	__type(value, struct witnessed);
} witness_open SEC(".maps");

/* Sockets that were never released, and whose place another one has taken */
#define LOST_MAX 64

struct witness_lost {
	struct witnessed socket;
	__u64 ns; /* when its place was taken */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOST_MAX);
	__type(key, __u32);
	__type(value, struct witness_lost);
} witness_lost SEC(".maps");

struct witness_counts {
	__u64 made;
	__u64 remade;	/* of these, where one was that is not known to be closed */
	__u64 unseen;	/* of these, not taken note of: no room */
	__u64 released; /* made and released */
	__u64 accepted; /* released, but not made */
	__u64 strange;	/* of these, UDP sockets, which nobody accepts */
	__u64 stranger; /* the cookie of the last of these */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct witness_counts);
} witness_counts SEC(".maps");

static __always_inline struct witness_counts *counts(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&witness_counts, &zero);
}

static __always_inline void lose(struct witness_counts *n, const struct witnessed *old, __u64 now)
{
	__u32 i = __sync_fetch_and_add(&n->remade, 1);
	struct witness_lost *lost = bpf_map_lookup_elem(&witness_lost, &i);

	if (!lost)
		return;
	lost->socket = *old;
	lost->ns = now;
}

SEC("cgroup/sock_create")
int witness_make(struct bpf_sock *ctx)
{
	__u64 sk = (__u64)ctx;
	struct witnessed w = {
		.ns = bpf_ktime_get_ns(),
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.family = ctx->family,
		.protocol = ctx->protocol,
	};
	struct witness_counts *n = counts();
	struct witnessed *old;

	if (!n)
		return ALLOW;
	__sync_fetch_and_add(&n->made, 1);
	old = bpf_map_lookup_elem(&witness_open, &sk);
	if (old)
		lose(n, old, w.ns);
	if (bpf_map_update_elem(&witness_open, &sk, &w, BPF_ANY))
		__sync_fetch_and_add(&n->unseen, 1);
	return ALLOW;
}

SEC("cgroup/sock_release")
int witness_release(struct bpf_sock *ctx)
{
	__u64 sk = (__u64)ctx;
	struct witness_counts *n = counts();

	if (!n)
		return ALLOW;
	if (!bpf_map_delete_elem(&witness_open, &sk)) {
		__sync_fetch_and_add(&n->released, 1);
		return ALLOW;
	}
	__sync_fetch_and_add(&n->accepted, 1);
	if (ctx->protocol == IPPROTO_UDP) {
		__sync_fetch_and_add(&n->strange, 1);
		n->stranger = bpf_core_cast(ctx, struct sock)->__sk_common.skc_cookie.counter;
	}
	return ALLOW;
}

static __always_inline int name(struct bpf_sock_addr *ctx)
{
	__u64 sk = (__u64)ctx->sk;
	struct witnessed *w = bpf_map_lookup_elem(&witness_open, &sk);

	if (w && !w->cookie)
		w->cookie = bpf_get_socket_cookie(ctx);
	return ALLOW;
}

SEC("cgroup/connect4")
int witness_connect4(struct bpf_sock_addr *ctx)
{
	return name(ctx);
}

SEC("cgroup/connect6")
int witness_connect6(struct bpf_sock_addr *ctx)
{
	return name(ctx);
}

SEC("cgroup/sendmsg4")
int witness_sendmsg4(struct bpf_sock_addr *ctx)
{
	return name(ctx);
}

SEC("cgroup/sendmsg6")
int witness_sendmsg6(struct bpf_sock_addr *ctx)
{
	return name(ctx);
}
