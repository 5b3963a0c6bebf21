/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * Marks: the parts of the index that may be incomplete.
 *
 * A socket that could not be recorded sets a bit that stands for its backend (and for one in 65,536
 * others).  Where even the backend is unknown, `everything` stands for all.  A walk reports marks,
 * and a scan finishes its event.
 *
 * Marks are healed by a search that puts every socket into the index, or finds that none is
 * missing.  It takes a while, and hooks keep setting marks, so there are two generations of them.
 * A turn makes the other generation the younger one, in which hooks set marks from then on.  Once
 * every hook that saw the old state has ended (a grace period), the marks in the older generation
 * date from before the search, and can be cleared after it.  Readers read both, the older one
 * first, so they see every mark at every moment.
 *
 * No search can find out which backends an unconnected socket has sent to: those bits are separate
 * and permanent.
 */
#ifndef SKREAP_MARKS_BPF_H
#define SKREAP_MARKS_BPF_H

#define MARK_WORDS 2048u /* 32 marks each */

struct skreap_marks_state {
	__u32 backends[2 * MARK_WORDS]; /* one generation after the other */
	__u32 sent[MARK_WORDS];		/* some of the sockets had only sent */
	__u32 everything[2];
	__u32 young;			/* the generation that hooks set: 0 or 1 */
	__u32 padding;
};

struct skreap_marks_state marks SEC(".bss.incomplete");

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct skreap_marks marks_type;

static __always_inline __u32 *mark_word(__u32 generation, __u32 word)
{
	__u32 i = (generation & 1) * MARK_WORDS + word;

	barrier_var(i);
	if (i >= 2 * MARK_WORDS)
		return NULL;
	barrier_var(i);
	return &marks.backends[i];
}

static __always_inline __u32 mark_young(void)
{
	return *(volatile __u32 *)&marks.young & 1;
}

/*
 * Marks the backend as one that may lack sockets in the index.  Runs in an RCU read section, as
 * every hook and iterator does. tag: of the membership that was lost.
 */
static __always_inline void mark_incomplete(__u64 key, __u32 tag)
{
	__u32 bit = (__u32)(key >> 32) % (MARK_WORDS * 32), word = bit / 32 % MARK_WORDS;
	__u32 *at = mark_word(mark_young(), word);

	if (at)
		__sync_fetch_and_or(at, 1u << bit % 32);
	if (tag & (NODE_SENDMSG | NODE_WILDCARD))
		__sync_fetch_and_or(&marks.sent[word], 1u << bit % 32);
}

/* As mark_incomplete(), where not even the backend is known. */
static __always_inline void mark_everything(void)
{
	__sync_lock_test_and_set(&marks.everything[mark_young()], 1);
}

/*
 * The bits of enum skreap_incomplete that marks and notes decide. unconnected: also for sockets that only
 * sent.
 */
static __always_inline __u32 marked(__u64 key, bool unconnected)
{
	__u32 bit = (__u32)(key >> 32) % (MARK_WORDS * 32), word = bit / 32 % MARK_WORDS, mask = 1u << bit % 32;
	__u32 young = mark_young(), found = 0;
	__u32 *older = mark_word(young ^ 1, word), *younger = mark_word(young, word);

	/*
	 * The older one first, because a turn moves marks to the younger.  An atomic operation is a
	 * full barrier.
	 */
	if (older && younger && (__sync_fetch_and_or(older, 0) | *(volatile __u32 *)younger) & mask)
		found |= SKREAP_INCOMPLETE_FULL;
	if (unconnected && marks.sent[word] & mask)
		found |= SKREAP_INCOMPLETE_UNCONNECTED;
	if (__sync_fetch_and_or(&marks.everything[young ^ 1], 0) | *(volatile __u32 *)&marks.everything[young])
		found |= SKREAP_INCOMPLETE_EVERYTHING;
	if (kernel_socket_noted(key))
		found |= SKREAP_INCOMPLETE_KERNEL;
	return found;
}

/*
 * Moves the marks of an unfinished healing from the older generation to the younger, which then
 * becomes the older.  A mark is set in one before it is cleared in the other.
 */
static __always_inline void marks_turn(void)
{
	__u32 young = mark_young(), old = young ^ 1, i;

	bpf_for(i, 0, MARK_WORDS) {
		__u32 *older = mark_word(old, i), *younger = mark_word(young, i);

		if (!older || !younger || !*older)
			continue;
		__sync_fetch_and_or(younger, *older);
		__sync_lock_test_and_set(older, 0);
	}
	if (marks.everything[old]) {
		__sync_lock_test_and_set(&marks.everything[young], 1);
		__sync_lock_test_and_set(&marks.everything[old], 0);
	}
	__sync_lock_test_and_set(&marks.young, old);
}

static __always_inline void marks_clear(void)
{
	__u32 older = mark_young() ^ 1, i;

	bpf_for(i, 0, MARK_WORDS) {
		__u32 *word = mark_word(older, i);

		if (word && *word)
			__sync_lock_test_and_set(word, 0);
	}
	__sync_lock_test_and_set(&marks.everything[older], 0);
}

/* User space makes one call at a time. */
static __always_inline int marks_do(const struct skreap_marks *ctx)
{
	if (ctx->version != SKREAP_ABI_VERSION)
		return -EPROTO;
	switch (ctx->what) {
	case SKREAP_MARKS_TURN:
		marks_turn();
		return 0;
	case SKREAP_MARKS_CLEAR:
		marks_clear();
		return 0;
	case SKREAP_MARKS_EVERYTHING:
		bpf_rcu_read_lock();
		mark_everything();
		bpf_rcu_read_unlock();
		return 0;
	}
	return -EINVAL;
}

#endif
