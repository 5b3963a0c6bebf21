// SPDX-License-Identifier: GPL-2.0
/*
 * The functions of docs/upstream in a module: a stand-in, so that programs which use the kernel's own can be tried on
 * a stock kernel. It is skreap.ko under their names, so the lock is told by context, not by argument, and the verifier
 * knows no rule about bpf_sk_release().
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "compat.h"
#include <linux/module.h>

/* Its functions, but not what it registers */
#undef module_init
#define module_init(fn) static int (*unused_init)(void) __initdata __maybe_unused = fn
#undef module_exit
#define module_exit(fn) static void (*unused_exit)(void) __maybe_unused = fn
#include "skreap.c"

enum { NOWAIT = 1 };

struct bpf_sock_ref {
	struct sock sk;
};

__bpf_kfunc_start_defs();

__bpf_kfunc struct bpf_sock_ref *bpf_sock_acquire(struct sock_common *skc)
{
	return (struct bpf_sock_ref *)skreap_sock_acquire_v1(skc);
}

__bpf_kfunc void bpf_sock_release(struct bpf_sock_ref *ref)
{
	sock_put(&ref->sk);
}

__bpf_kfunc void bpf_sock_release_dtor(void *ref)
{
	sock_put(ref);
}
CFI_NOSEAL(bpf_sock_release_dtor);

__bpf_kfunc int bpf_sock_destroy_peer_might_sleep(struct bpf_sock_ref *ref, const struct skreap_peer *peer, u32 flags)
{
	struct skreap_sock *sock = (struct skreap_sock *)ref;

	if (flags & ~NOWAIT)
		return -EINVAL;
	return flags & NOWAIT ? skreap_sock_try_destroy_v1(sock, peer) : skreap_sock_destroy_v1(sock, peer);
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(record_ids)
BTF_ID_FLAGS(func, bpf_sock_acquire, KF_ACQUIRE | KF_RET_NULL | KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_sock_release, KF_RELEASE)
BTF_KFUNCS_END(record_ids)

BTF_KFUNCS_START(walk_ids)
BTF_ID_FLAGS(func, bpf_sock_release, KF_RELEASE)
BTF_ID_FLAGS(func, bpf_sock_destroy_peer_might_sleep, KF_SLEEPABLE | KF_TRUSTED_ARGS)
BTF_KFUNCS_END(walk_ids)

BTF_ID_LIST(dtor_ids)
BTF_ID(struct, bpf_sock_ref)
BTF_ID(func, bpf_sock_release_dtor)

static const struct btf_kfunc_id_set cgroup_set = {
	.owner = THIS_MODULE,
	.set = &record_ids,
};

static const struct btf_kfunc_id_set iter_set = {
	.owner = THIS_MODULE,
	.set = &record_ids,
	.filter = skreap_iter_only,
};

static const struct btf_kfunc_id_set walk_set = {
	.owner = THIS_MODULE,
	.set = &walk_ids,
};

static int __init names_init(void)
{
	/* The module's type is in the BTF as well: without a destructor the kernel would refuse a kptr to it. */
	const struct btf_id_dtor_kfunc dtors[] = {
		{
			.btf_id = dtor_ids[0],
			.kfunc_btf_id = dtor_ids[1],
		},
		{
			.btf_id = skreap_dtor_ids[0],
			.kfunc_btf_id = skreap_dtor_ids[1],
		},
	};

	return register_btf_kfunc_id_set(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, &cgroup_set) ?:
	       register_btf_kfunc_id_set(BPF_PROG_TYPE_TRACING, &iter_set) ?:
	       register_btf_kfunc_id_set(BPF_PROG_TYPE_SYSCALL, &walk_set) ?:
	       register_btf_id_dtor_kfuncs(dtors, ARRAY_SIZE(dtors), THIS_MODULE);
}

static void __exit names_exit(void)
{
}

#undef module_init
#define module_init(fn) int init_module(void) __copy(fn) __attribute__((alias(#fn))); ___ADDRESSABLE(init_module, __initdata)
#undef module_exit
#define module_exit(fn) void cleanup_module(void) __copy(fn) __attribute__((alias(#fn))); ___ADDRESSABLE(cleanup_module, __exitdata)
module_init(names_init);
module_exit(names_exit);
