/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The re-key: records a socket under the peer it really has.
 *
 * A hook that runs before a load balancer's sees, and records, the virtual address.  User space
 * finds such sockets (their live peer is not the one they are recorded under) and calls this
 * program for each of them.
 *
 * A re-key only adds.  A node under another key may belong to a pending connect, which looks the
 * same as one that was recorded too early.  Removing it could lose the socket; an extra node costs
 * 40 bytes until the next connect or close.  For the same reason no thread has a claim on an added
 * node (see record.bpf.h): connect() of a UDP socket does not touch it.
 *
 * A node is added only while the socket has another one, under the lock: its release is still to
 * come.
 */
#ifndef SKREAP_REKEY_BPF_H
#define SKREAP_REKEY_BPF_H

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct skreap_rekey rekey_type;

/* The nodes of one socket, as its record shows them */
struct rekey_nodes {
	__u64 sk;
	__u32 count;
	__u32 tags; /* of all of them */
	bool known; /* one is under the key, or stands for all */
};

/* The caller holds the lock. `adding`: the caller is about to add a node. */
static __noinline int rekey_search(const __u32 *record, const struct membership *m, struct rekey_nodes *found,
				   bool adding)
{
	__u32 i, step;

	if (!record || !m || !found)
		return 0;
	found->sk = 0;
	found->count = loop_zero();
	found->tags = 0;
	found->known = false;
	i = *record;
	locked_for(step, CHAIN_MAX) {
		struct node *n = node_at(i);

		if (!n)
			break;
		i = n->rnext;
		if (n->cookie != m->cookie)
			continue;
		found->sk = n->sk;
		found->count++;
		found->tags |= n->tag;
		if (n->tag & NODE_WILDCARD || n->key == m->key)
			found->known = true;
		/* The connect in force may be one that was translated behind our back. */
		if (n->tag & NODE_CONNECT)
			frontend_forget(n);
		if (adding)
			n->tag |= NODE_MULTI;
	}
	return 0;
}

/*
 * Adds the membership if the socket has another one.  No lock held.  A global function, like
 * record_apply().
 */
__noinline int rekey_apply(struct membership *m)
{
	__u32 surplus = 0, result = SKREAP_REKEY_ADDED, *record, *first;
	struct rekey_nodes found;
	struct shard *s;

	if (!m)
		return SKREAP_REKEY_GONE;
	record = record_at(m->cookie);
	first = bucket_at(shard_of(m->cookie), bucket_of(m->key));
	s = shard_at(shard_of(m->cookie));
	if (!s || !record || !first)
		return SKREAP_REKEY_GONE;
	bpf_spin_lock(&s->lock);
	rekey_search(record, m, &found, true);
	if (!found.count) {
		result = SKREAP_REKEY_GONE;
	} else if (found.known) {
		result = SKREAP_REKEY_KNOWN;
	} else {
		if (found.count >= cfg_max_memberships) {
			/* Nodes with a token are removed after the unlock. */
			if (!refs_enabled())
				surplus = record_drop_locked(s, record, m, DROP_ALL);
			m->tag = NODE_WILDCARD | (found.tags & NODE_CONNECT);
		}
		if (record_insert_locked(s, record, first, m) != RECORD_NEW)
			result = SKREAP_REKEY_NO_NODE;
	}
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
	return result;
}

/*
 * Reads the peer of the socket that a node of this cookie points to, and fills in the missing parts
 * of `m`.
 */
static __always_inline __u32 rekey_look(struct shard *s, const __u32 *record, struct membership *m, __u32 *nodes)
{
	struct rekey_nodes found;
	struct peer live;
	struct sock *sk;
	bool closed, idle;

	/* The RCU section is opened before the lock, see index.bpf.h */
	bpf_rcu_read_lock();
	bpf_spin_lock(&s->lock);
	rekey_search(record, m, &found, false);
	bpf_spin_unlock(&s->lock);
	*nodes = found.count;
	if (!found.count) {
		bpf_rcu_read_unlock();
		return SKREAP_REKEY_GONE;
	}
	sk = sock_of((void *)found.sk);
	live_peer(sk, sk->sk_protocol, &live);
	/*
	 * A TCP socket in CLOSE keeps the address of its last peer, or already has that of the next
	 * one.
	 */
	idle = live.protocol == IPPROTO_TCP && sk->__sk_common.skc_state == TCP_CLOSE;
	/* As in a walk: the cookie is read last. */
	closed = !sk->sk_socket;
	closed |= sock_cookie(sk) != m->cookie;
	bpf_rcu_read_unlock();
	if (closed)
		return SKREAP_REKEY_GONE;
	if (!live.dport || idle)
		return found.tags & ~NODE_SENDMSG & NODE_SOCKET ? SKREAP_REKEY_NO_PEER : SKREAP_REKEY_ONLY_SENT;
	m->sk = found.sk;
	m->key = m->live_key = key_of(&live);
	m->tag = NODE_REKEYED | NODE_MULTI | (live.family == AF_INET6 ? NODE_IPV6 : 0);
	return SKREAP_REKEY_ADDED;
}

static __always_inline int rekey(struct skreap_rekey *ctx)
{
	struct membership m = {.cookie = ctx->cookie};
	__u32 *record = record_at(m.cookie), nodes = 0, result, attempt;
	struct shard *s = shard_at(shard_of(m.cookie));

	if (ctx->version != SKREAP_ABI_VERSION)
		return -EPROTO;
	if (!m.cookie || !record || !s)
		return -EINVAL;
	result = rekey_look(s, record, &m, &nodes);
	if (result == SKREAP_REKEY_ADDED)
		result = rekey_apply(&m);
	bpf_for(attempt, 0, REFILLS_MAX) {
		if (result != SKREAP_REKEY_NO_NODE || !shard_refill(shard_of(m.cookie)))
			break;
		result = rekey_apply(&m);
	}
	if (result == SKREAP_REKEY_ADDED && m.tag & NODE_WILDCARD) {
		if (refs_enabled())
			record_forget(&m, DROP_LISTED);
		__sync_fetch_and_add(&counters.wildcard, 1);
	}
	if (result == SKREAP_REKEY_NO_NODE) {
		/* This program may sleep, hooks may not; see incomplete.bpf.h. */
		bpf_rcu_read_lock();
		incomplete_set(m.key, m.tag);
		bpf_rcu_read_unlock();
		__sync_fetch_and_add(&counters.dropped_full, 1);
	}
	ctx->result = result;
	ctx->nodes = nodes;
	return 0;
}

#endif
