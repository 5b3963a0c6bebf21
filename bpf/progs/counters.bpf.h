/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* Counters outside the shards' locks. */
#ifndef SKREAP_COUNTERS_BPF_H
#define SKREAP_COUNTERS_BPF_H

#define MAX_CPUS 512

/* On the path of every close in the cgroup, so a cache line for each CPU */
struct skreap_cpu_counters cpu_counters[MAX_CPUS] SEC(".bss.counters");
struct skreap_counters counters SEC(".bss.counters");
/* The rest of the last page: room for counters of later versions.  The last of its section. */
__u64 counters_spare[1] SEC(".bss.counters");

#endif
