/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * References to the recorded sockets, for a walk that destroys them itself.  Only with the kernel module, see
 * docs/kfunc.md; without it `holding()` is a constant false, and nothing of this is in the loaded programs.
 *
 * A reference cannot be kept in global data, so that of node i is in element i of a map beside the pool.  It is
 * put in and taken out by bpf_kptr_xchg() only, which no lock may be held for.  What keeps node and reference
 * together is that the reference is also the *token* of its node:
 *
 * - A node with NODE_HELD has exactly one token: in the map, or in the hands of one program.
 * - Only who has the token in hand frees the node.  Who unlinks it without marks it NODE_DEAD (under the
 *   shard's lock) and then settles it.
 * - Who puts a token back settles the node too: if it is dead and the token still there, it is taken again, the
 *   reference is dropped, and the node becomes free.
 *
 * Marking comes before the exchange of the one, and looking after the exchange of the other, so one of the two
 * always frees the node, and never both.  No free node has a reference, no reference of an old socket is ever
 * found at a node that was used again, and whoever finds the map empty knows that somebody else is at it.
 */
#ifndef SKREAP_HELD_BPF_H
#define SKREAP_HELD_BPF_H

struct held {
	struct skreap_sock __kptr *sock;
};

/* Resized before load to cfg_nodes if references are to be held. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held);
} held SEC(".maps");

/* Nodes have references.  The verifier knows the answer, and what it excludes. */
static __always_inline bool holding(void)
{
	return cfg_held && bpf_ksym_exists(skreap_sock_acquire_v1) && bpf_ksym_exists(skreap_sock_release_v1);
}

/* A walk can destroy sockets. */
static __always_inline bool can_destroy(void)
{
	return holding() && bpf_ksym_exists(skreap_sock_try_destroy_v1);
}

static __always_inline struct held *held_at(__u32 i)
{
	return bpf_map_lookup_elem(&held, &i);
}

static __always_inline bool node_is_dead(const struct node *n)
{
	return *(const volatile __u32 *)&n->tag == NODE_DEAD;
}

/* Frees a dead node; the caller has its token in hand, and drops the reference. No lock held. */
static __always_inline void node_bury(__u32 i, struct node *n)
{
	struct shard *s = shard_at(shard_of(n->cookie));
	__u32 surplus;

	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	surplus = node_free(s, i, n);
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
}

/*
 * If the node is dead and its token is in the map: drops the reference and frees the node.  No lock held.  The
 * node may have been freed and used again by others meanwhile, so it is looked at again with the token in hand.
 *
 * This and other functions are global (not static) so that the verifier looks at them once, and not once for
 * each way that leads to them.
 */
__noinline int held_settle(__u32 i)
{
	struct held *h = held_at(i);
	struct node *n = node_at(i);
	struct skreap_sock *sock;
	__u32 attempt;

	if (!h || !n)
		return 0;
	bpf_for(attempt, 0, CHUNK) {
		if (!node_is_dead(n))
			return 0;
		sock = bpf_kptr_xchg(&h->sock, NULL);
		if (!sock)
			return 0;
		if (node_is_dead(n)) {
			node_bury(i, n);
			skreap_sock_release_v1(sock);
			return 1;
		}
		sock = bpf_kptr_xchg(&h->sock, sock);
		if (sock)
			skreap_sock_release_v1(sock);
	}
	return 0;
}

/* Puts a token (back) to its node.  No lock held. */
static __always_inline void held_put(__u32 i, struct skreap_sock *sock)
{
	struct held *h = held_at(i);
	struct node *n = node_at(i);

	if (!h || !n) {
		skreap_sock_release_v1(sock);
		return;
	}
	sock = bpf_kptr_xchg(&h->sock, sock);
	/* There is only one token, so the place was empty. */
	if (sock)
		skreap_sock_release_v1(sock);
	if (node_is_dead(n))
		held_settle(i);
}

/* True if the node is still that of this socket. */
static __always_inline bool node_belongs(struct shard *s, struct node *n, __u64 cookie)
{
	bool belongs;

	bpf_spin_lock(&s->lock);
	belongs = n->cookie == cookie && n->tag & NODE_SOCKET;
	bpf_spin_unlock(&s->lock);
	return belongs;
}

/*
 * Destroys the socket of the node if it is connected to the peer (see skreap_sock_try_destroy_v1).  EBUSY if
 * somebody has the lock of the socket, or another program the reference in hand: no walk waits for either.
 * Besides the other errors of that: ENODATA if the node has no reference.
 */
__noinline int held_destroy(__u32 i, __u64 cookie, const struct peer *peer)
{
	struct held *h = held_at(i);
	struct node *n = node_at(i);
	struct shard *s = shard_at(shard_of(cookie));
	struct skreap_sock *sock;
	int err = -ENOENT;

	if (!s || !h || !n || !peer)
		return -ENODATA;
	sock = bpf_kptr_xchg(&h->sock, NULL);
	if (!sock)
		return node_belongs(s, n, cookie) ? -EBUSY : -ENOENT;
	/* The socket may have been closed, and the node be another's by now. */
	if (sock_cookie(sock_of(sock)) == cookie)
		err = skreap_sock_try_destroy_v1(sock, (const struct skreap_peer *)peer);
	held_put(i, sock);
	return err;
}

#endif
