/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Which parts of the index may be incomplete.
 *
 * A socket that could not be recorded sets a bit that stands for its backend (and for one in 65,536
 * others).  If even the backend is unknown, `everything` is set, which stands for all of them.  A
 * walk reports these bits, and a fallback scan completes its event.
 *
 * A healing clears them: a search that puts every socket into the index, or finds that none is
 * missing.  It takes a while, and hooks keep setting bits, so there are two generations of them.
 * A flip makes the other generation the current one, in which hooks set bits from then on.  Once
 * every hook that saw the old state has ended (a grace period), the bits of the previous generation
 * date from before the search, and can be cleared after it.  Readers read both, the previous one
 * first, so they see every bit at every moment.
 *
 * No search can find out which backends an unconnected socket has sent to: those bits are separate
 * and permanent.
 */
#ifndef SKREAP_INCOMPLETE_BPF_H
#define SKREAP_INCOMPLETE_BPF_H

#define INCOMPLETE_WORDS 2048u /* 32 bits each */

struct skreap_incomplete_bits {
	__u32 backends[2 * INCOMPLETE_WORDS]; /* one generation after the other */
	__u32 sent[INCOMPLETE_WORDS];	      /* some of the sockets had only sent */
	__u32 everything[2];
	__u32 current;			      /* the generation that hooks set: 0 or 1 */
	__u32 padding;
};

struct skreap_incomplete_bits incomplete SEC(".bss.incomplete");

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct skreap_incomplete_update incomplete_update_type;

static __always_inline __u32 *incomplete_word(__u32 generation, __u32 word)
{
	__u32 i = (generation & 1) * INCOMPLETE_WORDS + word;

	barrier_var(i);
	if (i >= 2 * INCOMPLETE_WORDS)
		return NULL;
	barrier_var(i);
	return &incomplete.backends[i];
}

static __always_inline __u32 incomplete_current(void)
{
	return *(volatile __u32 *)&incomplete.current & 1;
}

/* The bit of a backend, counted from the first */
static __always_inline __u32 incomplete_bit(__u64 key)
{
	return (__u32)(key >> 32) % (INCOMPLETE_WORDS * 32);
}

/*
 * Notes that the backend may lack sockets in the index.  Runs in an RCU read section, as every hook
 * and iterator does.  tag: of the membership that was lost.
 */
static __always_inline void incomplete_set(__u64 key, __u32 tag)
{
	__u32 bit = incomplete_bit(key), word = bit / 32 % INCOMPLETE_WORDS;
	__u32 *at = incomplete_word(incomplete_current(), word);

	if (at)
		__sync_fetch_and_or(at, 1u << bit % 32);
	if (tag & (NODE_SENDMSG | NODE_WILDCARD))
		__sync_fetch_and_or(&incomplete.sent[word], 1u << bit % 32);
}

/* As incomplete_set(), where not even the backend is known. */
static __always_inline void incomplete_set_all(void)
{
	__sync_lock_test_and_set(&incomplete.everything[incomplete_current()], 1);
}

/*
 * The flags of enum skreap_incomplete that these bits and the kernel's notes decide.  unconnected:
 * also for sockets that only sent.
 */
static __always_inline __u32 incomplete_reasons(__u64 key, bool unconnected)
{
	__u32 bit = incomplete_bit(key), word = bit / 32 % INCOMPLETE_WORDS, mask = 1u << bit % 32;
	__u32 now = incomplete_current(), reasons = 0;
	__u32 *previous = incomplete_word(now ^ 1, word), *current = incomplete_word(now, word);

	/*
	 * The previous one first, because a flip moves bits to the current one.  An atomic operation
	 * is a full barrier.
	 */
	if (previous && current &&
	    (__sync_fetch_and_or(previous, 0) | *(volatile __u32 *)current) & mask)
		reasons |= SKREAP_INCOMPLETE_FULL;
	if (unconnected && incomplete.sent[word] & mask)
		reasons |= SKREAP_INCOMPLETE_UNCONNECTED;
	if (__sync_fetch_and_or(&incomplete.everything[now ^ 1], 0) |
	    *(volatile __u32 *)&incomplete.everything[now])
		reasons |= SKREAP_INCOMPLETE_EVERYTHING;
	if (kernel_socket_noted(key))
		reasons |= SKREAP_INCOMPLETE_KERNEL;
	return reasons;
}

/*
 * Moves the bits that an unfinished healing has left from the previous generation to the current
 * one, which then becomes the previous.  A bit is set in one before it is cleared in the other.
 */
static __always_inline void incomplete_flip(void)
{
	__u32 now = incomplete_current(), next = now ^ 1, i;

	bpf_for(i, 0, INCOMPLETE_WORDS) {
		__u32 *previous = incomplete_word(next, i), *current = incomplete_word(now, i);

		if (!previous || !current || !*previous)
			continue;
		__sync_fetch_and_or(current, *previous);
		__sync_lock_test_and_set(previous, 0);
	}
	if (incomplete.everything[next]) {
		__sync_lock_test_and_set(&incomplete.everything[now], 1);
		__sync_lock_test_and_set(&incomplete.everything[next], 0);
	}
	__sync_lock_test_and_set(&incomplete.current, next);
}

static __always_inline void incomplete_clear(void)
{
	__u32 previous = incomplete_current() ^ 1, i;

	bpf_for(i, 0, INCOMPLETE_WORDS) {
		__u32 *word = incomplete_word(previous, i);

		if (word && *word)
			__sync_lock_test_and_set(word, 0);
	}
	__sync_lock_test_and_set(&incomplete.everything[previous], 0);
}

/* User space makes one call at a time. */
static __always_inline int incomplete_update(const struct skreap_incomplete_update *ctx)
{
	if (ctx->version != SKREAP_ABI_VERSION)
		return -EPROTO;
	switch (ctx->what) {
	case SKREAP_INCOMPLETE_FLIP:
		incomplete_flip();
		return 0;
	case SKREAP_INCOMPLETE_CLEAR:
		incomplete_clear();
		return 0;
	case SKREAP_INCOMPLETE_SET_ALL:
		bpf_rcu_read_lock();
		incomplete_set_all();
		bpf_rcu_read_unlock();
		return 0;
	}
	return -EINVAL;
}

#endif
