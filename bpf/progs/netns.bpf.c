// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * Lists every network namespace, whatever keeps it alive: a process, a name, a descriptor, or only
 * a socket in flight over a unix socket.
 *
 * The kernel keeps them in one list under RCU (net_namespace_list), which runs through the netns of
 * the calling process.  The list is a ring.  Its head is not embedded in a `struct net`; its
 * `ns.ops` differs from every real entry's.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Netns listed in one call.  If there are more, user space asks for them in parts. */
#define LISTED_MAX 4096
/* Netns passed in one call: some ten milliseconds. */
#define STEPS_MAX (1 << 20)

struct netns_entry {
	__u64 cookie;
	__u32 inum;
	__u32 references;
};

struct netns_entry entries[LISTED_MAX] SEC(".bss.entries");

struct netns_list {
	__u32 parts;  /* in: list those with cookie % parts == part */
	__u32 part;   /* in */
	__u32 listed; /* out */
	__u32 whole;  /* out: 1 if all of the part were listed */
};

/* Position of the walk.  In memory, as in walk.bpf.h; user space makes one call at a time. */
struct {
	__u64 at, end, ops;
	__u32 parts, part, listed;
} state;

/* Never read: puts the type, and so its Rust twin, into the BTF of the object. */
const volatile struct netns_list list_type;

static __always_inline const struct net *net_of(__u64 list)
{
	return bpf_core_cast((void *)(list - bpf_core_field_offset(struct net, list)), struct net);
}

static __always_inline struct netns_entry *entry_at(__u32 i)
{
	barrier_var(i);
	if (i >= LISTED_MAX)
		return NULL;
	barrier_var(i);
	return &entries[i];
}

/* Since Linux 6.18 */
struct ns_common___ref {
	refcount_t __ns_ref;
} __attribute__((preserve_access_index));

/*
 * The reference count: processes, names, descriptors and sockets.  At 0 nothing keeps the netns any
 * more, and a worker of the kernel removes it from the list some time later.
 */
static __always_inline __u32 references(const struct net *net)
{
	const struct ns_common___ref *ns = (const void *)&net->ns;

	if (bpf_core_field_exists(ns->__ns_ref))
		return ns->__ns_ref.refs.counter;
	/* A kernel that keeps the count elsewhere: every netns counts as referenced. */
	return bpf_core_field_exists(net->ns.count) ? net->ns.count.refs.counter : 1;
}

/* False: the list is full. */
static __always_inline bool put(const struct net *net)
{
	__u64 cookie = net->net_cookie;
	__u32 refs = references(net);
	struct netns_entry *entry;

	if (!refs || cookie % state.parts != state.part)
		return true;
	entry = entry_at(state.listed);
	if (!entry)
		return false;
	entry->cookie = cookie;
	entry->inum = net->ns.inum;
	entry->references = refs;
	state.listed++;
	return true;
}

/* True if the walk is back at its start. */
static __always_inline bool walk_list(void)
{
	__u32 step;

	bpf_for(step, 0, STEPS_MAX) {
		const struct net *net = net_of(state.at);

		if ((__u64)net->ns.ops == state.ops && !put(net))
			return false;
		state.at = (__u64)net->list.next;
		if (!state.at)
			return false;
		if (state.at == state.end)
			return true;
	}
	return false;
}

SEC("syscall")
int skreap_netns(struct netns_list *ctx)
{
	const struct task_struct *task = bpf_core_cast((void *)bpf_get_current_task(), struct task_struct);
	const struct net *own;

	if (!ctx->parts)
		return -EINVAL;
	state.parts = ctx->parts;
	state.part = ctx->part;
	state.listed = 0;
	/*
	 * A netns found inside the section stays one until its end; the caller's own netns stays
	 * anyway.
	 */
	bpf_rcu_read_lock();
	own = task->nsproxy->net_ns;
	state.ops = (__u64)own->ns.ops;
	state.end = (__u64)own + bpf_core_field_offset(struct net, list);
	state.at = state.end;
	ctx->whole = walk_list();
	bpf_rcu_read_unlock();
	ctx->listed = state.listed;
	return 0;
}
