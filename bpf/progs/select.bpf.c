// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * The selection: one pass over the index that lists the sockets to which a filter applies, of all netns at once.
 *
 * An object of its own on the maps of the index, loaded beside a service that starts, or when the first selector comes.
 *
 * The pass reads the pool from its first node to its last, in the order of memory, and needs no chain, no cursor and no
 * place to be cleaned up: a number says where the next call goes on.  A node that is linked before the pass and stays so
 * is visited exactly once.  A socket with too many peers is another matter: one node replaces all that it had, and may be
 * behind the pass when these were before it.  The shards count such sockets; if some were counted during a pass, user space
 * makes another.
 *
 * The key of an IPv4 node tells its backend.  If the filter does not apply to that, the node is passed without a lock,
 * and its socket is not touched: what decides is then the node, as in a walk, which does not look into other buckets
 * either.  Whatever is read there without the lock only serves to pass a node that is not wanted, or that is being
 * recorded or removed at this moment.  All others are looked at under the rules of index.bpf.h, and the live socket
 * decides.  A socket with several nodes may be listed for each of them.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "../include/abi.h"

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#include "config.bpf.h"
#include "key.bpf.h"
#include "socket.bpf.h"
#include "index.bpf.h"
#include "loop.bpf.h"
#include "cgroup.bpf.h"
#include "filter.bpf.h"

/* Sockets listed in one call, and cookies asked for in one call */
#define LISTED_MAX 2048
/*
 * Nodes passed in one call, a few milliseconds: on a kernel without preemption nothing else runs on this CPU meanwhile.
 */
#define STEPS_MAX (1 << 17)

enum select_flags {
	SELECT_SENDERS = 1, /* list sockets without a peer that have sent to a backend to which the filter applies */
	SELECT_COOKIES = 2, /* no pass: look at the sockets with these cookies */
	/*
	 * What the exception says of protocol and peer holds for those of these sockets that have only sent.  The
	 * socket does not show which of its backends it is asked about.
	 */
	SELECT_EXCEPTED = 4,
};

/* Context of `skreap_select`; counters are of this call alone. */
struct select_request {
	__u32 flags;	/* in: enum select_flags */
	__u32 next;	/* in, out: the node, or cookie, to go on with; 0: from the beginning */
	__u32 asked;	/* in: number of cookies */
	__u32 listed;	/* out */
	__u32 more;	/* out: 1: call again, with next as it is */
	__u32 unnamed;	/* out: a socket has sent to backends that are not known */
	__u64 nodes;	/* out: visited */
	__u64 senders;	/* out: not listed: has only sent, has one node, and senders are not wanted */
	__u64 state;	/* out: not listed: in a TCP state that is not wanted */
	__u64 before;	/* out: sockets whose nodes one has replaced, before the call */
	__u64 after;	/* out: and after it */
};
_Static_assert(sizeof(struct select_request) == 64, "no hidden padding");

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile enum select_flags flags_type;

struct skreap_victim selected[LISTED_MAX] SEC(".bss.selected");
__u64 cookies[LISTED_MAX] SEC(".bss.cookies");

/* The call under way.  In memory, as in walk.bpf.h; user space makes one call at a time. */
struct select_request state;

/* A node as it was under the lock. */
struct select_node {
	__u64 sk;
	__u64 cookie;
	__u64 key;
	__u32 tag;
};

static __always_inline struct skreap_victim *selected_at(__u32 i)
{
	barrier_var(i);
	if (i >= LISTED_MAX)
		return NULL;
	barrier_var(i);
	return &selected[i];
}

/* The backend that a node is recorded under.  False: it is not known. */
static __always_inline bool recorded_peer(const struct select_node *n, struct peer *p)
{
	struct peer *known;

	if (n->tag & NODE_WILDCARD)
		return false;
	if (!(n->tag & NODE_IPV6)) {
		peer_of_key_ipv4(n->key, p);
		return true;
	}
	known = bpf_map_lookup_elem(&ipv6_names, &n->key);
	if (!known)
		return false;
	*p = *known;
	return true;
}

/* Makes a backend the destination of a victim; for an IPv6 socket an IPv4 one becomes an IPv4-mapped address. */
static __always_inline void name_peer(struct skreap_victim *v, const struct peer *p)
{
	bool mapped = v->family == AF_INET6 && p->family == AF_INET;

	v->id.daddr[0] = mapped ? 0 : p->daddr[0];
	v->id.daddr[1] = p->daddr[1];
	v->id.daddr[2] = mapped ? bpf_htonl(0xffff) : p->daddr[2];
	v->id.daddr[3] = mapped ? p->daddr[0] : p->daddr[3];
	v->id.dport = p->dport;
}

/* True if the socket has a peer in force.  A closed TCP socket keeps the address of its last one. */
static __always_inline bool is_connected(const struct peer *live, const struct skreap_victim *v)
{
	if (!live->dport)
		return false;
	/* UDP without a port: see is_portless() of walk.bpf.h. */
	return v->protocol == IPPROTO_UDP || (v->id.sport && v->state != TCP_CLOSE && v->state != TCP_TIME_WAIT);
}

/*
 * True if a socket without a peer may have sent to what its node stands for.  That of a socket with too many peers does
 * not say whether it has sent to them or was connected: walks take it for a sender, too.
 */
static __always_inline bool may_have_sent(const struct select_node *n, const struct skreap_victim *v)
{
	return n->tag & NODE_SENDMSG || (n->tag & NODE_WILDCARD && v->protocol == IPPROTO_UDP);
}

/*
 * Lists the socket of a node if the filter applies to it.  The caller is in an RCU section, in which it has seen the
 * node linked.  Whether the socket was the same until the end is checked last.
 */
static __always_inline void list_socket(const struct select_node *n, struct skreap_victim *v)
{
	const struct sock *sk = sock_of((void *)n->sk);
	bool by_cookie = state.flags & SELECT_COOKIES, named = true, connected;
	struct peer live, sent;
	__u64 rules;

	live_peer(sk, sk->sk_protocol, &live);
	sock_identify(sk, sk->sk_protocol, v);
	connected = is_connected(&live, v);
	if (connected)
		rules = filter_peer(&live);
	/* One without a port was destroyed, or disconnected, since it has sent: see relation() of walk.bpf.h. */
	else if (!may_have_sent(n, v) || live.dport || !v->id.sport)
		return;
	else if (by_cookie)
		rules = state.flags & SELECT_EXCEPTED ? 3 : 1;
	else if ((named = recorded_peer(n, &sent)))
		rules = filter_peer(&sent);
	else
		rules = filter.unnamed;
	if (!filter_socket(sk, rules) || !sk->sk_socket || sock_cookie(sk) != n->cookie)
		return;
	if (!connected) {
		if (!(state.flags & SELECT_SENDERS) && (!named || !(n->tag & NODE_MULTI))) {
			state.senders += named;
			return;
		}
		/* One with several nodes is listed all the same: user space counts it once. */
		if (!named) {
			state.unnamed = 1;
			return;
		}
		if (!by_cookie)
			name_peer(v, &sent);
	} else if (v->protocol == IPPROTO_TCP && !(filter.states >> (v->state & 31) & 1)) {
		/* Once for a socket: under its live peer, if it has several nodes. */
		if (!(n->tag & NODE_MULTI) || n->tag & NODE_WILDCARD || key_of(&live) == n->key)
			state.state++;
		return;
	}
	v->relation = connected ? SKREAP_CONNECTED : SKREAP_UNCONNECTED;
	state.listed++;
}

/* True if the filter cannot apply to the socket of a node: it is recorded under another backend. */
static __always_inline bool is_elsewhere(__u64 key, __u32 tag)
{
	struct peer p;

	if (tag & NODE_WILDCARD)
		return false;
	if (tag & NODE_IPV6)
		return !filter.any_ipv6;
	peer_of_key_ipv4(key, &p);
	return !filter_peer(&p);
}

/* Visits one node.  0: there is no room for its socket.  A global function: the verifier checks it once. */
__noinline int select_node(__u32 i)
{
	struct node *n = node_at(i);
	struct select_node seen;
	struct skreap_victim *v;
	struct shard *s;
	bool linked;

	if (!n)
		return 1;
	seen.tag = *(volatile __u32 *)&n->tag;
	if (!(seen.tag & NODE_SOCKET))
		return 1;
	state.nodes++;
	if (is_elsewhere(*(volatile __u64 *)&n->key, seen.tag))
		return 1;
	v = selected_at(state.listed);
	if (!v)
		return 0;
	seen.cookie = *(volatile __u64 *)&n->cookie;
	s = shard_at(shard_of(seen.cookie));
	if (!s)
		return 1;
	/* The RCU section is opened before the lock, see index.bpf.h. */
	bpf_rcu_read_lock();
	bpf_spin_lock(&s->lock);
	linked = n->cookie == seen.cookie && n->tag & NODE_SOCKET;
	seen.sk = n->sk;
	seen.key = n->key;
	seen.tag = n->tag;
	bpf_spin_unlock(&s->lock);
	if (linked)
		list_socket(&seen, v);
	bpf_rcu_read_unlock();
	return 1;
}

/* Looks at the socket with a cookie, if the index knows it. */
__noinline int select_cookie(__u32 at)
{
	struct select_node seen = {};
	struct skreap_victim *v = selected_at(state.listed);
	__u32 *record, i, step;
	struct shard *s;

	barrier_var(at);
	if (at >= LISTED_MAX || !v)
		return 0;
	barrier_var(at);
	seen.cookie = cookies[at];
	record = record_at(seen.cookie);
	s = shard_at(shard_of(seen.cookie));
	if (!s || !record || !seen.cookie)
		return 1;
	bpf_rcu_read_lock();
	bpf_spin_lock(&s->lock);
	i = *record;
	locked_for(step, CHAIN_MAX) {
		struct node *n = node_at(i);

		if (!n)
			break;
		i = n->rnext;
		if (n->cookie != seen.cookie || !(n->tag & NODE_SOCKET))
			continue;
		seen.sk = n->sk;
		seen.tag |= n->tag;
	}
	bpf_spin_unlock(&s->lock);
	if (seen.sk)
		list_socket(&seen, v);
	bpf_rcu_read_unlock();
	return 1;
}

/*
 * Sockets whose nodes one has replaced, ever.  Under the locks: the count is raised before a node goes, so who has missed a
 * node sees it raised.
 */
static __always_inline __u64 wildcards(void)
{
	__u64 sum = 0;
	__u32 i;

	bpf_for(i, 0, cfg_shards) {
		struct shard *s = shard_at(i);

		if (!s)
			break;
		bpf_spin_lock(&s->lock);
		sum += s->wildcards;
		bpf_spin_unlock(&s->lock);
	}
	return sum;
}

static __always_inline int select(struct select_request *ctx)
{
	__u32 end, at, step;
	bool room = true;

	state = *ctx;
	state.listed = state.unnamed = 0;
	state.nodes = state.senders = state.state = 0;
	state.before = wildcards();
	at = state.next;
	end = state.flags & SELECT_COOKIES ? state.asked : cfg_nodes;
	bpf_for(step, 0, STEPS_MAX) {
		if (at >= end)
			break;
		room = state.flags & SELECT_COOKIES ? select_cookie(at) : select_node(at);
		if (!room)
			break;
		at++;
	}
	state.next = at;
	state.more = at < end;
	state.after = wildcards();
	*ctx = state;
	return 0;
}

SEC("syscall")
int skreap_select(struct select_request *ctx)
{
	return select(ctx);
}
