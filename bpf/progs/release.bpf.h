/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* The end of a socket: cgroup/sock_release takes its nodes out of the index. */
#ifndef SKREAP_RELEASE_BPF_H
#define SKREAP_RELEASE_BPF_H

static __always_inline void count_release_without_node(void)
{
	__sync_fetch_and_add(&cpu_counters[bpf_get_smp_processor_id() % MAX_CPUS].releases_without_node, 1);
}

/* The common case, a socket with one node: its token is taken first, so that one lock does for the rest. */
static __always_inline bool release_single_ref(struct shard *s, __u32 *record, __u64 cookie)
{
	__u32 i = *(volatile __u32 *)record, surplus = 0;
	struct node *n = node_at(i);
	struct skreap_sock *sock;
	bool done = false;
	struct sockref *h;

	if (!n || n->cookie != cookie || (n->tag & (NODE_HAS_REF | NODE_MULTI)) != NODE_HAS_REF)
		return false;
	h = sockref_at(i);
	if (!h)
		return false;
	sock = bpf_kptr_xchg(&h->sock, NULL);
	if (!sock)
		return false;
	bpf_spin_lock(&s->lock);
	if (*record == i && n->cookie == cookie) {
		*record = n->rnext;
		surplus = node_drop_locked(s, shard_of(cookie), i, n);
		s->n.releases++;
		done = true;
	}
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
	if (done)
		sockref_release(sock);
	else
		sockref_put(i, sock);
	return done;
}

/* record_release() where nodes have tokens */
__noinline int release_with_refs(__u64 cookie)
{
	struct membership m = {.cookie = cookie};
	struct shard *s = shard_at(shard_of(cookie));
	__u32 *record = record_at(cookie);

	if (!s || !record)
		return 0;
	if (release_single_ref(s, record, cookie))
		return 0;
	if (!record_forget(&m, DROP_ALL)) {
		count_release_without_node();
		return 0;
	}
	bpf_spin_lock(&s->lock);
	s->n.releases++;
	bpf_spin_unlock(&s->lock);
	return 0;
}

static __always_inline void record_release(const struct sock *sk)
{
	struct membership m = {.cookie = sock_cookie(sk)};
	__u32 *record, surplus, shard, i;
	struct shard *s;
	struct node *n;
	__u64 before;

	if (!m.cookie) {
		__sync_fetch_and_add(&cpu_counters[bpf_get_smp_processor_id() % MAX_CPUS].releases_without_cookie,
				     1);
		return;
	}
	shard = shard_of(m.cookie);
	record = record_at(m.cookie);
	s = shard_at(shard);
	if (!record || !s)
		return;
	/* Without the lock: what this socket has recorded was recorded before the last reference went. */
	if (!*(volatile __u32 *)record) {
		count_release_without_node();
		return;
	}
	if (refs_enabled()) {
		release_with_refs(m.cookie);
		return;
	}
	bpf_spin_lock(&s->lock);
	before = s->n.removals;
	i = *record;
	n = node_at(i);
	if (n && n->cookie == m.cookie && !(n->tag & NODE_MULTI)) {
		*record = n->rnext;
		surplus = node_drop_locked(s, shard, i, n);
	} else {
		surplus = record_drop_locked(s, record, &m, DROP_ALL);
	}
	before = s->n.removals - before;
	if (before)
		s->n.releases++;
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
	if (!before)
		count_release_without_node();
}

#endif
