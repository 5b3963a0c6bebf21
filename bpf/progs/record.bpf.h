/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The per-socket record: from a socket's cookie to its nodes.
 *
 * Cookies are a dense counter, so the record is a slot of a table, not a BPF map: a chain of the nodes of
 * all sockets that fall on the slot (mostly one).  Found and changed under the lock of the socket's shard.
 *
 * When may connect() drop a node?
 *   UDP runs the hook without the socket lock, and before the connect is carried out or fails.  Two
 *   threads may be connecting one socket, and nobody can say which will have the last word.  So the hook
 *   of a thread drops only nodes that the same thread recorded (that connect has returned since, or the
 *   thread could not be here) and that are not the peer the socket has now (it stays in force if this
 *   connect fails).  Nodes that two threads have claimed stay until the socket is closed.
 *
 * When does a record stop to grow?
 *   At cfg_max_memberships nodes the socket becomes wide: one node in a bucket that every walk visits.  The
 *   live peer decides there as everywhere, so a connected wide socket is never missed; for an unconnected
 *   one it is no longer known whom it sent to, and a walk that asks for those says so.
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
	__u32 chunk; /* in: nodes for an empty shard; out: nodes for the depot */
};

enum { RECORD_DONE, RECORD_NEW, RECORD_NO_NODE, RECORD_TOO_LONG };

/* Longest record chain that is followed under the lock.  The seed keeps anyone from building one. */
#define CHAIN_MAX 65536

static __always_inline __u32 shard_of(__u64 cookie)
{
	return (__u32)(cookie >> 12) & (cfg_shards - 1);
}

/*
 * Neighbouring cookies share cache lines; where a whole run of them lands depends on the seed.  The bits
 * that chose the shard say nothing here and are left out.
 */
static __always_inline __u32 record_slot(__u64 cookie)
{
	__u64 c = (cookie & 4095) | (cookie >> (12 + cfg_shard_bits)) << 12;

	return (__u32)(c + ((c >> cfg_record_bits) * cfg_seed >> 32)) & (cfg_record_slots - 1);
}

static __always_inline __u32 *record_at(__u64 cookie)
{
	__u32 i = shard_of(cookie) * cfg_record_slots + record_slot(cookie);

	barrier_var(i);
	if (i >= cfg_all_records)
		return NULL;
	barrier_var(i);
	return &records[i];
}

/*
 * Unlinks from record and bucket the nodes of the cookie that a connect by `tag`'s thread makes obsolete, or
 * all of them.  The caller holds the lock.  Returns a chunk for the depot; one at most, because a record
 * has less than CHUNK nodes.
 */
static __always_inline __u32 record_drop(struct shard *s, __u32 *record, const struct membership *m, bool all)
{
	__u32 i = *record, before = 0, surplus = 0;
	int step;

	bpf_for(step, 0, CHAIN_MAX) {
		struct node *n = node_at(i), *b = node_at(before);
		__u32 next, *first, chunk;

		if (!n)
			break;
		next = n->rnext;
		if (n->cookie != m->cookie ||
		    (!all && ((n->tag & ~NODE_IPV6) != (m->tag & ~NODE_IPV6) || n->key == m->key ||
			      n->key == m->live_key))) {
			before = i;
			i = next;
			continue;
		}
		first = bucket_at(shard_of(m->cookie), bucket_of_node(n));
		if (!first)
			break;
		if (b) {
			b->rnext = next;
			barrier();
		} else {
			*record = next;
			barrier();
		}
		bucket_unlink(first, n);
		s->n.removals++;
		chunk = node_free(s, i, n);
		if (chunk)
			surplus = chunk;
		i = next;
	}
	return surplus;
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
	if (tag & NODE_WIDE)
		return true;
	if (n->key != m->key)
		return false;
	return m->tag & NODE_CONNECT ? tag == m->tag : !!(tag & NODE_SENDMSG);
}

static __noinline int record_apply(struct membership *m)
{
	__u32 shard = shard_of(m->cookie), own = 0, i, surplus = 0, fresh, chunk = m->chunk;
	struct shard *s = shard_at(shard);
	__u32 *record = record_at(m->cookie);
	__u32 *first = bucket_at(shard, bucket_of(m->key)), *wide = bucket_at(shard, bucket_wide());
	int step, result = RECORD_TOO_LONG;
	bool became_wide = false;
	struct node *n;

	m->chunk = 0;
	if (!s || !record || !first || !wide)
		return RECORD_TOO_LONG;

	bpf_spin_lock(&s->lock);
	if (chunk) {
		/* somebody may have filled the shard meanwhile */
		if (!s->free) {
			s->free = chunk;
			s->nr_free = CHUNK;
		} else if (!s->spare) {
			s->spare = chunk;
		} else {
			m->chunk = chunk;
		}
	}
	i = *record;
	bpf_for(step, 0, CHAIN_MAX) {
		n = node_at(i);
		if (!n) {
			result = RECORD_NEW;
			break;
		}
		if (n->cookie == m->cookie) {
			own++;
			if (n->tag & NODE_WIDE) {
				result = RECORD_DONE;
				break;
			}
			if (n->key == m->key) {
				/* Known.  Only a node with one claimant may be dropped by connect(). */
				if ((n->tag ^ m->tag) & NODE_TID && n->tag & m->tag & NODE_CONNECT)
					n->tag &= ~NODE_TID;
				n->tag |= m->tag & (NODE_CONNECT | NODE_SENDMSG);
				result = RECORD_DONE;
				break;
			}
		}
		i = n->rnext;
	}
	if (result == RECORD_NEW && own && m->tag & NODE_CONNECT) {
		__u64 before = s->n.removals;

		surplus = record_drop(s, record, m, false);
		own -= (__u32)(s->n.removals - before);
	}
	if (result == RECORD_NEW && own >= cfg_max_memberships) {
		surplus = record_drop(s, record, m, true);
		became_wide = true;
	}
	if (result == RECORD_NEW) {
		fresh = node_alloc(s);
		n = node_at(fresh);
		if (n) {
			n->sk = m->sk;
			n->cookie = m->cookie;
			n->key = m->key;
			n->tag = became_wide ? NODE_WIDE : m->tag;
			n->rnext = *record;
			*record = fresh;
			if (became_wide) {
				bucket_link(wide, fresh, n);
				barrier();
			} else {
				bucket_link(first, fresh, n);
				barrier();
			}
			s->n.inserts++;
		} else {
			result = RECORD_NO_NODE;
		}
	}
	bpf_spin_unlock(&s->lock);

	if (surplus)
		depot_give(surplus);
	if (became_wide)
		__sync_fetch_and_add(&counters.wide, 1);
	return result;
}

/* Marks the backend as one whose sockets the index does not know completely. */
static __always_inline void mark_incomplete(__u64 key)
{
	__u32 bit = (key >> 32) % (sizeof(incomplete) * 8);

	__sync_fetch_and_or(&incomplete[bit / 32 % (sizeof(incomplete) / 4)], 1u << bit % 32);
}

static __always_inline bool is_incomplete(__u64 key)
{
	__u32 bit = (key >> 32) % (sizeof(incomplete) * 8);

	return incomplete[bit / 32 % (sizeof(incomplete) / 4)] & 1u << bit % 32;
}

/* True if the membership is new. */
static __always_inline bool record(struct bpf_sock_addr *ctx, __u64 key, __u32 tag)
{
	struct bpf_sock *bsk = (struct bpf_sock *)ctx->sk;
	struct membership m = {.key = key, .live_key = key, .tag = tag};
	struct sock *sk;
	int result;

	if (!bsk)
		return false;
	sk = sock_of(bsk);
	if (!sock_may_be_indexed(sk))
		return false;
	m.sk = (__u64)bsk;
	m.cookie = sock_cookie(sk);
	if (tag & NODE_CONNECT)
		m.tag |= (__u32)bpf_get_current_pid_tgid() & NODE_TID;
	if (m.cookie) {
		if (record_known(&m))
			return false;
		if (tag & NODE_CONNECT && sk->__sk_common.skc_dport) {
			struct peer live;

			live_peer(sk, sk->sk_protocol, &live);
			m.live_key = key_of(&live);
		}
	} else {
		m.cookie = bpf_get_socket_cookie(ctx);
	}

	result = record_apply(&m);
	if (result == RECORD_NO_NODE) {
		m.chunk = depot_take();
		if (m.chunk) {
			result = record_apply(&m);
			if (m.chunk)
				depot_give(m.chunk);
		}
	}
	if (result == RECORD_NO_NODE) {
		mark_incomplete(key);
		__sync_fetch_and_add(&counters.dropped_full, 1);
	} else if (result == RECORD_TOO_LONG) {
		mark_incomplete(key);
		__sync_fetch_and_add(&counters.dropped_chain, 1);
	}
	return result == RECORD_NEW;
}

static __always_inline void record_release(const struct sock *sk)
{
	__u32 cpu = bpf_get_smp_processor_id() % MAX_CPUS;
	struct membership m = {.cookie = sock_cookie(sk)};
	__u32 *record, surplus;
	struct shard *s;
	__u64 before;

	if (!m.cookie) {
		__sync_fetch_and_add(&cpu_counters[cpu].releases_without_cookie, 1);
		return;
	}
	record = record_at(m.cookie);
	s = shard_at(shard_of(m.cookie));
	if (!record || !s)
		return;
	/* Without the lock: what this socket has recorded was recorded before the last reference went. */
	if (!*(volatile __u32 *)record) {
		__sync_fetch_and_add(&cpu_counters[cpu].releases_without_node, 1);
		return;
	}
	bpf_spin_lock(&s->lock);
	before = s->n.removals;
	surplus = record_drop(s, record, &m, true);
	before = s->n.removals - before;
	if (before)
		s->n.releases++;
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
	if (!before)
		__sync_fetch_and_add(&cpu_counters[cpu].releases_without_node, 1);
}

#endif
