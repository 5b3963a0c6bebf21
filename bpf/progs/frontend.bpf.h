/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Frontends: the address that the owner of a socket named, before a load balancer translated it.
 *
 * A program that runs before all others of a hook (the *first* program) notes the address.  The
 * recording program, which runs after all others (the *last*), takes the note and compares:
 *
 * - the same address: SKREAP_FRONTEND_DIRECT, nothing was translated;
 * - another: the id of the frontend, from a table of distinct addresses;
 * - no note of this call, or no room in the table: SKREAP_FRONTEND_UNKNOWN, and counted.
 *
 * The hand-over.  All programs of one call run on one CPU, so each CPU has a place for a note.
 * Another task may run there in between and overwrite it.  A note therefore names the socket and the
 * task, and only a call of exactly these takes it.  A task is in one call at a time, and each call
 * begins with the first program, which overwrites what an earlier one may have left.  A program that
 * runs for a task can be preempted by another one that uses the same place: a note is written, and is
 * compared and copied, without preemption, so it is always that of one call.
 *
 * Trust.  What the last program takes is right only if nothing translates before the first one.  User
 * space watches the order, and keeps `epoch`: 0 while the order is wrong or not known; only
 * SKREAP_FRONTEND_UNKNOWN is recorded then.  Each look that finds the order right raises it.  A node
 * keeps the epoch of its record.  When the order turns out to have changed since the last look, a walk
 * (SKREAP_WALK_FORGET) makes the frontends unknown that were recorded since.
 *
 * All of this is compiled into an object of its own (frontends.bpf.c).  In the object for services
 * without the option these are empty functions, which cost neither an instruction nor a byte.
 */
#ifndef SKREAP_FRONTEND_BPF_H
#define SKREAP_FRONTEND_BPF_H

#ifdef SKREAP_FRONTENDS

/* Elements of the table that are looked at for one frontend */
#define FRONTEND_PROBES 32u
/* A bit for each id */
#define FRONTEND_WORDS ((SKREAP_FRONTENDS_MAX + SKREAP_FRONTEND_FIRST + 31) / 32)

/* Distinct frontends: a power of two, set before load. */
const volatile __u32 cfg_frontends SEC(".rodata.front") = 1;

/* What the first program of a call leaves for the last one */
struct skreap_note {
	__u64 sk;
	__u64 task;
	__be32 daddr[4]; /* as the call has it: IPv4 in [0], or IPv6, maybe mapped */
	__be16 dport;
	__u8 family; /* of the hook */
	__u8 protocol;
} __attribute__((aligned(64)));

/* Element of the table of frontends.  Written once: the address after the key. */
struct skreap_frontend_entry {
	__u64 key; /* key_of() the address; 0: free */
	struct peer peer;
};
_Static_assert(sizeof(struct skreap_frontend_entry) == 32, "no hidden padding");

/* epoch is 0 while nothing is trusted */
struct skreap_frontend_state {
	__u32 epoch;
	__u32 last; /* epoch that was not 0 */
	__u32 used; /* elements of the table */
	__u32 padding;
	struct skreap_frontend_counters n;
};
_Static_assert(sizeof(struct skreap_frontend_state) == 40, "no hidden padding");

/* Which frontends a walk wants, and what it has passed for that */
struct skreap_frontend_filter {
	__u64 other;   /* skipped: of another frontend */
	__u64 unknown; /* skipped: of an unknown frontend */
	__u32 since;   /* with SKREAP_WALK_FORGET: epochs from this one on */
	__u32 bits[FRONTEND_WORDS]; /* by id */
};
_Static_assert(sizeof(struct skreap_frontend_filter) == 2 * 8 + 4 + 4 * FRONTEND_WORDS, "no hidden padding");

struct skreap_note notes[MAX_CPUS] SEC(".bss.notes");
struct skreap_frontend_state frontend_state SEC(".bss.frontstate");
struct skreap_frontend_filter frontend_filters[SKREAP_WALK_SLOTS] SEC(".bss.wanted");
/* Frontend of each emitted victim, at the index of the victim in emit */
__u32 emit_frontends[SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX] SEC(".bss.emitfront");
/* Resized before load to cfg_frontends. */
struct skreap_frontend_entry frontends[1] SEC(".bss.frontends");

/* Never read: puts the types, and so their Rust twins, into the BTF of the object. */
const volatile struct skreap_frontend frontend_type SEC(".rodata.front");
const volatile enum skreap_frontend_id frontend_id_type SEC(".rodata.front");

static __always_inline __u32 frontend_epoch(void)
{
	return *(volatile __u32 *)&frontend_state.epoch;
}

/* Since Linux 6.11; programs that tell which of them is the first have needed a later one. */
extern void bpf_preempt_disable(void) __ksym;
extern void bpf_preempt_enable(void) __ksym;

/* The place of this CPU; NULL: there are more CPUs than places, and this one has none. */
static __always_inline struct skreap_note *note_here(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	barrier_var(cpu);
	if (cpu >= MAX_CPUS)
		return NULL;
	barrier_var(cpu);
	return &notes[cpu];
}

static __always_inline struct skreap_frontend_filter *frontend_filter_at(__u32 slot)
{
	barrier_var(slot);
	if (slot >= SKREAP_WALK_SLOTS)
		return NULL;
	barrier_var(slot);
	return &frontend_filters[slot];
}

static __always_inline struct skreap_frontend_entry *frontend_at(__u32 i)
{
	barrier_var(i);
	if (i >= cfg_frontends)
		return NULL;
	barrier_var(i);
	return &frontends[i];
}

/*
 * The id of a frontend.  `add`: takes a free element for one that is not there.  Looks at
 * FRONTEND_PROBES elements at most, so a table that is nearly full may have no room for one.
 */
__noinline __u32 frontend_id(const struct peer *p, __u32 add)
{
	__u64 key;
	__u32 i, at;

	if (!p)
		return SKREAP_FRONTEND_UNKNOWN;
	key = key_of(p);
	/* No key of an address is 0, but for one in 2^64. */
	if (!key)
		return SKREAP_FRONTEND_UNKNOWN;
	bpf_for(i, 0, FRONTEND_PROBES) {
		struct skreap_frontend_entry *e;
		__u64 found;

		at = ((__u32)(key >> 32) + i) & (cfg_frontends - 1);
		e = frontend_at(at);
		if (!e)
			break;
		found = *(volatile __u64 *)&e->key;
		if (!found && add) {
			found = __sync_val_compare_and_swap(&e->key, 0, key);
			if (!found) {
				e->peer = *p;
				__sync_fetch_and_add(&frontend_state.used, 1);
				return SKREAP_FRONTEND_FIRST + at;
			}
		}
		if (found == key)
			return SKREAP_FRONTEND_FIRST + at;
		if (!found)
			return SKREAP_FRONTEND_UNKNOWN;
	}
	return SKREAP_FRONTEND_UNKNOWN;
}

/* The first program of a call: notes the address as the owner has named it. */
static __always_inline void frontend_note(struct bpf_sock_addr *ctx, __u8 family)
{
	/* volatile: clang would merge the loads into one with a computed context address */
	volatile struct bpf_sock_addr *c = ctx;
	struct skreap_note *note;

	bpf_preempt_disable();
	note = note_here();
	if (note) {
		note->sk = (__u64)ctx->sk;
		note->task = bpf_get_current_task();
		if (family == AF_INET) {
			note->daddr[0] = c->user_ip4;
		} else {
			note->daddr[0] = c->user_ip6[0];
			note->daddr[1] = c->user_ip6[1];
			note->daddr[2] = c->user_ip6[2];
			note->daddr[3] = c->user_ip6[3];
		}
		note->dport = c->user_port;
		note->family = family;
		note->protocol = c->protocol;
	}
	bpf_preempt_enable();
}

/* Takes the note of this call out of its place.  False: it has left none. */
static __always_inline bool note_take(struct bpf_sock_addr *ctx, __u8 family, struct skreap_note *taken)
{
	struct skreap_note *note;
	bool found;

	bpf_preempt_disable();
	note = note_here();
	found = note && note->sk == (__u64)ctx->sk && note->task == bpf_get_current_task() && note->family == family;
	if (found) {
		*taken = *note;
		note->sk = 0;
	}
	bpf_preempt_enable();
	return found;
}

/* The id of a noted address that was translated */
static __always_inline __u32 frontend_of_note(const struct skreap_note *note)
{
	struct peer p = {.dport = note->dport, .protocol = note->protocol, .family = AF_INET};
	__u32 id;

	p.daddr[0] = note->daddr[0];
	if (note->family != AF_INET) {
		if (is_v4mapped(note->daddr[0], note->daddr[1], note->daddr[2])) {
			p.daddr[0] = note->daddr[3];
		} else {
			p.daddr[1] = note->daddr[1];
			p.daddr[2] = note->daddr[2];
			p.daddr[3] = note->daddr[3];
			p.family = AF_INET6;
		}
	}
	/* A zero address is the caller's own, or loopback: it names no frontend. */
	if (!p.dport || !(p.daddr[0] | p.daddr[1] | p.daddr[2] | p.daddr[3]))
		return SKREAP_FRONTEND_UNKNOWN;
	id = frontend_id(&p, 1);
	if (id == SKREAP_FRONTEND_UNKNOWN)
		__sync_fetch_and_add(&frontend_state.n.table_full, 1);
	return id;
}

/*
 * The last program of a call: what has become of the address since the first one.  daddr: as it is
 * now, in the form of the note.
 */
static __always_inline __u32 frontend_take(struct bpf_sock_addr *ctx, __u8 family, const __be32 *daddr, __be16 dport)
{
	struct skreap_note note;
	bool same;

	if (!frontend_epoch()) {
		__sync_fetch_and_add(&frontend_state.n.not_first, 1);
		return SKREAP_FRONTEND_UNKNOWN;
	}
	if (!note_take(ctx, family, &note)) {
		__sync_fetch_and_add(&frontend_state.n.no_note, 1);
		return SKREAP_FRONTEND_UNKNOWN;
	}
	same = note.daddr[0] == daddr[0] && note.dport == dport;
	if (family != AF_INET)
		same = same && note.daddr[1] == daddr[1] && note.daddr[2] == daddr[2] && note.daddr[3] == daddr[3];
	return same ? SKREAP_FRONTEND_DIRECT : frontend_of_note(&note);
}

/* ---- nodes; the caller holds the shard's lock, except for frontend_known() ---- */

/*
 * The epoch may have become 0 since frontend_take() has looked at it: user space has seen a wrong order.  Which frontends it
 * has to forget then it knows by their epochs, and 0 is none of those.  So a node has a frontend only together with the epoch
 * that a walk finds it by; any later one that is not 0 does.
 */
static __always_inline void frontend_set(struct node *n, __u32 frontend)
{
	__u32 epoch = frontend_epoch();

	n->epoch = epoch;
	n->frontend = epoch ? frontend : SKREAP_FRONTEND_UNKNOWN;
}

/*
 * The membership is recorded once more.
 *
 * connect(): its frontend replaces the one before.  If another thread has connected the socket to this
 * backend, nobody can say which of the two is in force.  Nor if it is connected to it now (in_force): this
 * connect may fail, and then the old one stands.  found: no connect() of now; how the socket was
 * connected is not known.
 *
 * sendmsg(): a socket that is sent from through several frontends has none.  One that is connected
 * keeps that of its connect; IPv6 also passes its datagrams to an IPv4 peer here, under the peer's
 * address.
 */
static __always_inline void frontend_again(struct node *n, __u32 frontend, __u32 tag, bool found, bool in_force)
{
	if (tag & NODE_CONNECT) {
		if (found && n->tag & NODE_CONNECT)
			return;
		if (n->tag & NODE_CONNECT && n->frontend != frontend && (in_force || (n->tag ^ tag) & NODE_TID))
			frontend = SKREAP_FRONTEND_UNKNOWN;
	} else {
		if (n->tag & NODE_CONNECT)
			return;
		if (n->frontend != frontend)
			frontend = SKREAP_FRONTEND_UNKNOWN;
	}
	frontend_set(n, frontend);
}

/* True if frontend_again() would change nothing.  Without the lock, as record_known(). */
static __always_inline bool frontend_known(const struct node *n, __u32 frontend, __u32 tag)
{
	if (!(tag & NODE_CONNECT) && *(volatile __u32 *)&n->tag & NODE_CONNECT)
		return true;
	return *(volatile __u32 *)&n->frontend == frontend && *(volatile __u32 *)&n->epoch == frontend_epoch();
}

static __always_inline void frontend_forget(struct node *n)
{
	n->frontend = SKREAP_FRONTEND_UNKNOWN;
}

/* ---- walks ---- */

static __always_inline void frontend_walk_begin(__u32 slot)
{
	struct skreap_frontend_filter *f = frontend_filter_at(slot);

	if (f)
		f->other = f->unknown = 0;
}

/* Reads the frontend of a node, after forgetting it if that is asked for.  The caller holds the lock. */
static __always_inline __u32 frontend_of_node(struct node *n, __u32 slot, __u32 flags)
{
	struct skreap_frontend_filter *f = frontend_filter_at(slot);

	if (flags & SKREAP_WALK_FORGET && f && n->epoch && (__s32)(n->epoch - f->since) >= 0)
		frontend_forget(n);
	return n->frontend;
}

/*
 * The frontend of a socket in this relation to its backend.  A node keeps one frontend: that of
 * connect(), or if there was none that of sendmsg().
 */
static __always_inline __u32 frontend_for(__u32 frontend, __u32 relation, __u32 tag)
{
	if (relation == (tag & NODE_CONNECT ? SKREAP_CONNECTED : SKREAP_UNCONNECTED))
		return frontend;
	return SKREAP_FRONTEND_UNKNOWN;
}

/* False: a filter is set, and it wants no victims of this frontend. */
static __always_inline bool frontend_wanted(__u32 slot, __u32 flags, __u32 frontend)
{
	struct skreap_frontend_filter *f = frontend_filter_at(slot);
	__u32 word = frontend / 32;

	if (!(flags & SKREAP_WALK_FRONTENDS))
		return true;
	barrier_var(word);
	if (!f || word >= FRONTEND_WORDS)
		return false;
	barrier_var(word);
	if (f->bits[word] >> (frontend & 31) & 1)
		return true;
	if (frontend == SKREAP_FRONTEND_UNKNOWN)
		f->unknown++;
	else
		f->other++;
	return false;
}

static __always_inline void frontend_emit(__u32 slot, __u32 i, __u32 frontend)
{
	i += slot * SKREAP_EMIT_MAX;
	barrier_var(i);
	if (i >= SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX)
		return;
	barrier_var(i);
	emit_frontends[i] = frontend;
}

/* ---- what user space asks for ---- */

static __always_inline int frontend_filter_add(struct skreap_frontend_filter *f, __u32 id)
{
	__u32 word = id / 32;

	barrier_var(word);
	if (word >= FRONTEND_WORDS)
		return -EINVAL;
	barrier_var(word);
	f->bits[word] |= 1u << (id & 31);
	return 0;
}

static __always_inline int frontend_do(struct skreap_frontend *ctx)
{
	struct skreap_frontend_filter *f = frontend_filter_at(ctx->slot);
	struct peer p = {
		.daddr = {ctx->daddr[0], ctx->daddr[1], ctx->daddr[2], ctx->daddr[3]},
		.dport = ctx->dport,
		.family = ctx->family,
		.protocol = ctx->protocol,
	};
	__u32 i, id;

	if (ctx->version != SKREAP_ABI_VERSION)
		return -EPROTO;
	switch (ctx->op) {
	case SKREAP_FRONTEND_SET_EPOCH:
		*(volatile __u32 *)&frontend_state.epoch = ctx->value;
		if (ctx->value)
			frontend_state.last = ctx->value;
		return 0;
	case SKREAP_FRONTEND_FILTER_CLEAR:
		if (!f)
			return -EINVAL;
		f->since = ctx->value;
		bpf_for(i, 0, FRONTEND_WORDS) {
			__u32 word = i;

			barrier_var(word);
			if (word < FRONTEND_WORDS)
				f->bits[word] = 0;
		}
		return 0;
	case SKREAP_FRONTEND_FILTER_ID:
		return f ? frontend_filter_add(f, ctx->value) : -EINVAL;
	case SKREAP_FRONTEND_FILTER_ADDRESS:
		id = frontend_id(&p, 0);
		/* Nobody has come through it. */
		if (!f || id == SKREAP_FRONTEND_UNKNOWN)
			return f ? 0 : -EINVAL;
		return frontend_filter_add(f, id);
	}
	return -EINVAL;
}

#else /* !SKREAP_FRONTENDS */

static __always_inline __u32 frontend_take(struct bpf_sock_addr *ctx, __u8 family, const __be32 *daddr, __be16 dport)
{
	return SKREAP_FRONTEND_UNKNOWN;
}

static __always_inline void frontend_set(struct node *n, __u32 frontend)
{
}

static __always_inline void frontend_again(struct node *n, __u32 frontend, __u32 tag, bool found, bool in_force)
{
}

static __always_inline bool frontend_known(const struct node *n, __u32 frontend, __u32 tag)
{
	return true;
}

static __always_inline void frontend_forget(struct node *n)
{
}

static __always_inline void frontend_walk_begin(__u32 slot)
{
}

static __always_inline __u32 frontend_of_node(struct node *n, __u32 slot, __u32 flags)
{
	return SKREAP_FRONTEND_UNKNOWN;
}

static __always_inline __u32 frontend_for(__u32 frontend, __u32 relation, __u32 tag)
{
	return SKREAP_FRONTEND_UNKNOWN;
}

static __always_inline bool frontend_wanted(__u32 slot, __u32 flags, __u32 frontend)
{
	return true;
}

static __always_inline void frontend_emit(__u32 slot, __u32 i, __u32 frontend)
{
}

#endif /* SKREAP_FRONTENDS */

#endif
