/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * References to the recorded sockets, for a walk that destroys them itself.  Only with a kernel that
 * has the functions, or with the kernel module, see docs/kfunc.md.  Without both `refs_enabled()` is a
 * constant false, and none of this is in the loaded programs.
 *
 * Global data cannot hold a reference, so the reference of node i is in element i of a map beside
 * the pool.  Only bpf_kptr_xchg() exchanges it, and no lock may be held for that call.  The
 * reference is also the *token* of its node:
 *
 * - A node with NODE_HAS_REF has exactly one token: in the map, or held by one program.
 * - Only the holder of the token frees the node.  A program that unlinks the node without holding
 *   the token marks it NODE_DEAD (under the shard's lock) and then reaps it.
 * - A program that returns a token also reaps the node: if it is dead and the token still in the
 *   map, it takes the token again, drops the reference, and frees the node.
 *
 * The unlinker sets NODE_DEAD before its exchange; the returner tests NODE_DEAD after its exchange.
 * So exactly one of them frees the node.  No free node has a reference, and no reference of an old
 * socket is ever found at a reused node.  An empty map element means that another program holds the
 * token.
 */
#ifndef SKREAP_SOCKREF_BPF_H
#define SKREAP_SOCKREF_BPF_H

struct sockref {
	struct skreap_sock __kptr *sock;
};

/* The same reference, with the type that the kernel's own functions take. Only the verifier sees a difference. */
struct kernel_sockref {
	struct bpf_sock_ref __kptr *sock;
};

/* That of cfg_refs is resized before load to cfg_nodes, the other is not used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sockref);
} refs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kernel_sockref);
} kernel_refs SEC(".maps");

/*
 * True if nodes have references.  The verifier knows the values of these, and removes the code that
 * they exclude.  The functions of an index that is taken over may be gone.
 */
static __always_inline bool refs_of_kernel(void)
{
	return cfg_refs == SKREAP_REFS_KERNEL && bpf_ksym_exists(bpf_sock_acquire) && bpf_ksym_exists(bpf_sock_release);
}

static __always_inline bool refs_of_module(void)
{
	return cfg_refs == SKREAP_REFS_MODULE && bpf_ksym_exists(skreap_sock_acquire_v1) &&
	       bpf_ksym_exists(skreap_sock_release_v1);
}

/* Asks first what is so nearly everywhere: the verifier goes through each question, every time. */
static __always_inline bool refs_enabled(void)
{
	return cfg_refs != SKREAP_REFS_NONE && (refs_of_module() || refs_of_kernel());
}

/* A walk can destroy sockets. */
static __always_inline bool can_destroy(void)
{
	if (cfg_refs == SKREAP_REFS_NONE)
		return false;
	if (refs_of_kernel())
		return bpf_ksym_exists(bpf_sock_destroy_peer_might_sleep);
	return refs_of_module() && bpf_ksym_exists(skreap_sock_try_destroy_v1);
}

/* The three functions, whose ever they are.  Only where refs_enabled(). */
static __always_inline struct skreap_sock *sockref_acquire(struct sock_common *skc)
{
	if (refs_of_kernel())
		return (struct skreap_sock *)bpf_sock_acquire(skc);
	return skreap_sock_acquire_v1(skc);
}

static __always_inline void sockref_release(struct skreap_sock *sock)
{
	if (refs_of_kernel())
		bpf_sock_release((struct bpf_sock_ref *)sock);
	else
		skreap_sock_release_v1(sock);
}

static __always_inline int sockref_try_destroy(struct skreap_sock *sock, const struct skreap_peer *peer)
{
	if (refs_of_kernel())
		return bpf_sock_destroy_peer_might_sleep((struct bpf_sock_ref *)sock, peer, SKREAP_DESTROY_NOWAIT);
	return skreap_sock_try_destroy_v1(sock, peer);
}

static __always_inline struct sockref *sockref_at(__u32 i)
{
	if (refs_of_kernel())
		return bpf_map_lookup_elem(&kernel_refs, &i);
	return bpf_map_lookup_elem(&refs, &i);
}

static __always_inline bool node_is_dead(const struct node *n)
{
	return *(const volatile __u32 *)&n->tag == NODE_DEAD;
}

/* Frees a dead node; the caller holds its token, and drops the reference.  No lock held. */
static __always_inline void node_bury(__u32 i, struct node *n)
{
	struct shard *s = shard_at(shard_of(n->cookie));
	__u32 surplus;

	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	surplus = node_free_locked(s, i, n);
	bpf_spin_unlock(&s->lock);
	if (surplus)
		depot_give(surplus);
}

/*
 * If the node is dead and its token is in the map: drops the reference and frees the node.  No lock
 * held.  Other programs may have freed and reused the node meanwhile, so it is checked again while
 * holding the token.
 *
 * This and other functions are global (not static) so that the verifier checks them once, and not
 * once for each path that leads to them.
 */
__noinline int sockref_reap(__u32 i)
{
	struct sockref *h = sockref_at(i);
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
			sockref_release(sock);
			return 1;
		}
		sock = bpf_kptr_xchg(&h->sock, sock);
		if (sock)
			sockref_release(sock);
	}
	return 0;
}

/* Puts a token (back) to its node.  No lock held. */
static __always_inline void sockref_put(__u32 i, struct skreap_sock *sock)
{
	struct sockref *h = sockref_at(i);
	struct node *n = node_at(i);

	if (!h || !n) {
		sockref_release(sock);
		return;
	}
	sock = bpf_kptr_xchg(&h->sock, sock);
	/* There is only one token, so the place was empty. */
	if (sock)
		sockref_release(sock);
	if (node_is_dead(n))
		sockref_reap(i);
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
 * Destroys the socket of the node if it is connected to the peer (see sockref_try_destroy).
 * EBUSY if the lock of the socket is taken, or another program holds the reference: no walk waits
 * for either.  Further errors: those of that function, and ENODATA if the node has no reference.
 */
__noinline int sockref_destroy(__u32 i, __u64 cookie, const struct peer *peer)
{
	struct sockref *h = sockref_at(i);
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
		err = sockref_try_destroy(sock, (const struct skreap_peer *)peer);
	sockref_put(i, sock);
	return err;
}

#endif
