/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* The state of a walk, kept from step to step and from call to call, and the list of its victims. */
#ifndef SKREAP_WALK_SLOT_BPF_H
#define SKREAP_WALK_SLOT_BPF_H

/* A node and its socket, as one step has read them, and what it makes of them. */
struct visit {
	__u64 cookie;
	__u64 key;
	struct peer live;
	__u32 i;
	__u32 tag;
	__u32 frontend;
	__u32 relation;
	__u32 victim;
	__u32 pending;
};

/*
 * State of a walk between two nodes and between two calls.  In memory, so that the verifier does
 * not have to follow every count through the loop.
 */
struct walk_slot {
	__u32 busy;
	__u32 linked;	/* the cursor is in a chain of shard / bucket */
	__u32 shard;
	__u32 bucket;
	__u32 position; /* next chain to visit */
	__u32 emitted;
	__u32 tried;	/* destroys of the call */
	struct visit at;      /* of the step */
	struct skreap_walk n; /* counters of the call */
} __attribute__((aligned(64)));

/*
 * Outlives the process, as the cursors do: the next walk on the slot cleans up after a walk that
 * was never resumed.
 */
struct walk_slot walk_slots[SKREAP_WALK_SLOTS] SEC(".bss.walks");
struct skreap_victim emit[SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX] SEC(".bss.emit");
__s32 results[SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX] SEC(".bss.results");

static __always_inline struct walk_slot *walk_slot_at(__u32 slot)
{
	barrier_var(slot);
	if (slot >= SKREAP_WALK_SLOTS)
		return NULL;
	barrier_var(slot);
	return &walk_slots[slot];
}

static __always_inline struct skreap_victim *emit_at(__u32 slot, __u32 i)
{
	i += slot * SKREAP_EMIT_MAX;
	barrier_var(i);
	if (i >= SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX)
		return NULL;
	barrier_var(i);
	return &emit[i];
}

static __always_inline __s32 *result_at(__u32 slot, __u32 i)
{
	i += slot * SKREAP_EMIT_MAX;
	barrier_var(i);
	if (i >= SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX)
		return NULL;
	barrier_var(i);
	return &results[i];
}

#endif
