/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Connects under way: sockets that a connect() has recorded under the target, and that are not connected to it.
 *
 * The hooks run before the connect has happened, so a walk may meet a node whose socket gets its peer a moment
 * later.  From outside it looks like what a failed connect, a destroy or a reconnect leaves behind, and such a
 * node stays until its socket is closed.  Time tells the two apart: an event that meets one watches it, looks
 * again for a while, and settles it if nothing has come of it.  The next connect() to that backend takes both
 * marks away again, so a settled node is one whose connect began before the watch did and had no effect in the
 * time of the wait.
 *
 * The node of a wide socket stands for all its peers: if the socket has ever called connect(), it may be connecting
 * to any target.  It is watched and settled once for all of them, and every connect() takes the marks away.
 */
#ifndef SKREAP_PENDING_BPF_H
#define SKREAP_PENDING_BPF_H

/* What a socket is to the target, if a connect() to it may be under way */
static __always_inline bool may_be_in_flight(const struct skreap_victim *v, __u32 rel, __u32 tag)
{
	if (!(tag & NODE_CONNECT) || tag & NODE_SETTLED)
		return false;
	/* TCP sets the peer before the state. */
	if (rel == SKREAP_CONNECTED)
		return v->protocol == IPPROTO_TCP && v->state == TCP_CLOSE;
	/* A TCP socket with another peer cannot be connected; a UDP socket can. */
	return rel != SKREAP_MOVED_ON || v->protocol == IPPROTO_UDP;
}

/* Changes the marks of a node, if it still is this socket's.  No lock held. */
static __always_inline void pending_mark(struct shard *s, __u32 i, __u64 cookie, __u64 key, __u32 flags)
{
	struct node *n = node_at(i);

	if (!n || !(flags & (SKREAP_WALK_WATCH | SKREAP_WALK_SETTLE)))
		return;
	bpf_spin_lock(&s->lock);
	if (n->cookie == cookie && (n->key == key || n->tag & NODE_WIDE) && n->tag & NODE_CONNECT) {
		if (flags & SKREAP_WALK_WATCH)
			n->tag |= NODE_WATCHED;
		else if (n->tag & NODE_WATCHED)
			n->tag |= NODE_SETTLED;
	}
	bpf_spin_unlock(&s->lock);
}

#endif
