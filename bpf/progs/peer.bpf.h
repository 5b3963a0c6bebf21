/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* The peer of a socket, in one form for both families. */
#ifndef SKREAP_PEER_BPF_H
#define SKREAP_PEER_BPF_H

/* A backend, to which clients are connected.  IPv4-mapped addresses are stored as IPv4. */
struct peer {
	__be32 daddr[4]; /* IPv4 in [0] */
	__be16 dport;
	__u8 family;
	__u8 protocol;
};

static __always_inline bool is_v4mapped(__be32 a, __be32 b, __be32 c)
{
	return !a && !b && c == bpf_htonl(0xffff);
}

static __always_inline bool same_peer(const struct peer *a, const struct peer *b)
{
	return a->daddr[0] == b->daddr[0] && a->daddr[1] == b->daddr[1] && a->daddr[2] == b->daddr[2] &&
	       a->daddr[3] == b->daddr[3] && a->dport == b->dport && a->family == b->family &&
	       a->protocol == b->protocol;
}

#endif
