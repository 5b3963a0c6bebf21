/* SPDX-License-Identifier: (GPL-2.0 OR MIT) OR Apache-2.0 */
/*
 * The interface between the BPF programs and the kernel module (bpf/kmod).  The contract of each
 * function is in docs/kfunc.md.
 *
 * The version is part of every name: a program built against another signature does not find the
 * function, so it cannot call it wrongly.
 */
#ifndef SKREAP_KFUNC_H
#define SKREAP_KFUNC_H

/*
 * The peer that a socket must be connected to when it is destroyed.  IPv4-mapped addresses are
 * written as IPv4; unused words of daddr are 0.  family 0, with daddr and dport 0: the socket must
 * have no peer (UDP only).
 */
struct skreap_peer {
	__be32 daddr[4]; /* IPv4 in [0] */
	__be16 dport;
	__u8 family;   /* AF_INET, AF_INET6 or 0 */
	__u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP */
};
_Static_assert(sizeof(struct skreap_peer) == 20, "no padding: compared as bytes");

#ifdef __bpf__
/* A referenced socket.  In a map value: struct skreap_sock __kptr *. */
struct skreap_sock {
	struct sock sk;
} __attribute__((preserve_access_index));

/* Weak: the object also loads without the module; then the functions are all 0. */
extern struct skreap_sock *skreap_sock_acquire_v1(struct sock_common *skc) __ksym __attribute__((weak));
extern void skreap_sock_release_v1(struct skreap_sock *sock) __ksym __attribute__((weak));
extern int skreap_sock_destroy_v1(struct skreap_sock *sock, const struct skreap_peer *peer) __ksym
	__attribute__((weak));
extern int skreap_sock_try_destroy_v1(struct skreap_sock *sock, const struct skreap_peer *peer) __ksym
	__attribute__((weak));

/*
 * The same of the kernel itself, by the patches of docs/upstream.  Its struct bpf_sock_peer is
 * struct skreap_peer by another name.
 */
enum { SKREAP_DESTROY_NOWAIT = 1 }; /* BPF_SOCK_DESTROY_NOWAIT */
struct bpf_sock_ref {
	struct sock sk;
} __attribute__((preserve_access_index));
extern struct bpf_sock_ref *bpf_sock_acquire(struct sock_common *skc) __ksym __attribute__((weak));
extern void bpf_sock_release(struct bpf_sock_ref *ref) __ksym __attribute__((weak));
extern int bpf_sock_destroy_peer_might_sleep(struct bpf_sock_ref *ref, const struct skreap_peer *peer,
					     __u32 flags) __ksym __attribute__((weak));
#endif

#endif
