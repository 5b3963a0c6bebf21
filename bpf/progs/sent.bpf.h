/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * How a socket has been recorded: by connect(), or by a send to an address.
 *
 * A destroyed socket that its owner goes on to use with sendto() must not be given a peer: it would then hear nobody
 * else.  Its record shows the sends.
 */
#ifndef SKREAP_SENT_BPF_H
#define SKREAP_SENT_BPF_H

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct skreap_sent sent_type;

struct sent_nodes {
	__u64 sk;
	__u32 count;
	bool ipv4;  /* has sent to an IPv4 address that it was connected to */
	bool other; /* has sent to any other address, or to too many to tell */
};

/* The caller holds the lock. */
static __noinline int sent_search(const __u32 *record, const struct membership *m, struct sent_nodes *found)
{
	__u32 i, step;

	if (!record || !m || !found)
		return 0;
	found->sk = 0;
	found->count = loop_zero();
	found->ipv4 = found->other = false;
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
		if (n->tag & NODE_WILDCARD)
			found->other = true;
		if (!(n->tag & NODE_SENDMSG))
			continue;
		if ((n->tag & (NODE_CONNECT | NODE_IPV6)) == NODE_CONNECT)
			found->ipv4 = true;
		else
			found->other = true;
	}
	return 0;
}

static __always_inline int sent(struct skreap_sent *ctx)
{
	struct membership m = {.cookie = ctx->cookie};
	__u32 *record = record_at(m.cookie);
	struct shard *s = shard_at(shard_of(m.cookie));
	struct sent_nodes found;
	bool mapped = false;

	if (ctx->version != SKREAP_ABI_VERSION)
		return -EPROTO;
	if (!m.cookie || !record || !s)
		return -EINVAL;
	/* The RCU section is opened before the lock, see index.bpf.h */
	bpf_rcu_read_lock();
	bpf_spin_lock(&s->lock);
	sent_search(record, &m, &found);
	bpf_spin_unlock(&s->lock);
	/* Each datagram of an IPv6 socket to its IPv4 peer has come to the hooks as one to an address. */
	if (found.count)
		mapped = sock_of((void *)found.sk)->__sk_common.skc_family == AF_INET6;
	bpf_rcu_read_unlock();
	ctx->nodes = found.count;
	ctx->sent = found.other || (found.ipv4 && !mapped);
	return 0;
}

#endif
