/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Distinguishes the connects of this process from those of all others, for chosen sockets.
 *
 * A socket that user space connects for its owner (to revive or to move it) may be connected by the owner at the same
 * moment, and the owner must have the last word.  So while there are such sockets, the connect hooks count the connects of
 * others, and keep the address of the last one.  Each is counted before it takes effect: if none was counted after ours
 * has taken effect, all of theirs take effect later.  If one was, user space puts its address back, which changes nothing
 * if that one has yet to take effect.
 *
 * Otherwise the hooks load one number more.
 */
#ifndef SKREAP_CONNECTS_BPF_H
#define SKREAP_CONNECTS_BPF_H

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct skreap_connects connects_type;
const volatile struct skreap_connecting connecting_type;

/* The process' own, not the index': in .data, so that it is not pinned. */
struct {
	__u32 users;   /* of the map; 0: nobody looks there */
	__u32 process; /* the one whose connects are not counted, as the kernel numbers it */
	__u32 counted; /* of all sockets; each after its own entry, so user space reads entries only after this has changed */
} connecting SEC(".data.connecting");

/* By cookie.  User space adds and deletes, hooks change what is there.  Not pinned either, by its name. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SKREAP_CONNECTS_MAX);
	__type(key, __u64);
	__type(value, struct skreap_connects);
} own_connects SEC(".maps");

/* A global function: the verifier looks at it once, and not for every way that goes on from it. */
__noinline int connects_count(__u64 cookie, __u64 high, __u64 low, __u32 family_and_port)
{
	struct skreap_connects *c = bpf_map_lookup_elem(&own_connects, &cookie);

	if (!c || bpf_get_current_pid_tgid() >> 32 == connecting.process)
		return 0;
	*(__u64 *)&c->daddr[0] = high;
	*(__u64 *)&c->daddr[2] = low;
	c->dport = family_and_port;
	c->family = family_and_port >> 16;
	__sync_fetch_and_add(&c->theirs, 1);
	__sync_fetch_and_add(&connecting.counted, 1);
	return 0;
}

static __always_inline __u64 two_words(__u32 first, __u32 second)
{
	return (__u64)second << 32 | first;
}

static __always_inline __u64 cookie_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *bsk = (struct bpf_sock *)ctx->sk;

	return bsk ? sock_cookie(sock_of(bsk)) : 0;
}

static __always_inline void connects_note4(struct bpf_sock_addr *ctx)
{
	if (!*(volatile __u32 *)&connecting.users)
		return;
	connects_count(cookie_of(ctx), two_words(ctx->user_ip4, 0), 0, AF_INET << 16 | (__u16)ctx->user_port);
}

static __always_inline void connects_note6(struct bpf_sock_addr *ctx)
{
	/* volatile: clang would merge the loads into one with a computed context address */
	volatile struct bpf_sock_addr *c = ctx;
	__u64 high, low;

	if (!*(volatile __u32 *)&connecting.users)
		return;
	high = two_words(c->user_ip6[0], c->user_ip6[1]);
	low = two_words(c->user_ip6[2], c->user_ip6[3]);
	connects_count(cookie_of(ctx), high, low, AF_INET6 << 16 | (__u16)c->user_port);
}

#endif
