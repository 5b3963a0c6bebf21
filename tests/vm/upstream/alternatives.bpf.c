// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* The ways of alternatives.c to destroy the UDP sockets with one peer */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

enum { MAX_HELD = 4096, NOWAIT = 1 };

struct held_sock {
	struct bpf_sock_ref __kptr *sk;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_HELD);
	__type(key, __u32);
	__type(value, struct held_sock);
} held_socks SEC(".maps");

/* The peer of the victims, in network order */
__u32 victim_addr;
__u16 victim_port;

/* Sockets in the map, sockets that a way has looked at, and those that it has destroyed */
__u32 held, visited, destroyed;

struct bpf_sock_ref *bpf_sock_acquire(struct sock_common *skc) __ksym;
void bpf_sock_release(struct bpf_sock_ref *ref) __ksym;
int bpf_sock_destroy_peer_might_sleep(struct bpf_sock_ref *ref, const struct bpf_sock_peer *peer, u32 flags) __ksym;
int bpf_sock_destroy(struct sock_common *sock) __ksym;

SEC("cgroup/connect4")
int hold_victim(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_ref *sk;
	struct held_sock *slot;
	__u32 i;

	if (ctx->user_ip4 != victim_addr || ctx->user_port != victim_port)
		return 1;
	i = __sync_fetch_and_add(&held, 1);
	slot = bpf_map_lookup_elem(&held_socks, &i);
	if (!slot)
		return 1;
	sk = bpf_sock_acquire((struct sock_common *)ctx->sk);
	if (!sk)
		return 1;
	sk = bpf_kptr_xchg(&slot->sk, sk);
	if (sk)
		bpf_sock_release(sk);
	return 1;
}

SEC("syscall")
int destroy_held(void *ctx)
{
	struct bpf_sock_peer peer = {
		.addr = {victim_addr},
		.port = victim_port,
		.family = 2, /* AF_INET */
		.protocol = IPPROTO_UDP,
	};
	__u32 i;

	bpf_for(i, 0, held)
	{
		struct held_sock *slot = bpf_map_lookup_elem(&held_socks, &(__u32){i});
		struct bpf_sock_ref *sk;

		if (!slot)
			break;
		sk = bpf_kptr_xchg(&slot->sk, NULL);
		if (!sk)
			continue;
		visited++;
		if (!bpf_sock_destroy_peer_might_sleep(sk, &peer, NOWAIT))
			destroyed++;
		bpf_sock_release(sk);
	}
	return 0;
}

static __always_inline void destroy_victim(struct udp_sock *udp)
{
	if (!udp)
		return;
	visited++;
	if (udp->inet.sk.__sk_common.skc_dport == victim_port && udp->inet.sk.__sk_common.skc_daddr == victim_addr &&
	    !bpf_sock_destroy((struct sock_common *)udp))
		destroyed++;
}

SEC("iter/udp")
int destroy_in_netns(struct bpf_iter__udp *ctx)
{
	destroy_victim(ctx->udp_sk);
	return 0;
}

/* docs/upstream/alternatives */
SEC("iter/udp_all")
int destroy_in_all_netns(struct bpf_iter__udp *ctx)
{
	destroy_victim(ctx->udp_sk);
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
