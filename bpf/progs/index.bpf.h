/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The index: nodes in buckets, all of it split into shards.
 *
 *   shard (one spin lock)                      pool (global data, linked by u32)
 *     records[slot]  ──► node ─ rnext ─► node    nodes whose sockets share a record slot
 *     buckets[key]   ──► node ◄─ next/prev ─►    nodes of the backends that share a bucket
 *     free nodes     ──► node ─ next ─► …        refilled from the depot, 64 at a time
 *
 * A socket belongs to one shard for life, chosen by its cookie.  The kernel hands out cookies to
 * each CPU 4096 at a time, so cookie / 4096 keeps the sockets that one CPU creates together, and
 * two CPUs seldom share a lock or a cache line.  A walk visits the bucket of its key in every
 * shard.
 *
 * Lock rules
 * - Everything that belongs to a shard is accessed under its lock.  One lock is enough for any
 *   change: the record of a socket, its nodes, their buckets and the free nodes are of the same
 *   shard.
 * - No second lock and no helper is used under it (the verifier allows neither).  Therefore all
 *   helper results are gathered before, and the depot's own lock is taken only while no other is
 *   held.
 * - The lock disables interrupts: no hook can interrupt another one inside it.
 *
 * The socket of a linked node has not passed cgroup/sock_release, or is not further in its close
 * (see bootstrap.bpf.h).  A program that sees the node linked inside an RCU read section may read
 * its socket until the end of that section.
 */
#ifndef SKREAP_INDEX_BPF_H
#define SKREAP_INDEX_BPF_H

#define CHUNK 64u /* nodes that move between shard and depot together */
#define CURSORS SKREAP_WALK_SLOTS /* nodes 1 .. CURSORS are the cursors, never in a free list */

/* node.tag: the kind of the node, and the thread that recorded it */
#define NODE_TID 0x003fffffu /* thread that called connect(); PID_MAX_LIMIT is 2^22 */
#define NODE_CONNECT 0x00400000u /* recorded by connect() */
#define NODE_SENDMSG 0x00800000u /* recorded by sendmsg() */
#define NODE_IPV6 0x01000000u
#define NODE_WILDCARD 0x02000000u /* stands for a socket with too many peers to list */
#define NODE_CURSOR 0x04000000u
#define NODE_MULTI 0x08000000u /* its socket has, or had, other nodes as well */
#define NODE_REKEYED 0x10000000u /* recorded by a re-key, see rekey.bpf.h */
#define NODE_HAS_REF 0x20000000u /* has a token, see sockref.bpf.h */
#define NODE_DEAD NODE_HAS_REF   /* nothing else: unlinked, becomes free with its token */
#define NODE_WATCHED 0x40000000u /* see pending.bpf.h */
#define NODE_EXPIRED 0x80000000u
#define NODE_SOCKET (NODE_CONNECT | NODE_SENDMSG | NODE_WILDCARD | NODE_REKEYED)

struct node {
	__u64 sk; /* struct sock *, never dereferenced without the rules above */
	__u64 cookie;
	__u64 key;
	__u32 next, prev; /* bucket; while free: next free node, and in the depot the next chunk */
	__u32 rnext;	  /* record slot */
	__u32 tag;
#ifdef SKREAP_FRONTENDS
	__u32 frontend; /* enum skreap_frontend_id */
	__u32 epoch;	/* of its record, see frontend.bpf.h */
#endif
};

/*
 * Two CPUs usually work on neighbouring shards, and an array map has no particular alignment.  The
 * distance keeps their locks on separate cache lines (and prefetched pairs of lines).
 */
struct shard {
	struct bpf_spin_lock lock;
	__u32 free;	/* current magazine */
	__u32 nr_free;	/* its length */
	__u32 spare;	/* a full magazine of CHUNK nodes, or nil */
	struct skreap_shard_counters n;
	__u64 wildcards; /* times that the nodes of a socket made room for one that stands for all its peers */
	__u64 padding[26];
};
_Static_assert(sizeof(struct shard) == 256, "see above");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shard);
} shards SEC(".maps");

struct depot {
	struct bpf_spin_lock lock;
	__u32 first; /* first node of the first chunk; chunks are linked by its prev */
	__u32 chunks;
	__u32 initialised;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct depot);
} depots SEC(".maps");

/* Resized before load to cfg_nodes, cfg_all_records and cfg_all_buckets. */
struct node pool[1] SEC(".bss.pool");
__u32 records[1] SEC(".bss.records");
__u32 buckets[1] SEC(".bss.buckets");

/*
 * The verifier applies a bounds check only to the register that is used afterwards.  Two barriers
 * keep clang from checking a copy and from computing the address before the check.
 */
static __always_inline struct node *node_at(__u32 i)
{
	barrier_var(i);
	if (i == 0 || i >= cfg_nodes)
		return NULL;
	barrier_var(i);
	return &pool[i];
}

static __always_inline __u32 shard_of(__u64 cookie)
{
	return (__u32)(cookie >> 12) & (cfg_shards - 1);
}

static __always_inline struct shard *shard_at(__u32 shard)
{
	return bpf_map_lookup_elem(&shards, &shard);
}

static __always_inline __u32 *bucket_at(__u32 shard, __u32 bucket)
{
	__u32 i = shard * (cfg_buckets + 1) + bucket;

	barrier_var(i);
	if (i >= cfg_all_buckets)
		return NULL;
	barrier_var(i);
	return &buckets[i];
}

static __always_inline __u32 bucket_of(__u64 key)
{
	return (__u32)key & (cfg_buckets - 1);
}

/* The bucket after the last: wildcard sockets, which every walk visits */
static __always_inline __u32 bucket_wildcard(void)
{
	return cfg_buckets;
}

static __always_inline __u32 bucket_of_node(const struct node *n)
{
	return n->tag & NODE_WILDCARD ? bucket_wildcard() : bucket_of(n->key);
}

/* ---- records ---- */

/* Longest record chain that is followed under the lock.  The seed keeps anyone from building one. */
#define CHAIN_MAX 65536

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

/* ---- buckets; the caller holds the shard's lock ---- */

static __always_inline void bucket_link_locked(__u32 *first, __u32 i, struct node *n)
{
	struct node *old = node_at(*first);

	n->prev = 0;
	n->next = *first;
	if (old)
		old->prev = i;
	*first = i;
}

static __always_inline void bucket_unlink_locked(__u32 *first, struct node *n)
{
	struct node *prev = node_at(n->prev), *next = node_at(n->next);

	/*
	 * The barriers keep clang from merging the two stores into one instruction on two kinds of
	 * pointer.
	 */
	if (prev) {
		prev->next = n->next;
		barrier();
	} else {
		*first = n->next;
		barrier();
	}
	if (next)
		next->prev = n->prev;
}

/* p <-> cursor <-> x <-> y  becomes  p <-> x <-> cursor <-> y */
static __always_inline void bucket_advance_locked(__u32 *first, __u32 ci, struct node *cursor, struct node *x)
{
	__u32 xi = cursor->next, yi = x->next, pi = cursor->prev;
	struct node *p = node_at(pi), *y = node_at(yi);

	if (p) {
		p->next = xi;
		barrier();
	} else {
		*first = xi;
		barrier();
	}
	x->prev = pi;
	x->next = ci;
	cursor->prev = xi;
	cursor->next = yi;
	if (y)
		y->prev = ci;
}

/* ---- free nodes ---- */

/* The caller holds the shard's lock.  0: this shard has none. */
static __always_inline __u32 node_alloc_locked(struct shard *s)
{
	__u32 i = s->free;
	struct node *n;

	if (!i) {
		i = s->spare;
		s->spare = 0;
		s->nr_free = CHUNK;
	}
	n = node_at(i);
	if (!n) {
		s->nr_free = 0;
		return 0;
	}
	s->free = n->next;
	s->nr_free--;
	return i;
}

/*
 * The caller holds the shard's lock.  After unlocking it gives the returned chunk to the depot.
 * With one shard no other shard needs the nodes: its magazine is the whole pool.
 */
static __always_inline __u32 node_free_locked(struct shard *s, __u32 i, struct node *n)
{
	__u32 surplus = 0;

	n->tag = 0;
	n->next = s->free;
	s->free = i;
	if (++s->nr_free >= CHUNK && cfg_shards > 1) {
		surplus = s->spare;
		s->spare = s->free;
		s->free = 0;
		s->nr_free = 0;
	}
	return surplus;
}

/* No lock held.  The first node of a chunk, or 0. */
static __always_inline __u32 depot_take(void)
{
	__u32 zero = 0, i;
	struct depot *d = bpf_map_lookup_elem(&depots, &zero);
	struct node *n;

	if (!d)
		return 0;
	bpf_spin_lock(&d->lock);
	i = d->first;
	n = node_at(i);
	if (n) {
		d->first = n->prev;
		d->chunks--;
	}
	bpf_spin_unlock(&d->lock);
	return n ? i : 0;
}

/* No lock held. */
static __always_inline void depot_give(__u32 chunk)
{
	struct node *n = node_at(chunk);
	__u32 zero = 0;
	struct depot *d = bpf_map_lookup_elem(&depots, &zero);

	if (!n || !d)
		return;
	bpf_spin_lock(&d->lock);
	n->prev = d->first;
	d->first = chunk;
	d->chunks++;
	bpf_spin_unlock(&d->lock);
}

/*
 * A program that is preempted after a refill may find the nodes taken by others, and tries again.
 */
#define REFILLS_MAX 4

/*
 * Gives a shard without free nodes a chunk of the depot.  No lock held.  False: the depot has none.
 * A global function: the verifier checks it once, and not on every path that leads here.
 */
__noinline int shard_refill(__u32 shard)
{
	struct shard *s = shard_at(shard);
	__u32 chunk;

	if (!s)
		return false;
	chunk = depot_take();
	if (!chunk)
		return false;
	bpf_spin_lock(&s->lock);
	/*
	 * Another program may have filled it meanwhile.  Never the current magazine: node_free_locked()
	 * relies on room in it.
	 */
	if (!s->spare) {
		s->spare = chunk;
		chunk = 0;
	}
	bpf_spin_unlock(&s->lock);
	if (chunk)
		depot_give(chunk);
	return true;
}

/* Links a free node to the next one of its list. */
static __always_inline void node_init(__u32 i, __u32 first)
{
	struct node *n = node_at(i);

	if (!n)
		return;
	if (cfg_shards == 1) {
		n->next = i + 1 == cfg_nodes ? 0 : i + 1;
		return;
	}
	/* whole chunks only: user space sizes the pool accordingly */
	n->next = (i - first) % CHUNK == CHUNK - 1 ? 0 : i + 1;
	if ((i - first) % CHUNK == 0)
		n->prev = i + CHUNK < cfg_nodes ? i + CHUNK : 0;
}

/* bpf_for does nothing where it should count above 2^23. */
#define INIT_BLOCK (1u << 16)

/* Makes every node free.  Runs once, before the hooks are attached. */
static __always_inline int index_init(void)
{
	__u32 zero = 0, first = CURSORS + 1, block, i;
	struct depot *d = bpf_map_lookup_elem(&depots, &zero);
	struct shard *s = shard_at(0);

	if (!d || !s || d->initialised)
		return -EBUSY;
	d->initialised = 1;
	bpf_for(block, 0, cfg_nodes / INIT_BLOCK + 1) {
		bpf_for(i, first + block * INIT_BLOCK, first + (block + 1) * INIT_BLOCK)
			node_init(i, first);
	}
	if (cfg_nodes <= first)
		return 0;
	if (cfg_shards == 1) {
		s->free = first;
		s->nr_free = cfg_nodes - first;
	} else {
		d->first = first;
		d->chunks = (cfg_nodes - first) / CHUNK;
	}
	return 0;
}

#endif
