/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The per-socket record: from a socket's cookie to its nodes.
 *
 * Cookies are a dense counter, so the record is a slot of a table, not a BPF map: a chain of the nodes of
 * all sockets that fall on the slot (mostly one).  Found and changed under the lock of the socket's shard.
 *
 * When may connect() drop a node?
 *   UDP gives the socket lock back between the hook and the connect, which is then carried out or fails.  Two
 *   threads may be connecting one socket, and nobody can say which will have the last word.  So the hook
 *   of a thread drops only nodes that the same thread recorded (that connect has returned since, or the
 *   thread could not be here) and that are not the peer the socket has now (it stays in force if this
 *   connect fails).  Nodes that two threads have claimed stay until the socket is closed.  TCP runs the
 *   hook and the connect under one hold of it: there, all nodes of connect() count as recorded by one thread.
 *   What a search finds connected (bootstrap.bpf.h) drops nothing: a connect to another node may be pending.
 *
 * When does a record stop to grow?
 *   At cfg_max_memberships nodes, or with a connect() to a zero address, which does not say where it will lead, the
 *   socket becomes a wildcard: one node in a bucket that every walk visits.  The
 *   live peer decides there as everywhere, so a connected wildcard socket is never missed; for an unconnected
 *   one it is no longer known whom it sent to, and a walk that asks for those says so.  Whether it has ever called
 *   connect() its node still tells, see pending.bpf.h.
 */
#ifndef SKREAP_RECORD_BPF_H
#define SKREAP_RECORD_BPF_H

/* One membership to be recorded: a socket under a key */
struct membership {
	__u64 sk;
	__u64 cookie;
	__u64 key;
	__u64 live_key; /* of the peer the socket has now; equal to key if it has none */
	__u32 tag;
	__u32 found; /* not 0: no connect() of now, but what one has come to; it makes no node obsolete */
	__u32 node; /* out: the new one */
	__u32 dead; /* out: a node that was unlinked, and that the caller has to reap */
#ifdef SKREAP_FRONTENDS
	__u64 frontend; /* enum skreap_frontend_id, and a bit: see below */
#endif
};

#ifdef SKREAP_FRONTENDS
#define FRONTEND(m) ((__u32)(m)->frontend)
#define SET_FRONTEND(m, id) ((m)->frontend = (id))
/* The socket is connected to the backend already. */
#define PEER_IN_FORCE(m) ((m)->frontend >> 32)
#define SET_PEER_IN_FORCE(m) ((m)->frontend |= 1ULL << 32)
#else
#define FRONTEND(m) SKREAP_FRONTEND_UNKNOWN
#define SET_FRONTEND(m, id) ((void)(id))
#define PEER_IN_FORCE(m) 0
#define SET_PEER_IN_FORCE(m) ((void)0)
#endif

enum { RECORD_KNOWN, RECORD_NEW, RECORD_NO_NODE, RECORD_TOO_LONG };

/* Which nodes of a cookie are dropped */
enum {
	DROP_OBSOLETE, /* those that a connect by the membership's thread makes obsolete */
	DROP_LISTED,   /* all but the one of a wildcard socket */
	DROP_ALL,
};

/* What of a node's tag tells who recorded it, and how */
static __always_inline __u32 owner_bits(__u32 tag)
{
	return tag & (NODE_TID | NODE_CONNECT | NODE_SENDMSG | NODE_WILDCARD);
}

/* Takes a node out of its bucket.  The caller holds the lock and has taken it out of its record. */
static __always_inline bool node_unlink_locked(struct shard *s, __u32 shard, struct node *n)
{
	__u32 *first = bucket_at(shard, bucket_of_node(n));

	if (!first)
		return false;
	bucket_unlink_locked(first, n);
	s->n.removals++;
	return true;
}

/* As node_unlink_locked(), and frees it; the chunk that comes back is for the depot. */
static __always_inline __u32 node_drop_locked(struct shard *s, __u32 shard, __u32 i, struct node *n)
{
	return node_unlink_locked(s, shard, n) ? node_free_locked(s, i, n) : 0;
}

/* True if a node of the membership's cookie is one that is to be dropped. */
static __always_inline bool node_goes(const struct node *n, const struct membership *m, int what)
{
	if (what == DROP_ALL)
		return true;
	if (what == DROP_LISTED)
		return !(n->tag & NODE_WILDCARD);
	return !m->found && owner_bits(n->tag) == owner_bits(m->tag) && n->key != m->key && n->key != m->live_key;
}

/*
 * Drops nodes of the cookie.  The caller holds the lock.  Returns a chunk for the depot; one at most, because a
 * record has less than CHUNK nodes.  Stops after a node with a token, which it leaves to the caller as m->dead.
 *
 * First out of the record, then out of their buckets: the verifier adds up the ways through two loops, and multiplies
 * those through one.
 */
static __noinline __u32 record_drop_locked(struct shard *s, __u32 *record, struct membership *m, int what)
{
	__u32 i, before = loop_zero(), dropped = loop_zero(), surplus = loop_zero(), dead = loop_zero(), shard,
	      step;
	struct node *n;

	if (!s || !record || !m)
		return 0;
	shard = shard_of(m->cookie);
	i = *record;
	locked_for(step, CHAIN_MAX) {
		struct node *b;
		__u32 next;

		n = node_at(i);
		if (!n)
			break;
		next = n->rnext;
		if (n->cookie != m->cookie || !node_goes(n, m, what)) {
			before = i;
			i = next;
			continue;
		}
		/* The barriers keep two stores apart, as in bucket_unlink_locked(). */
		b = node_at(before);
		if (b) {
			b->rnext = next;
			barrier();
		} else {
			*record = next;
			barrier();
		}
		if (refs_enabled() && n->tag & NODE_HAS_REF) {
			dead = i;
			break;
		}
		n->rnext = dropped;
		dropped = i;
		i = next;
	}
	locked_for(step, CHUNK) {
		i = dropped;
		n = node_at(i);
		if (!n)
			break;
		dropped = n->rnext;
		surplus |= node_drop_locked(s, shard, i, n);
	}
	n = node_at(dead);
	if (refs_enabled() && n) {
		node_unlink_locked(s, shard, n);
		n->tag = NODE_DEAD;
		m->dead = dead;
	}
	return surplus;
}

/* record_drop_locked() under the lock; returns how many nodes it dropped.  A global function: the verifier looks at it once. */
__noinline __u32 record_drop_some(struct membership *m, int what)
{
	__u32 *record, surplus, dropped;
	struct shard *s;

	if (!m)
		return 0;
	s = shard_at(shard_of(m->cookie));
	record = record_at(m->cookie);
	if (!s || !record)
		return 0;
	bpf_spin_lock(&s->lock);
	dropped = (__u32)s->n.removals;
	surplus = record_drop_locked(s, record, m, what);
	dropped = (__u32)s->n.removals - dropped;
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
	return dropped;
}

/*
 * Drops nodes of the cookie, those with a token too.  No lock held.  Each of these takes a lock of its own, so
 * others see a part of the nodes gone.  Returns how many there were.
 */
__noinline __u32 record_forget(struct membership *m, int what)
{
	__u32 dropped = 0, step;

	if (!m)
		return 0;
	bpf_for(step, 0, CHUNK + 1) {
		m->dead = 0;
		dropped += record_drop_some(m, what);
		if (!refs_enabled() || !m->dead)
			break;
		sockref_reap(m->dead);
	}
	return dropped;
}

/*
 * Looks without the lock whether nothing is to be done: the common case of sendto() again and again, or of
 * connect() to the same peer.  The nodes of a cookie are only changed by calls on that very socket, so what
 * is found for it holds; what is not found is looked for again under the lock.
 */
static __always_inline bool record_known(const struct membership *m)
{
	__u32 *record = record_at(m->cookie);
	struct node *n = record ? node_at(*(volatile __u32 *)record) : NULL;
	__u32 tag;

	if (n && n->cookie != m->cookie)
		n = node_at(*(volatile __u32 *)&n->rnext);
	if (!n || n->cookie != m->cookie)
		return false;
	tag = *(volatile __u32 *)&n->tag;
	/* A node that an event has watched must be told of another connect, under the lock. */
	if (tag & NODE_WILDCARD)
		return !(m->tag & NODE_CONNECT) ||
		       (tag & (NODE_CONNECT | NODE_WATCHED | NODE_EXPIRED)) == NODE_CONNECT;
	if (n->key != m->key || m->tag & NODE_WILDCARD || !frontend_known(n, FRONTEND(m), m->tag))
		return false;
	if (m->tag & NODE_CONNECT)
		return (owner_bits(tag) | (tag & (NODE_WATCHED | NODE_EXPIRED))) == owner_bits(m->tag);
	return tag & NODE_SENDMSG;
}

/*
 * Looks for the membership in a record that is not empty, marks the socket's nodes as one of several, and
 * makes room.  The caller holds the lock.
 */
static __noinline int record_search_locked(struct shard *s, __u32 *record, struct membership *m, __u32 *surplus)
{
	__u32 own = loop_zero(), obsolete = loop_zero(), connects = 0, i, step;
	int what = DROP_OBSOLETE;

	if (!s || !record || !m || !surplus)
		return RECORD_TOO_LONG;
	i = *record;
	locked_for(step, CHAIN_MAX) {
		struct node *n = node_at(i);

		if (!n)
			goto not_found;
		i = n->rnext;
		if (n->cookie != m->cookie)
			continue;
		if (n->tag & NODE_WILDCARD) {
			if (m->tag & NODE_CONNECT)
				n->tag = (n->tag | NODE_CONNECT) & ~(NODE_WATCHED | NODE_EXPIRED);
			return RECORD_KNOWN;
		}
		if (n->key == m->key && !(m->tag & NODE_WILDCARD)) {
			frontend_again(n, FRONTEND(m), m->tag, m->found, PEER_IN_FORCE(m));
			/* Only a node with one claimant may be dropped by connect(). */
			if ((n->tag ^ m->tag) & NODE_TID && n->tag & m->tag & NODE_CONNECT)
				n->tag &= ~NODE_TID;
			n->tag |= m->tag & (NODE_CONNECT | NODE_SENDMSG);
			if (m->tag & NODE_CONNECT)
				n->tag &= ~(NODE_WATCHED | NODE_EXPIRED);
			return RECORD_KNOWN;
		}
		n->tag |= NODE_MULTI;
		connects |= n->tag & NODE_CONNECT;
		own++;
		if (m->tag & NODE_CONNECT && node_goes(n, m, DROP_OBSOLETE))
			obsolete++;
	}
	return RECORD_TOO_LONG;
not_found:
	if (own)
		m->tag |= NODE_MULTI;
	if (m->tag & NODE_WILDCARD || own - obsolete >= cfg_max_memberships) {
		m->tag = NODE_WILDCARD | connects | (m->tag & (NODE_HAS_REF | NODE_CONNECT));
		what = DROP_ALL;
		/* The new node may be behind a pass over the pool, and the others before it: see select.bpf.c. */
		s->wildcards += own != 0;
	}
	/* Nodes with a token are not dropped under this lock, see ref_acquire(). */
	if (!refs_enabled() && (obsolete || what == DROP_ALL))
		*surplus = record_drop_locked(s, record, m, what);
	return RECORD_NEW;
}

/* Adds the node of a new membership.  The caller holds the lock. */
static __always_inline int record_insert_locked(struct shard *s, __u32 *record, __u32 *first, struct membership *m)
{
	__u32 fresh = node_alloc_locked(s);
	struct node *n = node_at(fresh);

	if (!n)
		return RECORD_NO_NODE;
	n->sk = m->sk;
	n->cookie = m->cookie;
	n->key = m->key;
	n->tag = m->tag;
	frontend_set(n, m->tag & NODE_WILDCARD ? SKREAP_FRONTEND_UNKNOWN : FRONTEND(m));
	n->rnext = *record;
	*record = fresh;
	m->node = fresh;
	if (m->tag & NODE_WILDCARD)
		first = bucket_at(shard_of(m->cookie), bucket_wildcard());
	if (first)
		bucket_link_locked(first, fresh, n);
	s->n.inserts++;
	return RECORD_NEW;
}

/* The common case: nothing is in the record, and the shard has a free node.  Anything else is for record_further(). */
static __always_inline int record_first(struct shard *s, struct membership *m)
{
	__u32 *first = bucket_at(shard_of(m->cookie), bucket_of(m->key)), *record = record_at(m->cookie);
	int result = RECORD_NO_NODE;

	if (!record || !first)
		return RECORD_TOO_LONG;
	if (*(volatile __u32 *)record)
		return RECORD_NO_NODE;
	bpf_spin_lock(&s->lock);
	if (!*record)
		result = record_insert_locked(s, record, first, m);
	bpf_spin_unlock(&s->lock);
	return result;
}

/*
 * Looks for the membership and adds it if it is not there.  No lock held.  A global function: the verifier looks at it
 * once, and not for every way that leads here.
 */
__noinline int record_apply(struct membership *m)
{
	__u32 *record, *first, surplus = 0;
	int result = RECORD_NEW;
	struct shard *s;

	if (!m)
		return RECORD_TOO_LONG;
	record = record_at(m->cookie);
	first = bucket_at(shard_of(m->cookie), bucket_of(m->key));
	s = shard_at(shard_of(m->cookie));
	if (!s || !record || !first)
		return RECORD_TOO_LONG;
	bpf_spin_lock(&s->lock);
	if (*record)
		result = record_search_locked(s, record, m, &surplus);
	if (result == RECORD_NEW)
		result = record_insert_locked(s, record, first, m);
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
	return result;
}

/* All that record_first() leaves, with nodes from the depot if the shard has none.  No lock held. */
__noinline int record_further(struct membership *m)
{
	__u32 attempt;
	int result;

	if (!m)
		return RECORD_TOO_LONG;
	result = record_apply(m);
	bpf_for(attempt, 0, REFILLS_MAX) {
		if (result != RECORD_NO_NODE || !shard_refill(shard_of(m->cookie)))
			break;
		result = record_apply(m);
	}
	return result;
}

/*
 * Takes the token for a membership that is about to be recorded; NULL: the node does without.  Makes room first,
 * as record_search_locked() does where nodes have none.  No lock held.
 */
static __always_inline struct skreap_sock *ref_acquire(struct membership *m, void *trusted)
{
	__u32 *record = record_at(m->cookie);
	struct skreap_sock *sock;

	if (m->tag & NODE_CONNECT && record && *(volatile __u32 *)record)
		record_forget(m, DROP_OBSOLETE);
	sock = sockref_acquire((struct sock_common *)trusted);
	if (sock)
		m->tag |= NODE_HAS_REF;
	else
		__sync_fetch_and_add(&counters.without_ref, 1);
	return sock;
}

/* Puts the token to the new node, if there is one.  No lock held. */
static __always_inline void ref_store(struct membership *m, struct skreap_sock *sock, bool is_new)
{
	if (!is_new) {
		if (sock)
			sockref_release(sock);
		return;
	}
	if (sock)
		sockref_put(m->node, sock);
	/* The node of a wildcard socket is there before the others go: a walk always finds one of them. */
	if (m->tag & NODE_WILDCARD)
		record_forget(m, DROP_LISTED);
}

/*
 * Records a membership.  No lock held.  trusted: the socket as the kernel gave it to the program, which is what a
 * reference can be taken of.
 */
static __always_inline int record_membership(struct shard *s, struct membership *m, void *trusted)
{
	struct skreap_sock *ref = NULL;
	int result;

	m->node = 0;
	m->dead = 0;
	if (refs_enabled())
		ref = ref_acquire(m, trusted);
	result = record_first(s, m);
	if (result == RECORD_NO_NODE)
		result = record_further(m);
	if (refs_enabled())
		ref_store(m, ref, result == RECORD_NEW);
	return result;
}

/* Takes note of what could not be recorded, and of what has become a wildcard. */
static __always_inline void record_count(const struct membership *m, int result)
{
	if (result == RECORD_NEW) {
		if (m->tag & NODE_WILDCARD)
			__sync_fetch_and_add(&counters.wildcard, 1);
		return;
	}
	if (result == RECORD_KNOWN)
		return;
	if (m->tag & NODE_WILDCARD)
		incomplete_set_all();
	incomplete_set(m->key, m->tag);
	if (result == RECORD_NO_NODE)
		__sync_fetch_and_add(&counters.dropped_full, 1);
	else
		__sync_fetch_and_add(&counters.dropped_chain, 1);
}

/* True if the membership is new. */
static __always_inline bool record(struct bpf_sock_addr *ctx, __u64 key, __u32 tag, __u32 frontend)
{
	struct bpf_sock *bsk = (struct bpf_sock *)ctx->sk;
	struct membership m;
	struct shard *s;
	struct sock *sk;
	int result;

	if (!bsk)
		return false;
	sk = sock_of(bsk);
	if (!sock_may_be_indexed(sk, key, tag))
		return false;
	/* TCP connects under the socket lock: an earlier one is over, whoever called it. */
	if ((tag & (NODE_CONNECT | NODE_WILDCARD)) == NODE_CONNECT && sk->sk_protocol == IPPROTO_UDP)
		tag |= (__u32)bpf_get_current_pid_tgid() & NODE_TID;
	m.sk = (__u64)bsk;
	m.key = key;
	m.live_key = key;
	m.tag = tag;
	m.found = 0;
	SET_FRONTEND(&m, frontend);
	m.cookie = sock_cookie(sk);
	if (m.cookie) {
		if (record_known(&m))
			return false;
		if (tag & NODE_CONNECT && sk->__sk_common.skc_dport) {
			struct peer live;

			live_peer(sk, sk->sk_protocol, &live);
			m.live_key = key_of(&live);
			if (m.live_key == key)
				SET_PEER_IN_FORCE(&m);
		}
	} else {
		m.cookie = bpf_get_socket_cookie(ctx);
	}

	s = shard_at(shard_of(m.cookie));
	if (!s) {
		incomplete_set_all();
		return false;
	}
	result = record_membership(s, &m, bsk);
	record_count(&m, result);
	return result == RECORD_NEW;
}

#endif
