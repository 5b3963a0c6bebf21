/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* Sizes of one index, set by user space before load: the verifier sees them as constants. */
#ifndef SKREAP_CONFIG_BPF_H
#define SKREAP_CONFIG_BPF_H

const volatile __u32 cfg_nodes = 128;	       /* length of pool; node 0 is nil */
const volatile __u32 cfg_record_slots = 64;    /* per shard, power of two */
const volatile __u32 cfg_record_bits = 6;      /* log2 of the above */
const volatile __u32 cfg_buckets = 1;	       /* per shard, power of two; one more for wildcard sockets */
const volatile __u32 cfg_all_buckets = 2;      /* length of buckets: shards * (buckets + 1) */
const volatile __u32 cfg_all_records = 64;     /* length of records: shards * record slots */
const volatile __u32 cfg_shards = 1;	       /* power of two */
const volatile __u32 cfg_shard_bits;	       /* log2 of the above */
const volatile __u32 cfg_max_memberships = 63; /* nodes of one socket before it is a wildcard, < CHUNK */
const volatile __u32 cfg_refs;		       /* SKREAP_REFS_*: whether a reference to each socket is held */
const volatile __u64 cfg_seed = 0x9e3779b97f4a7c15ULL;

const volatile struct skreap_abi abi = {
	.version = SKREAP_ABI_VERSION,
	.layout = SKREAP_LAYOUT_VERSION,
	.walk_slots = SKREAP_WALK_SLOTS,
	.emit_max = SKREAP_EMIT_MAX,
};

/* The same, where the next process finds it.  No program reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct skreap_cfg);
} cfg SEC(".maps");

#endif
