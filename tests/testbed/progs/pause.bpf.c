// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * Holds up one of our programs before and after one of its global functions, or a process in a function of the kernel,
 * for tests of what others do meanwhile.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Nobody is held up for longer: the processor does nothing else meanwhile. */
#define PAUSE_NS_MAX 5000000000ULL
/* In one loop; the kernel allows eight times as many. */
#define LOOKS (1 << 20)

/* 0: whoever comes by */
const volatile __u32 only_tgid;

enum { HELD, LET_GO };

/* How often a program was held up, and how often it was let go */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} pauses SEC(".maps");

static __always_inline int pause(void)
{
	__u64 end = bpf_ktime_get_ns() + PAUSE_NS_MAX;
	__u32 zero = HELD, one = LET_GO, *held, *let_go, mine;
	int loop, i;

	if (only_tgid && bpf_get_current_pid_tgid() >> 32 != only_tgid)
		return 0;
	held = bpf_map_lookup_elem(&pauses, &zero);
	let_go = bpf_map_lookup_elem(&pauses, &one);
	if (!held || !let_go)
		return 0;
	mine = __sync_fetch_and_add(held, 1);
	bpf_for(loop, 0, LOOKS) {
		bpf_for(i, 0, LOOKS) {
			if (*(volatile __u32 *)let_go > mine || bpf_ktime_get_ns() >= end)
				return 0;
		}
	}
	return 0;
}

/* Which function, and of which program: set before they are loaded */
SEC("fentry")
int pause_before(void *ctx)
{
	return pause();
}

SEC("fexit")
int pause_after(void *ctx)
{
	return pause();
}
