// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * The sockets that are in the kernel's tables of TCP and UDP sockets, read under RCU: no lock is taken, neither of a
 * socket nor of a bucket, so no owner of a socket can hold the reader up.
 *
 * A netns uses the tables that all share, or tables of its own (net.ipv4.tcp_child_ehash_entries,
 * udp_child_hash_entries).  User space asks once which there are, and then has each of them read in parts.  A table is
 * reached through a netns that uses it, which is looked for in the kernel's list each time: what is met inside the RCU
 * section stays until its end.
 *
 * A chain is read exactly: each socket that is in it from the first look to the last is shown once.  A socket that is
 * taken out keeps its pointer to the next one, so the reader goes on; but one that is put into another chain meanwhile
 * leads the reader there.  TCP chains end with the number of their bucket, and each UDP socket is in the bucket of its
 * port: a reader that arrives elsewhere begins the chain again.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "../include/abi.h"

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "peer.bpf.h"
#include "socket.bpf.h"
#include "cgroup.bpf.h"
#include "accepted.bpf.h"
#include "filter.bpf.h"

/* Sockets, or tables, listed in one call.  A bucket with more is asked for in parts. */
#define LISTED_MAX 8192
/* Buckets, and sockets, passed in one call: some milliseconds without a break. */
#define BUCKETS_MAX (1 << 16)
#define PASSED_MAX (1 << 17)
/* Sockets of one bucket, netns of the machine */
#define CHAIN_MAX (1 << 20)
/* Attempts to read a chain that changes all the time */
#define TRIES_MAX 64

/* What a socket is besides connected */
enum tables_flags {
	TABLES_KERNEL = 1,   /* opened by the kernel for itself (MPTCP subflow, NFS): runs no cgroup/sock_release */
	TABLES_ACCEPTED = 2, /* the server's side of a TCP connection */
	TABLES_CLOSED = 4,   /* closed by its owner: the kernel finishes the connection */
	TABLES_OUTSIDE = 8,  /* of another cgroup */
};

struct tables_socket {
	struct skreap_victim victim;
	__u32 flags; /* enum tables_flags */
	__u32 padding;
};

/* The tables that a netns uses; equal numbers are the same table. */
struct tables_netns {
	__u64 netns; /* cookie */
	__u64 tcp;
	__u64 udp;
};

struct tables_socket sockets[LISTED_MAX] SEC(".bss.sockets");
struct tables_netns tables[LISTED_MAX] SEC(".bss.tables");

/* Context of `skreap_tables_find` and `skreap_tables_read` */
struct tables_request {
	struct peer peer; /* in: whom the sockets are connected to; dport 0: to anybody; protocol: which table */
	__u32 hide;	  /* in: sockets with one of these flags are not listed */
	__u64 cgroup;	  /* in: id; 0: the root */
	__u64 netns;	  /* in: a netns that uses the table */
	__u32 peerless;	  /* in: list sockets without a peer too */
	__u32 parts;	  /* in: list those with number % parts == part; number: cookie, else port, or cookie of the netns */
	__u32 part;	  /* in */
	__u32 bucket;	  /* in: where to begin; out: where to go on */
	__u32 only;	  /* in: 1: no other bucket */
	__u32 listed;	  /* out */
	__u32 done;	  /* out: 1 at the end of the table */
	__u32 full;	  /* out: 1: the bucket has more than can be listed in one call */
	__u32 restless;	  /* out: chains that never stood still */
	__u32 filtered;	  /* in: 1: list only sockets with a peer to which the filter applies */
};
_Static_assert(sizeof(struct tables_request) == 80, "no hidden padding");

/* Never read: put the types, and so their Rust twins, into the BTF of the object. */
const volatile struct tables_request request_type;
const volatile enum tables_flags flags_type;

/* Where the walk is.  In memory, as in walk.bpf.h; user space makes one call at a time. */
struct {
	struct tables_request r;
	__u64 at;	/* next node */
	__u64 chains;	/* first bucket */
	__u32 stride;	/* bytes from one bucket to the next */
	__u32 mask;	/* number of buckets - 1 */
	__u32 passed;	/* sockets */
	__u32 strayed;	/* the reader is in another chain */
} state;

static __always_inline const struct net *net_of(__u64 list)
{
	return bpf_core_cast((void *)(list - bpf_core_field_offset(struct net, list)), struct net);
}

static __always_inline __u64 table_of(const struct net *net, __u8 protocol)
{
	return protocol == IPPROTO_TCP ? (__u64)net->ipv4.tcp_death_row.hashinfo : (__u64)net->ipv4.udp_table;
}

static __always_inline struct tables_socket *socket_at(__u32 i)
{
	barrier_var(i);
	if (i >= LISTED_MAX)
		return NULL;
	barrier_var(i);
	return &sockets[i];
}

static __always_inline struct tables_netns *table_at(__u32 i)
{
	barrier_var(i);
	if (i >= LISTED_MAX)
		return NULL;
	barrier_var(i);
	return &tables[i];
}

/*
 * The netns are in a ring with a head that is no netns: its ns.ops differs from that of all others.  Goes on from
 * state.at to the next one; NULL at the end.
 */
static __always_inline const struct net *next_net(__u64 own, const void *ops)
{
	const struct net *net;
	__u64 at = state.at;

	net = net_of(at);
	state.at = (__u64)net->list.next;
	if (!state.at || state.at == own)
		state.at = 0;
	return net->ns.ops == ops ? net : NULL;
}

/* Lists which tables the netns use. */
static __always_inline void find_tables(void)
{
	const struct task_struct *task = bpf_core_cast((void *)bpf_get_current_task(), struct task_struct);
	const struct net *here = task->nsproxy->net_ns;
	__u64 own = (__u64)here + bpf_core_field_offset(struct net, list);
	const void *ops = here->ns.ops;
	__u32 step;

	state.at = own;
	bpf_for(step, 0, CHAIN_MAX) {
		const struct net *net = next_net(own, ops);
		struct tables_netns *table;

		if (net && net->net_cookie % state.r.parts == state.r.part) {
			table = table_at(state.r.listed);
			if (!table) {
				state.r.full = 1;
				return;
			}
			table->netns = net->net_cookie;
			table->tcp = table_of(net, IPPROTO_TCP);
			table->udp = table_of(net, IPPROTO_UDP);
			state.r.listed++;
		}
		if (!state.at) {
			state.r.done = 1;
			return;
		}
	}
}

/* Looks for the netns with the cookie, and for its table.  False: it is gone. */
static __always_inline bool enter_table(void)
{
	const struct task_struct *task = bpf_core_cast((void *)bpf_get_current_task(), struct task_struct);
	const struct net *here = task->nsproxy->net_ns;
	__u64 own = (__u64)here + bpf_core_field_offset(struct net, list), table = 0;
	const void *ops = here->ns.ops;
	__u32 step;

	state.at = own;
	bpf_for(step, 0, CHAIN_MAX) {
		const struct net *net = next_net(own, ops);

		if (net && net->net_cookie == state.r.netns) {
			table = table_of(net, state.r.peer.protocol);
			break;
		}
		if (!state.at)
			break;
	}
	if (!table)
		return false;
	if (state.r.peer.protocol == IPPROTO_TCP) {
		const struct inet_hashinfo *tcp = bpf_core_cast((void *)table, struct inet_hashinfo);

		state.chains = (__u64)tcp->ehash;
		state.mask = tcp->ehash_mask;
		state.stride = bpf_core_type_size(struct inet_ehash_bucket);
	} else {
		const struct udp_table *udp = bpf_core_cast((void *)table, struct udp_table);

		state.chains = (__u64)udp->hash;
		state.mask = udp->mask;
		state.stride = bpf_core_type_size(struct udp_hslot);
	}
	return true;
}

static __always_inline __u32 flags_of(const struct sock *sk, const struct peer *live)
{
	__u32 flags = 0;

	if (BPF_CORE_READ_BITFIELD(sk, sk_kern_sock))
		flags |= TABLES_KERNEL;
	if (live->protocol == IPPROTO_TCP && was_accepted(sk, live))
		flags |= TABLES_ACCEPTED;
	if (!sk->sk_socket)
		flags |= TABLES_CLOSED;
	if (!in_cgroup(sk, state.r.cgroup))
		flags |= TABLES_OUTSIDE;
	return flags;
}

/*
 * Lists the socket, if it is asked for.  0: there is no room for it.  This and the next one are global functions: the
 * verifier looks at them once, and not for every way that leads there.
 */
__noinline int put(__u64 address)
{
	const struct sock *sk = sock_of((void *)address);
	struct peer live, wanted = state.r.peer;
	__u64 cookie = sock_cookie(sk);
	struct tables_socket *entry;
	__u32 flags;

	live_peer(sk, wanted.protocol, &live);
	if (wanted.dport ? !same_peer(&live, &wanted) : !live.dport && !state.r.peerless)
		return 1;
	if ((cookie ? cookie : sk->__sk_common.skc_num) % state.r.parts != state.r.part)
		return 1;
	if (state.r.filtered && !filter_socket(sk, filter_peer(&live)))
		return 1;
	flags = flags_of(sk, &live);
	if (flags & state.r.hide)
		return 1;
	entry = socket_at(state.r.listed);
	if (!entry)
		return 0;
	sock_identify(sk, wanted.protocol, &entry->victim);
	entry->victim.relation = live.dport ? SKREAP_CONNECTED : SKREAP_NO_PEER;
	entry->flags = flags;
	/* The memory was recycled while it was read, or the socket has just been given its cookie. */
	if (sock_cookie(sk) != cookie)
		state.strayed = 1;
	state.r.listed++;
	return 1;
}

/* Sockets in TIME_WAIT and NEW_SYN_RECV are shorter than a struct sock. */
static __always_inline bool is_whole(__u64 address)
{
	const struct sock *sk = sock_of((void *)address);

	return sk->__sk_common.skc_state != TCP_TIME_WAIT && sk->__sk_common.skc_state != TCP_NEW_SYN_RECV;
}

/* The address of the next socket of a TCP chain; 0 at its end. */
static __always_inline __u64 next_tcp(__u32 bucket)
{
	const struct hlist_nulls_node *node;
	__u64 at = state.at;

	if (at & 1) {
		state.strayed = at >> 1 != bucket;
		return 0;
	}
	node = bpf_core_cast((void *)at, struct hlist_nulls_node);
	state.at = (__u64)node->next;
	return at - bpf_core_field_offset(struct sock_common, skc_nulls_node);
}

/* The address of the next socket of a UDP chain; 0 at its end. */
static __always_inline __u64 next_udp(__u32 bucket)
{
	const struct hlist_node *node;
	const struct sock *sk;
	__u64 at = state.at;

	if (!at)
		return 0;
	node = bpf_core_cast((void *)at, struct hlist_node);
	state.at = (__u64)node->next;
	at -= bpf_core_field_offset(struct sock_common, skc_node);
	sk = sock_of((void *)at);
	/* udp_hashfn() */
	if (((sk->__sk_common.skc_num + sk->__sk_common.skc_net.net->hash_mix) & state.mask) != bucket) {
		state.strayed = 1;
		return 0;
	}
	return at;
}

/* The first node of the chain of a bucket */
static __always_inline __u64 first_of(__u32 bucket)
{
	const struct hlist_head *head =
		bpf_core_cast((void *)(state.chains + (__u64)bucket * state.stride), struct hlist_head);

	/* Through memory: what comes back is a number to the verifier, and no pointer that may not be looked at. */
	*(volatile __u64 *)&state.at = (__u64)head->first;
	return *(volatile __u64 *)&state.at;
}

/* 0: there is no room for all of it. */
__noinline int read_chain(__u32 bucket)
{
	bool tcp = state.r.peer.protocol == IPPROTO_TCP;
	__u64 sk;
	__u32 step;

	state.strayed = 0;
	state.at = first_of(bucket);
	bpf_for(step, 0, CHAIN_MAX) {
		sk = tcp ? next_tcp(bucket) : next_udp(bucket);
		if (!sk)
			return 1;
		state.passed++;
		if (is_whole(sk) && !put(sk))
			return 0;
		if (state.strayed)
			return 1;
	}
	state.strayed = 1;
	return 1;
}

static __always_inline void read_table(void)
{
	__u32 bucket, end, before, try;
	__u64 first;

	end = state.r.bucket + (state.r.only ? 1 : BUCKETS_MAX);
	bpf_for(bucket, state.r.bucket, end) {
		if (bucket > state.mask) {
			state.r.done = 1;
			break;
		}
		state.r.bucket = bucket + 1;
		first = first_of(bucket);
		/* Most are empty: no node, or none but the end. */
		if (!first || first & 1)
			continue;
		before = state.r.listed;
		bpf_for(try, 0, TRIES_MAX) {
			state.r.listed = before;
			if (!read_chain(bucket)) {
				/* Again in the next call; if it alone is too long, in parts. */
				state.r.full = !before;
				state.r.listed = before;
				state.r.bucket = bucket;
				return;
			}
			if (!state.strayed)
				break;
		}
		state.r.restless += state.strayed;
		if (state.passed >= PASSED_MAX)
			break;
	}
}

static __always_inline bool begin(const struct tables_request *ctx)
{
	if (!ctx->parts)
		return false;
	state.r = *ctx;
	state.r.listed = state.r.done = state.r.full = state.r.restless = 0;
	state.passed = 0;
	return true;
}

static __always_inline bool supported(void)
{
	struct net *net = NULL;
	struct udp_table *udp = NULL;
	struct inet_hashinfo *tcp = NULL;

	return bpf_core_field_exists(net->ipv4.tcp_death_row.hashinfo) && bpf_core_field_exists(net->ipv4.udp_table) &&
	       bpf_core_field_exists(net->hash_mix) && bpf_core_field_exists(tcp->ehash) &&
	       bpf_core_field_exists(tcp->ehash_mask) && bpf_core_field_exists(udp->hash) &&
	       bpf_core_field_exists(udp->mask);
}

SEC("syscall")
int skreap_tables_find(struct tables_request *ctx)
{
	if (!supported())
		return -EOPNOTSUPP;
	if (!begin(ctx))
		return -EINVAL;
	bpf_rcu_read_lock();
	find_tables();
	bpf_rcu_read_unlock();
	*ctx = state.r;
	return 0;
}

SEC("syscall")
int skreap_tables_read(struct tables_request *ctx)
{
	bool found;

	if (!supported())
		return -EOPNOTSUPP;
	if (!begin(ctx))
		return -EINVAL;
	bpf_rcu_read_lock();
	found = enter_table();
	if (found)
		read_table();
	bpf_rcu_read_unlock();
	*ctx = state.r;
	return found ? 0 : -ESTALE;
}
