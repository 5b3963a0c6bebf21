/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Pending connects: sockets that connect() has recorded under the target, and that are not
 * connected to it.
 *
 * The hooks run before the connect takes effect, so a walk may visit a node whose socket gets its
 * peer a moment later.  It looks like the leftover of a failed connect, a destroy or a reconnect,
 * and such a node stays until its socket is closed.  Only time distinguishes the two: an event that
 * finds such a node watches it, checks again for a while, and lets it expire if the connect has had
 * no effect.  The next connect() to that backend clears both bits.  So an expired node is one whose
 * connect began before the watch and had no effect during the wait.
 *
 * The node of a wildcard socket stands for all its peers: if the socket has ever called connect(), it
 * may be connecting to any target.  It is watched and expires once for all of them, and every
 * connect() clears the bits.
 */
#ifndef SKREAP_PENDING_BPF_H
#define SKREAP_PENDING_BPF_H

/* True if a connect() of the socket to the target may be pending */
static __always_inline bool may_be_pending(const struct skreap_victim *v, __u32 rel, __u32 tag)
{
	if (!(tag & NODE_CONNECT) || tag & NODE_EXPIRED)
		return false;
	/* TCP sets the peer before the state. */
	if (rel == SKREAP_CONNECTED)
		return v->protocol == IPPROTO_TCP && v->state == TCP_CLOSE;
	/* A TCP socket with another peer cannot be connected; a UDP socket can. */
	return rel != SKREAP_MOVED_ON || v->protocol == IPPROTO_UDP;
}

/* Changes the bits of a node, if it is still this socket's.  No lock held. */
static __always_inline void pending_update(struct shard *s, __u32 i, __u64 cookie, __u64 key, __u32 flags)
{
	struct node *n = node_at(i);

	if (!n || !(flags & (SKREAP_WALK_WATCH | SKREAP_WALK_EXPIRE)))
		return;
	bpf_spin_lock(&s->lock);
	if (n->cookie == cookie && (n->key == key || n->tag & NODE_WILDCARD) && n->tag & NODE_CONNECT) {
		if (flags & SKREAP_WALK_WATCH)
			n->tag |= NODE_WATCHED;
		else if (n->tag & NODE_WATCHED)
			n->tag |= NODE_EXPIRED;
	}
	bpf_spin_unlock(&s->lock);
}

#endif
