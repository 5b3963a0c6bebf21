// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * Owner of a connected socket: a program, the kernel itself (an NFS mount, for example), or a
 * subflow of MPTCP, which the kernel has created for a program.
 *
 * User space has no other way to find out: kernel sockets have inodes, owners and cgroups like all
 * others, and sock_diag takes the lock of every socket when asked for subflows (INET_DIAG_INFO).
 * Here the kernel looks the socket up as it would for a packet, so it takes no socket lock and
 * visits no other socket.  The netns is that of the thread that runs the program.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "../include/abi.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "socket.bpf.h"

#define ETH_HLEN 14

/* Behind the Ethernet header of the packet that the program is run on. IPv4-mapped addresses are written as IPv4. */
struct owner_request {
	__be32 saddr[4]; /* of the socket; IPv4 in [0] */
	__be32 daddr[4]; /* of its peer */
	__be16 sport;
	__be16 dport;
	__u8 family;
	__u8 protocol;
	__u16 padding;
	__u64 cookie;
};
_Static_assert(sizeof(struct owner_request) == 48, "no hidden padding");

/* What the program returns */
enum owner {
	OWNER_UNKNOWN, /* no socket was found, or another one with the same addresses and ports */
	OWNER_PROGRAM,
	OWNER_KERNEL,
	OWNER_SUBFLOW, /* the kernel's own too */
};

/* Never read: puts the types, and so their Rust twins, into the BTF of the object. */
const volatile struct owner_request request_type;
const volatile enum owner owner_type;

static __always_inline __u32 tuple_of(const struct owner_request *r, struct bpf_sock_tuple *t)
{
	if (r->family == AF_INET) {
		t->ipv4.saddr = r->daddr[0];
		t->ipv4.daddr = r->saddr[0];
		t->ipv4.sport = r->dport;
		t->ipv4.dport = r->sport;
		return sizeof(t->ipv4);
	}
	__builtin_memcpy(t->ipv6.saddr, r->daddr, sizeof(t->ipv6.saddr));
	__builtin_memcpy(t->ipv6.daddr, r->saddr, sizeof(t->ipv6.daddr));
	t->ipv6.sport = r->dport;
	t->ipv6.dport = r->sport;
	return sizeof(t->ipv6);
}

static __always_inline enum owner owner_of(const struct sock *sk)
{
	const struct tcp_sock *tcp = bpf_core_cast(sk, struct tcp_sock);

	if (!BPF_CORE_READ_BITFIELD(sk, sk_kern_sock))
		return OWNER_PROGRAM;
	if (sk->sk_protocol == IPPROTO_TCP && bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp)
		return OWNER_SUBFLOW;
	return OWNER_KERNEL;
}

SEC("tc")
int skreap_owner(struct __sk_buff *skb)
{
	struct bpf_sock_tuple tuple = {};
	struct owner_request r;
	int owner = OWNER_UNKNOWN;
	const struct sock *sk;
	struct bpf_sock *found;
	__u32 size;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &r, sizeof(r)))
		return OWNER_UNKNOWN;
	size = tuple_of(&r, &tuple);
	if (r.protocol == IPPROTO_TCP)
		found = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return OWNER_UNKNOWN;
	sk = sock_of(found);
	if (sock_cookie(sk) == r.cookie)
		owner = owner_of(sk);
	bpf_sk_release(found);
	return owner;
}
