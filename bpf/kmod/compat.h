/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Differences between kernels, each with the version that made it. Nothing
 * else in the module looks at a version.
 */
#ifndef SKREAP_COMPAT_H
#define SKREAP_COMPAT_H

#include <linux/version.h>

/*
 * 6.15 gives per-CPU pointers an address space if the compiler (gcc 14) can
 * take it off again. pahole up to 1.30 then finds two types where the BTF of
 * the kernel has one, and gives the module a struct sock of its own, which the
 * verifier does not take for the kernel's. Without it they are plain pointers,
 * as older compilers have them. So this header comes first.
 */
#ifdef USE_TYPEOF_UNQUAL
#undef USE_TYPEOF_UNQUAL
#undef __percpu_qual
#define __percpu_qual
#endif

#include <linux/btf.h>

/*
 * 6.12 gives all cgroup programs one kfunc hook, so that cgroup/sock_release
 * can drop what cgroup/connect took. Older kernels have no hook for the former.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#error "skreap needs Linux 6.12: older kernels have no kfuncs in cgroup/sock_release"
#endif

/* BPF finds the functions of a module by its BTF. */
#if !IS_ENABLED(CONFIG_DEBUG_INFO_BTF_MODULES)
#error "skreap needs a kernel with CONFIG_DEBUG_INFO_BTF_MODULES"
#endif

/* 6.19 gave addresses of any length a type of their own. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
#define sockaddr_unsized sockaddr
#endif

/* 7.0 made trusted arguments the rule, and removed the flag. */
#ifndef KF_TRUSTED_ARGS
#define KF_TRUSTED_ARGS 0
#endif

#endif
