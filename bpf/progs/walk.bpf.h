/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The walk: one pass over the bucket of a target in every shard, then over the wildcard sockets.
 *
 * A cursor node inside the chain marks its place; each lock hold moves the cursor past one node.
 * So the walk may sleep between two nodes, may stop when its emit buffer is full and continue in
 * the next call, and survives any insert or removal around it.  Several walks may be in one bucket
 * at once.
 */
#ifndef SKREAP_WALK_BPF_H
#define SKREAP_WALK_BPF_H

#include "walk_slot.bpf.h"

/*
 * Nodes passed in one call, a few milliseconds: on a kernel without preemption nothing else runs on
 * this CPU meanwhile.  A longer walk is resumed like one whose buffer is full.
 */
#define WALK_STEPS_MAX (1 << 16)
/*
 * Chains visited in one call, for the same reason, and because bpf_for does nothing if it should
 * count above 2^23.
 */
#define WALK_CHAINS_MAX (1 << 20)
/* Sockets destroyed in one call, for the same reason. */
#define WALK_DESTROY_MAX SKREAP_EMIT_MAX

enum { WALK_GO_ON, WALK_DONE, WALK_FULL };

/* Removes the cursor from the chain in which a call that was never resumed has left it. */
static __always_inline void cursor_leave(struct walk_slot *w, struct node *cursor)
{
	struct shard *s = shard_at(w->shard);
	__u32 *first = bucket_at(w->shard, w->bucket);

	if (!s || !first || !w->linked)
		return;
	bpf_spin_lock(&s->lock);
	bucket_unlink_locked(first, cursor);
	bpf_spin_unlock(&s->lock);
	w->linked = 0;
}

/* Puts the cursor at the head of the next chain that has anything in it. */
__noinline int cursor_enter(struct walk_slot *w, __u32 ci, struct node *cursor, __u64 key)
{
	__u32 all_chains, end, p;
	bool all;

	if (!w || !cursor)
		return WALK_DONE;
	all = w->n.flags & SKREAP_WALK_ALL;
	all_chains = all ? cfg_shards * (cfg_buckets + 1) : cfg_shards * 2;
	end = all_chains;
	if (end > w->position + WALK_CHAINS_MAX)
		end = w->position + WALK_CHAINS_MAX;
	bpf_for(p, w->position, end) {
		__u32 shard, bucket, *first;
		struct shard *s;

		if (all) {
			shard = p / (cfg_buckets + 1);
			bucket = p % (cfg_buckets + 1);
		} else {
			shard = p & (cfg_shards - 1);
			bucket = p < cfg_shards ? bucket_of(key) : bucket_wildcard();
		}
		first = bucket_at(shard, bucket);
		if (!first || !*(volatile __u32 *)first)
			continue;
		s = shard_at(shard);
		if (!s)
			continue;
		w->shard = shard;
		w->bucket = bucket;
		w->position = p + 1;
		bpf_spin_lock(&s->lock);
		bucket_link_locked(first, ci, cursor);
		bpf_spin_unlock(&s->lock);
		w->linked = 1;
		return WALK_GO_ON;
	}
	w->position = end;
	return end < all_chains ? WALK_FULL : WALK_DONE;
}

/* A TCP socket that is closed but not released keeps the address of its last peer. */
static __always_inline bool is_closed(const struct skreap_victim *v)
{
	return v->protocol == IPPROTO_TCP && (v->state == TCP_CLOSE || v->state == TCP_TIME_WAIT);
}

/* False: a TCP state that the caller does not want. */
static __always_inline bool state_wanted(const struct walk_slot *w, const struct skreap_victim *v)
{
	return !w->n.states || v->protocol != IPPROTO_TCP || w->n.states >> (v->state & 31) & 1;
}

/*
 * A UDP socket whose previous association was destroyed after connect() had checked its port and
 * before it had the lock: it has a peer and no port, and gets one when it sends.  It is in no hash
 * table, so only a reference reaches it.
 */
static __always_inline bool is_portless(const struct peer *live, const struct skreap_victim *v)
{
	return v->protocol == IPPROTO_UDP && live->dport;
}

/*
 * Relation of a node's socket to the target (or, without one, to the key it is recorded under).  A
 * socket without a local port is in no hash table and has no name: its TCP connect has not got that
 * far, or it was destroyed without having been bound by its owner.  If it has a peer, an event
 * still treats it as a candidate.
 */
static __always_inline __u32 relation(const struct walk_slot *w, const struct peer *target, const struct peer *live,
				      const struct skreap_victim *v, __u64 key, __u32 tag)
{
	if (!v->id.sport && (w->n.flags & SKREAP_WALK_ALL || !is_portless(live, v)))
		return SKREAP_NO_PEER;
	if (!live->dport)
		return tag & NODE_SENDMSG ? SKREAP_UNCONNECTED : SKREAP_NO_PEER;
	if (!(w->n.flags & SKREAP_WALK_ALL))
		return same_peer(live, target) ? SKREAP_CONNECTED : SKREAP_MOVED_ON;
	if (is_closed(v))
		return SKREAP_NO_PEER;
	return tag & NODE_WILDCARD || key_of(live) == key ? SKREAP_CONNECTED : SKREAP_MOVED_ON;
}

/*
 * Replaces the destination of the victim by the backend that the socket is recorded under; for an
 * IPv6 socket an IPv4 backend becomes an IPv4-mapped address.  An IPv6 backend is unknown unless an
 * unconnected socket has sent to it.
 */
static __always_inline void name_recorded(struct skreap_victim *v, __u64 key, __u32 tag)
{
	struct peer p, *known;

	if (tag & NODE_IPV6) {
		known = bpf_map_lookup_elem(&ipv6_names, &key);
		if (!known)
			return;
		p = *known;
	} else {
		peer_of_key_ipv4(key, &p);
	}
	if (v->family == AF_INET6 && p.family == AF_INET) {
		p.daddr[3] = p.daddr[0];
		p.daddr[2] = bpf_htonl(0xffff);
		p.daddr[0] = 0;
	}
	v->id.daddr[0] = p.daddr[0];
	v->id.daddr[1] = p.daddr[1];
	v->id.daddr[2] = p.daddr[2];
	v->id.daddr[3] = p.daddr[3];
	v->id.dport = p.dport;
}

/*
 * The socket of this node seems to be closed.  Usually its release ran between our check of the
 * node and our check of the socket, and the node is gone by now.  If the node is still there, a
 * release was missed: an alarm.  The nodes of that socket are then removed here, because no hook
 * will.  True if so.
 */
__noinline int remove_stale(__u32 i, __u64 cookie)
{
	struct membership m = {.cookie = cookie};
	struct shard *s = shard_at(shard_of(cookie));
	struct node *n = node_at(i);
	bool linked;

	if (!s || !n)
		return 0;
	bpf_spin_lock(&s->lock);
	linked = n->cookie == cookie && n->tag & NODE_SOCKET;
	bpf_spin_unlock(&s->lock);
	if (!linked || !record_forget(&m, DROP_ALL))
		return 0;
	__sync_fetch_and_add(&counters.stale, 1);
	counters.last_stale = cookie;
	return 1;
}

/* Destroys the victim and counts the result; true if user space has to handle it. */
static __always_inline bool destroy(struct walk_slot *w, __u32 i, __u64 cookie, __u32 tag,
				    const struct peer *target, __u32 rel, __s32 *result)
{
	struct peer peer = {.protocol = IPPROTO_UDP};
	int err = -ENODATA;

	if (rel == SKREAP_CONNECTED)
		peer = *target;
	w->tried++;
	if (can_destroy() && tag & NODE_HAS_REF)
		err = sockref_destroy(i, cookie, &peer);
	*result = -err;
	if (err == -ESTALE) {
		w->n.moved_on++;
		return false;
	}
	if (err == -ENOENT)
		w->n.gone++;
	else if (!err)
		w->n.destroyed++;
	else
		return true;
	return w->n.flags & SKREAP_WALK_LIST;
}

/*
 * Advance: moves the cursor past one node and copies it.  Returns the address of its socket, or 0: the chain has
 * ended, or the node is no socket of the target's.  The caller is in an RCU section, in which no socket
 * is freed; it was opened before the lock is taken, see index.bpf.h.
 */
static __always_inline __u64 advance(struct walk_slot *w, struct shard *s, __u32 *first, __u32 ci, __u64 key,
				     struct visit *at)
{
	struct node *x, *cursor = node_at(ci);
	__u64 sk = 0;

	if (!cursor)
		return 0;
	bpf_spin_lock(&s->lock);
	at->i = cursor->next;
	x = node_at(at->i);
	if (x) {
		bucket_advance_locked(first, ci, cursor, x);
		sk = x->sk;
		at->cookie = x->cookie;
		at->key = x->key;
		at->tag = x->tag;
		at->frontend = frontend_of_node(x, ci - 1, w->n.flags);
	} else {
		bucket_unlink_locked(first, cursor);
		w->linked = 0;
	}
	bpf_spin_unlock(&s->lock);
	if (!x || at->tag & NODE_CURSOR)
		return 0;
	if (!(w->n.flags & SKREAP_WALK_ALL) && !(at->tag & NODE_WILDCARD) && at->key != key) {
		w->n.passed_over++;
		return 0;
	}
	return sk;
}

/*
 * Read: identifies the socket.  False: it is not (or no longer) that of the node.  Close runs
 * cgroup/sock_release first and clears the struct socket afterwards.  The cookie is read last: if
 * the memory was recycled while we read, the cookie differs.  In the same RCU section as advance().
 */
static __always_inline bool read_socket(__u64 address, struct visit *at, struct skreap_victim *v)
{
	struct sock *sk = sock_of((void *)address);
	bool closed;

	live_peer(sk, sk->sk_protocol, &at->live);
	sock_identify(sk, sk->sk_protocol, v);
	closed = !sk->sk_socket;
	closed |= sock_cookie(sk) != at->cookie;
	return !closed;
}

/* Classify, for a target: counts what is skipped.  True: a victim. */
static __always_inline bool is_victim(struct walk_slot *w, const struct skreap_victim *v, const struct visit *at)
{
	if (at->tag & NODE_WILDCARD && at->relation != SKREAP_CONNECTED) {
		/* recorded under every backend, so it says nothing about this one */
		if (!at->live.dport)
			w->n.incomplete |= SKREAP_INCOMPLETE_UNCONNECTED;
		return false;
	}
	w->n.visited++;
	if (at->relation == SKREAP_MOVED_ON) {
		w->n.moved_on++;
		return false;
	}
	if (at->relation == SKREAP_NO_PEER) {
		w->n.no_peer++;
		return false;
	}
	if (at->relation == SKREAP_UNCONNECTED && !(w->n.flags & SKREAP_WALK_UNCONNECTED)) {
		w->n.unconnected++;
		return false;
	}
	if (is_closed(v) || !state_wanted(w, v)) {
		w->n.state++;
		return false;
	}
	return true;
}

/* Classify, without a target: every node is emitted, under the backend that the flags ask for. */
static __always_inline void name_any(struct walk_slot *w, struct skreap_victim *v, const struct visit *at)
{
	/* Without a peer it is a sender, and its destinations are unknown. */
	if (at->tag & NODE_WILDCARD && !at->live.dport)
		w->n.incomplete |= SKREAP_INCOMPLETE_UNCONNECTED;
	w->n.visited++;
	if (at->relation == SKREAP_UNCONNECTED) {
		name_recorded(v, at->key, at->tag);
	} else if (w->n.flags & SKREAP_WALK_RECORDED && at->relation == SKREAP_MOVED_ON) {
		v->family = at->tag & NODE_IPV6 ? AF_INET6 : AF_INET;
		v->id.daddr[0] = v->id.daddr[1] = v->id.daddr[2] = v->id.daddr[3] = 0;
		v->id.dport = 0;
		name_recorded(v, at->key, at->tag);
	}
}

/* Act on a node that has lost its socket: it is removed, and counted if it was really there. */
static __always_inline void act_on_stale(struct walk_slot *w, struct skreap_victim *v, const struct visit *at)
{
	if (!remove_stale(at->i, at->cookie))
		return;
	w->n.visited++;
	w->n.stale++;
	if (!(w->n.flags & SKREAP_WALK_ALL))
		return;
	v->id.cookie[0] = (__u32)at->cookie;
	v->id.cookie[1] = at->cookie >> 32;
	v->relation = SKREAP_STALE;
	w->emitted++;
}

/*
 * One step: moves the cursor past one node, and handles its socket as requested.  Global: see
 * sockref_reap().
 */
__noinline int walk_step(__u32 slot, const struct peer *target, __u64 key)
{
	struct walk_slot *w = walk_slot_at(slot);
	struct skreap_victim *v;
	struct visit *at;
	bool open = false;
	struct shard *s;
	__s32 *result;
	__u32 *first;
	__u64 sk;

	if (!w || !target)
		return WALK_DONE;
	at = &w->at;
	v = emit_at(slot, w->emitted);
	result = result_at(slot, w->emitted);
	s = shard_at(w->shard);
	first = bucket_at(w->shard, w->bucket);
	if (!s || !first)
		return WALK_DONE;
	/* The buffer is checked first: a node is passed only when there is room for it. */
	if (!v || !result || w->emitted >= SKREAP_EMIT_MAX || w->tried >= WALK_DESTROY_MAX)
		return WALK_FULL;

	bpf_rcu_read_lock();
	sk = advance(w, s, first, slot + 1, key, at);
	if (sk)
		open = read_socket(sk, at, v);
	bpf_rcu_read_unlock();
	if (!sk)
		return WALK_GO_ON;
	if (!open) {
		act_on_stale(w, v, at);
		return WALK_GO_ON;
	}

	at->relation = relation(w, target, &at->live, v, at->key, at->tag);
	at->victim = at->pending = 0;
	if (w->n.flags & SKREAP_WALK_ALL) {
		name_any(w, v, at);
		at->victim = 1;
	} else {
		/* Before the destroy, after which the socket looks the same. */
		if (w->n.flags & (SKREAP_WALK_PENDING | SKREAP_WALK_WATCH) &&
		    may_be_pending(v, at->relation, at->tag)) {
			pending_update(s, at->i, at->cookie, key, w->n.flags);
			at->pending = SKREAP_PENDING;
		}
		if (!(w->n.flags & SKREAP_WALK_PENDING))
			at->victim = is_victim(w, v, at);
	}
	if (at->victim) {
		at->frontend = frontend_for(at->frontend, at->relation, at->tag);
		at->victim = frontend_wanted(slot, w->n.flags, at->frontend);
	}
	if (at->victim && w->n.flags & SKREAP_WALK_DESTROY)
		at->victim = destroy(w, at->i, at->cookie, at->tag, target, at->relation, result);
	if (!at->victim && !at->pending)
		return WALK_GO_ON;
	frontend_emit(slot, w->emitted, at->frontend);
	v->relation = at->relation | at->pending | (at->victim ? 0 : SKREAP_NO_VICTIM);
	w->emitted++;
	return WALK_GO_ON;
}

/* False: no socket has such a peer, as sockets are identified here. */
static __always_inline bool target_is_sound(const struct peer *target)
{
	if (target->protocol != IPPROTO_TCP && target->protocol != IPPROTO_UDP)
		return false;
	if (target->family == AF_INET)
		return !(target->daddr[1] | target->daddr[2] | target->daddr[3]);
	return target->family == AF_INET6 && !is_v4mapped(target->daddr[0], target->daddr[1], target->daddr[2]);
}

static __always_inline int walk(struct skreap_walk *ctx)
{
	__u32 slot = ctx->slot, ci = slot + 1, flags = ctx->flags;
	struct peer target = {
		.daddr = {ctx->daddr[0], ctx->daddr[1], ctx->daddr[2], ctx->daddr[3]},
		.dport = ctx->dport,
		.family = ctx->family,
		.protocol = ctx->protocol,
	};
	int step, result = WALK_GO_ON;
	struct node *cursor = node_at(ci);
	struct walk_slot *w;
	__u64 key = 0;

	if (ctx->version != SKREAP_ABI_VERSION)
		return -EPROTO;
	if (slot >= SKREAP_WALK_SLOTS || !cursor)
		return -EINVAL;
	if (!(flags & SKREAP_WALK_ALL)) {
		/*
		 * A zero address or port would match sockets that are bound, listening or just
		 * closed.
		 */
		if (!target.dport || !(target.daddr[0] | target.daddr[1] | target.daddr[2] | target.daddr[3]))
			return -EINVAL;
		if (!target_is_sound(&target))
			return -EINVAL;
		key = key_of(&target);
	} else if (flags & SKREAP_WALK_DESTROY) {
		return -EINVAL;
	}
	if (flags & SKREAP_WALK_DESTROY && !can_destroy())
		return -EOPNOTSUPP;
	w = &walk_slots[slot];
	if (__sync_val_compare_and_swap(&w->busy, 0, 1))
		return -EBUSY;

	__builtin_memset(&w->n, 0, sizeof(w->n));
	frontend_walk_begin(slot);
	w->n.flags = flags;
	/*
	 * Read before and after the walk: a healing may link a node behind the walk and clear its
	 * bit.
	 */
	if (!(flags & SKREAP_WALK_ALL))
		w->n.incomplete = incomplete_reasons(key, flags & SKREAP_WALK_UNCONNECTED);
	w->n.states = ctx->states;
	w->emitted = 0;
	w->tried = 0;
	cursor->tag = NODE_CURSOR;
	if (!(flags & SKREAP_WALK_RESUME)) {
		cursor_leave(w, cursor);
		w->position = 0;
	}
	bpf_for(step, 0, WALK_STEPS_MAX) {
		if (!w->linked)
			result = cursor_enter(w, ci, cursor, key);
		if (result == WALK_GO_ON)
			result = walk_step(slot, &target, key);
		if (result != WALK_GO_ON)
			break;
	}
	ctx->emitted = w->emitted;
	ctx->more = result != WALK_DONE;
	ctx->incomplete = w->n.incomplete;
	if (!(flags & SKREAP_WALK_ALL))
		ctx->incomplete |= incomplete_reasons(key, flags & SKREAP_WALK_UNCONNECTED);
	ctx->visited = w->n.visited;
	ctx->passed_over = w->n.passed_over;
	ctx->unconnected = w->n.unconnected;
	ctx->moved_on = w->n.moved_on;
	ctx->no_peer = w->n.no_peer;
	ctx->state = w->n.state;
	ctx->stale = w->n.stale;
	ctx->destroyed = w->n.destroyed;
	ctx->gone = w->n.gone;
	__sync_lock_test_and_set(&w->busy, 0);
	return 0;
}

#endif
