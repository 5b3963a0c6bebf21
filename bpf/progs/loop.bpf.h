/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Loops under a bpf_spin_lock.
 *
 * bpf_for() calls kfuncs, which only kernels from 6.15 on allow under a lock; before, no call is
 * allowed. may_goto (6.9) is an instruction: the kernel lets it jump when the loop has run too
 * often.
 */
#ifndef SKREAP_LOOP_BPF_H
#define SKREAP_LOOP_BPF_H

/*
 * False when the kernel wants the loop to end, after eight million rounds.  The bytes are may_goto,
 * which the assembler knows only for -mcpu=v4.
 */
#define loop_may_go_on()                                                                          \
	({                                                                                        \
		__label__ stop, go;                                                               \
		bool may = true;                                                                  \
		asm volatile goto("1: .byte 0xe5; .byte 0;"                                       \
				  ".long ((%l[stop] - 1b - 8) / 8) & 0xffff; .short 0" ::::stop); \
		goto go;                                                                          \
	stop:                                                                                     \
		may = false;                                                                      \
	go:                                                                                       \
		may;                                                                              \
	})

/*
 * Initial value for every counter of such a loop: 0, but unknown to the verifier.  It compares the
 * states of two rounds, and known numbers would differ in each.  Node 0 is nil, and nothing writes
 * to it.
 */
static __always_inline __u32 loop_zero(void)
{
	return *(volatile __u32 *)&pool[0].rnext;
}

/* for (step = 0; step < max; step++), with a bpf_spin_lock held */
#define locked_for(step, max) for ((step) = loop_zero(); (step) < (max) && loop_may_go_on(); (step)++)

#endif
