/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Keys: (protocol, family, daddr, dport) as 64 bits.
 *
 * IPv4 keys are exact: the mix is a bijection and can be inverted.  IPv6 keys are hashes: the key
 * finds the socket, and the live peer decides.  Both depend on the secret seed, so nobody outside
 * can aim at one bucket.
 */
#ifndef SKREAP_KEY_BPF_H
#define SKREAP_KEY_BPF_H

#include "peer.bpf.h"

/*
 * IPv6 backends by key, for those that unconnected sockets have sent to: no other place has their
 * addresses, and only the listing of the index reads this map.  The oldest entries are evicted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct peer);
} ipv6_names SEC(".maps");

#define MIX_A 0xff51afd7ed558ccdULL
#define MIX_B 0xc4ceb9fe1a85ec53ULL
/* Inverses of the above modulo 2^64 */
#define UNMIX_A 0x4f74430c22a54005ULL
#define UNMIX_B 0x9cb4b2f8129337dbULL

static __always_inline __u64 mix64(__u64 x)
{
	x ^= cfg_seed;
	x *= MIX_A;
	x ^= x >> 32;
	x *= MIX_B;
	return x ^ x >> 32;
}

static __always_inline __u64 unmix64(__u64 x)
{
	x ^= x >> 32;
	x *= UNMIX_B;
	x ^= x >> 32;
	x *= UNMIX_A;
	return x ^ cfg_seed;
}

static __always_inline __u64 key_ipv4(__be32 daddr, __be16 dport, __u8 protocol)
{
	return mix64(daddr | (__u64)dport << 32 | (__u64)protocol << 48);
}

static __always_inline __u64 key_ipv6(__be32 a, __be32 b, __be32 c, __be32 d, __be16 dport, __u8 protocol)
{
	__u64 x = mix64((__u64)a << 32 | b);

	x = mix64(x ^ ((__u64)c << 32 | d));
	return mix64(x ^ (1ULL << 56 | (__u64)dport << 32 | (__u64)protocol << 48));
}

static __always_inline __u64 key_of(const struct peer *p)
{
	if (p->family == AF_INET)
		return key_ipv4(p->daddr[0], p->dport, p->protocol);
	return key_ipv6(p->daddr[0], p->daddr[1], p->daddr[2], p->daddr[3], p->dport, p->protocol);
}

/* Only for keys made by key_ipv4() */
static __always_inline void peer_of_key_ipv4(__u64 key, struct peer *p)
{
	__u64 x = unmix64(key);

	p->daddr[0] = (__be32)x;
	p->daddr[1] = p->daddr[2] = p->daddr[3] = 0;
	p->dport = (__be16)(x >> 32);
	p->family = AF_INET;
	p->protocol = (__u8)(x >> 48);
}

#endif
