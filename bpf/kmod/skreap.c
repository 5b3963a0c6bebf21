// SPDX-License-Identifier: GPL-2.0
/*
 * skreap: lets a sleepable BPF program destroy a socket under the socket lock.
 *
 * bpf_sock_destroy() works only in iterators, which hold the lock. These
 * functions let a SEC("syscall") program do the same for a socket that was
 * recorded before: acquire takes a reference that a map can store; destroy
 * takes the lock, checks that the socket is still the expected one, and aborts
 * it; release drops the reference. The contract is in docs/kfunc.md.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "compat.h"

#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/module.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp_states.h>

#include "kfunc.h"

/*
 * The type of a held socket. A complete struct, because BTF has no kptr to a
 * forward declaration, with the sock first, so that programs can read its
 * fields.
 */
struct skreap_sock {
	struct sock sk;
};

/* raw_abort() takes the lock whatever the context, so TCP and UDP only. */
static bool skreap_supported(const struct sock *sk)
{
	if (sk->sk_family != AF_INET && sk->sk_family != AF_INET6)
		return false;
	if (!READ_ONCE(sk->sk_prot)->diag_destroy)
		return false;

	return (sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP) ||
	       (sk->sk_type == SOCK_DGRAM && sk->sk_protocol == IPPROTO_UDP);
}

/* A zero address or port would match sockets that listen or are just bound. */
static bool skreap_peer_valid(const struct skreap_peer *peer)
{
	bool addr = peer->daddr[0] | peer->daddr[1] | peer->daddr[2] |
		    peer->daddr[3];

	switch (peer->family) {
	case AF_INET:
	case AF_INET6:
		return addr && peer->dport;
	case 0:
		return !addr && !peer->dport && peer->protocol == IPPROTO_UDP;
	default:
		return false;
	}
}

/* The peer that the socket has now; all but the protocol is 0 if it has none. */
static void skreap_live_peer(const struct sock *sk, struct skreap_peer *live)
{
	memset(live, 0, sizeof(*live));
	live->protocol = sk->sk_protocol;
	if (!sk->sk_dport)
		return;

	live->dport = sk->sk_dport;
	live->family = AF_INET;
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		if (ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
			live->daddr[0] = sk->sk_v6_daddr.s6_addr32[3];
		} else {
			live->family = AF_INET6;
			memcpy(live->daddr, &sk->sk_v6_daddr,
			       sizeof(live->daddr));
		}
		return;
	}
#endif
	live->daddr[0] = sk->sk_daddr;
}

/* Called under the socket lock, so the result stays true for the caller. */
static int skreap_check(const struct sock *sk, const struct skreap_peer *peer)
{
	struct skreap_peer live;

	if (sock_flag(sk, SOCK_DEAD))
		return -ENOENT;
	/* UDP is in this state whenever it has no peer. */
	if (peer->family && sk->sk_state == TCP_CLOSE)
		return -ENOENT;

	skreap_live_peer(sk, &live);
	if (memcmp(&live, peer, sizeof(live)))
		return -ESTALE;

	return 0;
}

/* Destroys the socket, which the caller has locked, if it has this peer. */
static int skreap_destroy_owned(struct sock *sk, const struct skreap_peer *peer)
{
	struct bpf_run_ctx run_ctx, *outer;
	int err;

	if (!skreap_supported(sk))
		return -EOPNOTSUPP;
	err = skreap_check(sk, peer);
	if (err)
		return err;
	/*
	 * tcp_abort() and udp_abort() skip the lock, which we hold, if they are
	 * called in a BPF context; syscall programs do not run in one.
	 */
	outer = bpf_set_run_ctx(&run_ctx);
	err = sk->sk_prot->diag_destroy(sk, ECONNABORTED);
	bpf_reset_run_ctx(outer);

	return err;
}

/* lock_sock() that never waits for an owner; false: the socket has one. */
static bool skreap_trylock_sock(struct sock *sk)
{
	bool owned;

	spin_lock_bh(&sk->sk_lock.slock);
	owned = sock_owned_by_user_nocheck(sk);
	if (!owned)
		sk->sk_lock.owned = 1;
	spin_unlock_bh(&sk->sk_lock.slock);
	/* For lockdep a mutex that was tried: nothing can wait in a circle. */
	if (!owned)
		mutex_acquire(&sk->sk_lock.dep_map, 0, 1, _RET_IP_);

	return !owned;
}

__bpf_kfunc_start_defs();

/*
 * Takes a reference, or returns NULL: not TCP or UDP, not a full socket,
 * already being freed, or a socket that will never run cgroup/sock_release, so
 * that no hook would drop the reference in time. The last are sockets that the
 * kernel opened for itself, and sockets without a file: closed, or not accepted
 * yet.
 */
__bpf_kfunc struct skreap_sock *skreap_sock_acquire_v1(struct sock_common *skc)
{
	struct sock *sk = (struct sock *)skc;

	/* Only the common part of request and TIME_WAIT sockets may be read. */
	if (!sk_fullsock(sk))
		return NULL;
	if (!skreap_supported(sk))
		return NULL;
	if (sk->sk_kern_sock || !READ_ONCE(sk->sk_socket))
		return NULL;
	if (!refcount_inc_not_zero(&sk->sk_refcnt))
		return NULL;

	return (struct skreap_sock *)sk;
}

/* Drops a reference. */
__bpf_kfunc void skreap_sock_release_v1(struct skreap_sock *sock)
{
	sock_put(&sock->sk);
}

/* Drops the reference in a map value that is deleted. */
__bpf_kfunc void skreap_sock_release_dtor(void *sock)
{
	sock_put(sock);
}

CFI_NOSEAL(skreap_sock_release_dtor);

/*
 * Aborts the socket with ECONNABORTED if it is connected to this peer; sleeps
 * until it has the socket lock. 0 or -ENOENT, -ESTALE, -EOPNOTSUPP, -EINVAL.
 */
__bpf_kfunc int skreap_sock_destroy_v1(struct skreap_sock *sock,
				       const struct skreap_peer *peer)
{
	struct sock *sk = &sock->sk;
	int err;

	might_sleep();
	if (!skreap_peer_valid(peer))
		return -EINVAL;

	lock_sock(sk);
	err = skreap_destroy_owned(sk, peer);
	release_sock(sk);

	return err;
}

/*
 * As skreap_sock_destroy_v1(), but never waits for the socket lock: returns
 * -EBUSY if it is taken, without checking the socket. May be preempted, because
 * release_sock() processes the backlog.
 */
__bpf_kfunc int skreap_sock_try_destroy_v1(struct skreap_sock *sock,
					   const struct skreap_peer *peer)
{
	struct sock *sk = &sock->sk;
	int err;

	might_sleep();
	if (!skreap_peer_valid(peer))
		return -EINVAL;

	if (!skreap_trylock_sock(sk))
		return -EBUSY;
	err = skreap_destroy_owned(sk, peer);
	release_sock(sk);

	return err;
}

__bpf_kfunc_end_defs();

/* A module may have one set for each hook; all cgroup programs share one. */
BTF_KFUNCS_START(skreap_record_ids)
BTF_ID_FLAGS(func, skreap_sock_acquire_v1, KF_ACQUIRE | KF_RET_NULL | KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, skreap_sock_release_v1, KF_RELEASE)
BTF_KFUNCS_END(skreap_record_ids)

BTF_KFUNCS_START(skreap_walk_ids)
BTF_ID_FLAGS(func, skreap_sock_release_v1, KF_RELEASE)
BTF_ID_FLAGS(func, skreap_sock_destroy_v1, KF_SLEEPABLE | KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, skreap_sock_try_destroy_v1, KF_SLEEPABLE | KF_TRUSTED_ARGS)
BTF_KFUNCS_END(skreap_walk_ids)

BTF_ID_LIST(skreap_dtor_ids)
BTF_ID(struct, skreap_sock)
BTF_ID(func, skreap_sock_release_dtor)

/*
 * Of the tracing programs only iterators: the last sock_put() frees the socket,
 * which must not happen in every place where a tracepoint or fentry may be.
 */
static int skreap_iter_only(const struct bpf_prog *prog, u32 kfunc_id)
{
	return prog->expected_attach_type == BPF_TRACE_ITER ? 0 : -EACCES;
}

static const struct btf_kfunc_id_set skreap_cgroup_set = {
	.owner = THIS_MODULE,
	.set = &skreap_record_ids,
};

static const struct btf_kfunc_id_set skreap_iter_set = {
	.owner = THIS_MODULE,
	.set = &skreap_record_ids,
	.filter = skreap_iter_only,
};

static const struct btf_kfunc_id_set skreap_walk_set = {
	.owner = THIS_MODULE,
	.set = &skreap_walk_ids,
};

#ifdef SKREAP_SELFTEST
#include "selftest.c"
#else
static int __init skreap_selftest(void)
{
	return 0;
}
#endif

/*
 * Nothing has to be undone after a failure or at exit: the registrations belong
 * to the BTF of the module, which is removed with the module. Until then every
 * program and map that uses it holds the module.
 */
static int __init skreap_init(void)
{
	const struct btf_id_dtor_kfunc dtors[] = {
		{
			.btf_id = skreap_dtor_ids[0],
			.kfunc_btf_id = skreap_dtor_ids[1],
		},
	};
	int err;

	/* The registrations below succeed without BTF, and register nothing. */
	if (!skreap_dtor_ids[0] || !skreap_dtor_ids[1]) {
		pr_err("built without BTF: install pahole (Debian: dwarves) and build again\n");
		return -ENOEXEC;
	}

	err = skreap_selftest();
	if (err)
		return err;
	err = register_btf_kfunc_id_set(BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
					&skreap_cgroup_set);
	if (err)
		return err;
	err = register_btf_kfunc_id_set(BPF_PROG_TYPE_TRACING,
					&skreap_iter_set);
	if (err)
		return err;
	err = register_btf_kfunc_id_set(BPF_PROG_TYPE_SYSCALL,
					&skreap_walk_set);
	if (err)
		return err;

	return register_btf_id_dtor_kfuncs(dtors, ARRAY_SIZE(dtors),
					   THIS_MODULE);
}

static void __exit skreap_exit(void)
{
}

module_init(skreap_init);
module_exit(skreap_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Lock-taking socket destroy for sleepable BPF programs");
