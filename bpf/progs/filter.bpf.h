/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The filter: which sockets an event is about.
 *
 * User space compiles up to 64 rules into tables (bpf/src/filter.rs); rule n has bit n.  Rule 0 says which sockets are
 * selected; a socket to which any other rule applies is spared.  What a rule says of protocol and peer is in the
 * tables: they give the set of rules that hold for a protocol, an address and a port, so that the number of rules and
 * prefixes makes little difference to a socket.  Rules 0 and 1 may have conditions that only the live socket can decide.
 *
 * Tables have the first number of each interval, in host byte order, the first interval beginning at 0 without an
 * entry: interval i ends before entry i, and has the set i.
 */
#ifndef SKREAP_FILTER_BPF_H
#define SKREAP_FILTER_BPF_H

#define FILTER_ADDRESSES 2048 /* bounds of 1,024 prefixes; a power of two */
#define FILTER_PORTS 512      /* bounds of 256 ranges; a power of two */
#define FILTER_FEW 4          /* bounds that are searched in two or three rounds; a power of two */
#define FILTER_BLOCKS 8192    /* of the trie: one for each bound and level below the first; a power of two */
#define TRIE_INNER 0x8000

/* Conditions of a rule that are in use; others hold for every socket. */
enum filter_has {
	FILTER_CGROUP = 1,
	FILTER_NETNS = 2,
	FILTER_UID = 4,
	FILTER_IFINDEX = 8,
};

struct filter_place {
	__u64 cgroup; /* id; the socket is in it or below */
	__u64 netns;  /* cookie */
	__u32 uid;
	__u32 ifindex;
	__u32 has; /* enum filter_has */
	/*
	 * The level of the cgroup in its hierarchy plus 1, once a socket in it was met.  Written by the programs:
	 * cgroups never move, so all of them write the same.
	 */
	__u32 level;
};

struct filter_ipv6 {
	__u64 high, low;
};

struct filter {
	__u64 tcp; /* rules that hold for the protocol */
	__u64 udp;
	__u64 unnamed; /* rules that hold for senders whose backends are not known; 0: none of those is meant */
	struct filter_place place[2]; /* of rules 0 and 1 */
	__u32 any_ipv6; /* 1: an IPv6 address may be selected */
	__u32 nr_ipv4;
	__u32 nr_ipv6;
	__u32 nr_ports;
	__u32 states; /* bit 1 << TCP_*: TCP sockets in these are victims */
	__u32 zero; /* always 0 */
	__u32 ipv4[FILTER_ADDRESSES];
	struct filter_ipv6 ipv6[FILTER_ADDRESSES];
	__u32 ports[FILTER_PORTS];
	__u64 ipv4_rules[FILTER_ADDRESSES + 1];
	__u64 ipv6_rules[FILTER_ADDRESSES + 1];
	__u64 port_rules[FILTER_PORTS + 1];
};

struct filter filter SEC(".bss.filter");

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile enum filter_has filter_has_type;

/*
 * More than a few IPv4 bounds also make a trie: the upper 16 bits of an address, then 4 bits at a time.  An entry is an
 * interval, or, with TRIE_INNER, the block to go on with.  Most addresses take one lookup, and none more than five,
 * however many prefixes there are.
 */
struct filter_trie {
	__u16 top[1 << 16];
	__u16 blocks[FILTER_BLOCKS][16];
};

struct filter_trie filter_trie SEC(".bss.trie");

/*
 * Each round of a search goes on by half as many entries as the one before, if that does not lead too far.  The zero is
 * unknown to the verifier, so that after a round it knows no more of the place than before, and one path through the
 * rounds stands for all.
 */
#define FILTER_SEARCH(at, rounds, nr, table_size, not_above)                    \
	do {                                                                    \
		__u32 zero = filter_zero(), half;                               \
                                                                                \
		at = zero;                                                      \
		for (half = (rounds); half; half >>= 1) {                       \
			__u32 next = at + half, i = (next - 1) & ((table_size)-1); \
                                                                                \
			if (next <= (nr) && (not_above))                        \
				at = next;                                      \
			barrier_var(at);                                        \
			at ^= zero;                                             \
			barrier_var(at);                                        \
		}                                                               \
	} while (0)

static __always_inline __u32 filter_zero(void)
{
	return *(volatile __u32 *)&filter.zero;
}

static __always_inline __u32 filter_ipv4_interval(__u32 addr)
{
	__u32 at, entry;

	if (filter.nr_ipv4 <= FILTER_FEW) {
		FILTER_SEARCH(at, FILTER_FEW, filter.nr_ipv4, FILTER_ADDRESSES, filter.ipv4[i] <= addr);
		return at;
	}
	entry = filter_trie.top[addr >> 16];
#define FILTER_STEP(shift)                                                              \
	if (entry & TRIE_INNER)                                                         \
		entry = filter_trie.blocks[entry & (FILTER_BLOCKS - 1)][addr >> (shift) & 15]
	FILTER_STEP(12);
	FILTER_STEP(8);
	FILTER_STEP(4);
	FILTER_STEP(0);
#undef FILTER_STEP
	return entry;
}

static __always_inline __u32 filter_ipv6_interval(__u64 high, __u64 low)
{
	__u32 at;

#define FILTER_IPV6_NOT_ABOVE \
	(filter.ipv6[i].high < high || (filter.ipv6[i].high == high && filter.ipv6[i].low <= low))
	if (filter.nr_ipv6 <= FILTER_FEW)
		FILTER_SEARCH(at, FILTER_FEW, filter.nr_ipv6, FILTER_ADDRESSES, FILTER_IPV6_NOT_ABOVE);
	else
		FILTER_SEARCH(at, FILTER_ADDRESSES, filter.nr_ipv6, FILTER_ADDRESSES, FILTER_IPV6_NOT_ABOVE);
#undef FILTER_IPV6_NOT_ABOVE
	return at;
}

static __always_inline __u32 filter_port_interval(__u32 port)
{
	__u32 at;

	if (filter.nr_ports <= FILTER_FEW)
		FILTER_SEARCH(at, FILTER_FEW, filter.nr_ports, FILTER_PORTS, filter.ports[i] <= port);
	else
		FILTER_SEARCH(at, FILTER_PORTS, filter.nr_ports, FILTER_PORTS, filter.ports[i] <= port);
	return at;
}

/*
 * The rules that hold for this protocol and peer; 0: the socket is not selected, whatever else is known of it.  A
 * global function: the verifier checks it once.
 */
__noinline __u64 filter_peer(const struct peer *p)
{
	__u64 rules;
	__u32 at;

	if (!p)
		return 0;
	rules = p->protocol == IPPROTO_TCP ? filter.tcp : filter.udp;
	if (!(rules & 1))
		return 0;
	if (filter.nr_ports) {
		at = filter_port_interval(bpf_ntohs(p->dport));
		rules &= at <= FILTER_PORTS ? filter.port_rules[at] : 0;
		if (!(rules & 1))
			return 0;
	}
	if (p->family == AF_INET) {
		at = filter_ipv4_interval(bpf_ntohl(p->daddr[0]));
		rules &= at <= FILTER_ADDRESSES ? filter.ipv4_rules[at] : 0;
	} else {
		__u64 high = (__u64)bpf_ntohl(p->daddr[0]) << 32 | bpf_ntohl(p->daddr[1]);
		__u64 low = (__u64)bpf_ntohl(p->daddr[2]) << 32 | bpf_ntohl(p->daddr[3]);

		at = filter_ipv6_interval(high, low);
		rules &= at <= FILTER_ADDRESSES ? filter.ipv6_rules[at] : 0;
	}
	/* Selected, and not spared by a rule that says nothing else. */
	return rules & 1 && !(rules >> 2) ? rules : 0;
}

static __always_inline bool filter_in_cgroup(const struct sock *sk, struct filter_place *place)
{
	struct cgroup *cgroup, *ancestor;
	const void *ancestors;
	int level = 0;
	__u64 id = 0;
	__u32 at;

	if (!bpf_core_field_exists(sk->sk_cgrp_data))
		return false;
	/* Read as plain numbers: the verifier does not know the index into ancestors. */
	if (bpf_core_read(&cgroup, sizeof(cgroup), &sk->sk_cgrp_data.cgroup) || !cgroup)
		return false;
	ancestors = (const void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors);
	BPF_CORE_READ_INTO(&level, cgroup, level);
	if (!place->level) {
		if (level < 0 || !in_cgroup(sk, place->cgroup))
			return false;
		BPF_CORE_READ_INTO(&id, cgroup, kn, id);
		if (id == place->cgroup)
			place->level = level + 1;
		return true;
	}
	at = place->level - 1;
	if ((int)at > level || at >= CGROUP_DEPTH_MAX)
		return false;
	if (bpf_probe_read_kernel(&ancestor, sizeof(ancestor), ancestors + at * sizeof(ancestor)))
		return false;
	BPF_CORE_READ_INTO(&id, ancestor, kn, id);
	return id == place->cgroup;
}

/*
 * True if everything holds that rule n says of the socket itself.  The caller has the socket in an RCU section, and
 * checks its cookie afterwards.
 */
static __always_inline bool filter_place_holds(const struct sock *sk, struct filter_place *place)
{
	__u32 has = place->has;

	if (!has)
		return true;
	if (has & FILTER_UID && sk->sk_uid.val != place->uid)
		return false;
	if (has & FILTER_IFINDEX && (__u32)sk->__sk_common.skc_bound_dev_if != place->ifindex)
		return false;
	if (has & FILTER_NETNS && sk->__sk_common.skc_net.net->net_cookie != place->netns)
		return false;
	return !(has & FILTER_CGROUP) || filter_in_cgroup(sk, place);
}

/* True if the socket is meant, given the rules that hold for its peer. */
static __always_inline bool filter_socket(const struct sock *sk, __u64 rules)
{
	if (!rules || !filter_place_holds(sk, &filter.place[0]))
		return false;
	return !(rules & 2) || !filter_place_holds(sk, &filter.place[1]);
}

#endif
