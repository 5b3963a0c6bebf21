// SPDX-License-Identifier: GPL-2.0
/*
 * The self-test of skreap.c, which includes this file if it is built with
 * `make kmod SELFTEST=1`: the functions are called directly, on sockets that
 * are made for it in the network namespace of who loads the module, and the
 * module does not load if one does not do what it should. For debugging only.
 */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/net.h>

#define SELFTEST_PORT 9

/* Both forms of the destroy: the one that waits for the lock, and the other. */
typedef int (*selftest_form)(struct skreap_sock *sock,
			     const struct skreap_peer *peer);

static const selftest_form selftest_forms[] __initconst = {
	skreap_sock_destroy_v1,
	skreap_sock_try_destroy_v1,
};

static selftest_form selftest_form_now __initdata;
static unsigned int selftest_passed __initdata;
static unsigned int selftest_failed __initdata;

static void __init selftest_expect(const char *what, long got, long wanted)
{
	if (got == wanted) {
		selftest_passed++;
		return;
	}
	selftest_failed++;
	pr_err("self-test: %s: %ld, not %ld\n", what, got, wanted);
}

static struct socket *__init selftest_socket(int family, int type, int protocol)
{
	struct socket *sock = NULL;

	selftest_expect("socket", sock_create(family, type, protocol, &sock), 0);
	return sock;
}

static int __init selftest_connect(struct socket *sock, __be16 port)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = port,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	return kernel_connect(sock, (struct sockaddr_unsized *)&to, sizeof(to),
			      0);
}

static struct skreap_peer __init selftest_peer(u8 protocol, __be16 port)
{
	return (struct skreap_peer){
		.daddr = { htonl(INADDR_LOOPBACK) },
		.dport = port,
		.family = AF_INET,
		.protocol = protocol,
	};
}

static struct skreap_sock *__init selftest_acquire(struct socket *sock)
{
	return skreap_sock_acquire_v1((struct sock_common *)sock->sk);
}

static void __init selftest_destroy(const char *what, struct skreap_sock *held,
				    struct skreap_peer peer, int wanted)
{
	struct bpf_run_ctx *before = current->bpf_ctx;

	selftest_expect(what, selftest_form_now(held, &peer), wanted);
	selftest_expect("BPF context is as before", current->bpf_ctx == before,
			true);
}

/* Each member of the peer counts, and none may be missing. */
static void __init selftest_wrong_peers(struct skreap_sock *held,
					struct skreap_peer peer)
{
	struct skreap_peer other = peer;

	other.dport ^= htons(1);
	selftest_destroy("other port", held, other, -ESTALE);
	other = peer;
	other.daddr[0] ^= htonl(1);
	selftest_destroy("other address", held, other, -ESTALE);
	other = peer;
	other.family = AF_INET6;
	selftest_destroy("other family", held, other, -ESTALE);
	other = peer;
	other.protocol ^= IPPROTO_TCP ^ IPPROTO_UDP;
	selftest_destroy("other protocol", held, other, -ESTALE);

	other = peer;
	other.dport = 0;
	selftest_destroy("no port", held, other, -EINVAL);
	other = peer;
	other.daddr[0] = 0;
	selftest_destroy("no address", held, other, -EINVAL);
	other = peer;
	other.family = AF_UNIX;
	selftest_destroy("unknown family", held, other, -EINVAL);
	memset(&other, 0, sizeof(other));
	other.protocol = IPPROTO_TCP;
	selftest_destroy("TCP without peer", held, other, -EINVAL);
	other.protocol = IPPROTO_UDP;
	selftest_destroy("UDP without peer", held, other, -ESTALE);
}

static void __init selftest_connected(struct socket *sock, u8 protocol,
				      __be16 port)
{
	struct skreap_peer peer = selftest_peer(protocol, port);
	struct skreap_sock *held = selftest_acquire(sock);

	selftest_expect("connected socket is held", !!held, true);
	if (!held)
		return;
	selftest_wrong_peers(held, peer);
	selftest_expect("still connected", sock->sk->sk_state, TCP_ESTABLISHED);
	selftest_destroy("destroy", held, peer, 0);
	selftest_expect("error of the socket", sock->sk->sk_err, ECONNABORTED);
	selftest_expect("state", sock->sk->sk_state, TCP_CLOSE);
	selftest_destroy("destroy again", held, peer, -ENOENT);
	skreap_sock_release_v1(held);
}

/* UDP has no timers that hold references, so that they can be counted. */
static void __init selftest_udp(int family)
{
	struct socket *sock = selftest_socket(family, SOCK_DGRAM, IPPROTO_UDP);
	const __be16 port = htons(SELFTEST_PORT);
	struct skreap_sock *held;
	int fresh, connected;

	if (!sock)
		return;
	fresh = refcount_read(&sock->sk->sk_refcnt);
	selftest_expect("connect UDP", selftest_connect(sock, port), 0);
	connected = refcount_read(&sock->sk->sk_refcnt);
	held = selftest_acquire(sock);
	if (held) {
		selftest_expect("references while held",
				refcount_read(&sock->sk->sk_refcnt),
				connected + 1);
		skreap_sock_release_v1(held);
	}
	selftest_expect("references when released",
			refcount_read(&sock->sk->sk_refcnt), connected);
	selftest_connected(sock, IPPROTO_UDP, port);
	/* The one of its port is gone too. */
	selftest_expect("references when destroyed",
			refcount_read(&sock->sk->sk_refcnt), fresh);
	sock_release(sock);
}

/* No peer is a peer too, for UDP; and what is closed is not destroyed. */
static void __init selftest_unconnected_and_closed(void)
{
	struct socket *sock = selftest_socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
	struct skreap_peer none = { .protocol = IPPROTO_UDP };
	struct skreap_sock *held;

	if (!sock)
		return;
	held = selftest_acquire(sock);
	selftest_expect("unconnected socket is held", !!held, true);
	if (held) {
		selftest_destroy("with peer", held,
				 selftest_peer(IPPROTO_UDP,
					       htons(SELFTEST_PORT)), -ENOENT);
		selftest_destroy("without peer", held, none, 0);
		selftest_expect("error", sock->sk->sk_err, ECONNABORTED);
	}
	sock_release(sock);
	if (!held)
		return;
	selftest_destroy("closed", held, none, -ENOENT);
	selftest_expect("closed socket is held",
			!!skreap_sock_acquire_v1((struct sock_common *)held),
			false);
	selftest_expect("references of a closed socket",
			refcount_read(&held->sk.sk_refcnt), 1);
	skreap_sock_release_v1(held);
}

static void __init selftest_tcp(void)
{
	struct socket *server, *client;
	struct sockaddr_in at = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	server = selftest_socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
	client = selftest_socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
	if (server && client) {
		selftest_expect("bind",
				kernel_bind(server,
					    (struct sockaddr_unsized *)&at,
					    sizeof(at)), 0);
		selftest_expect("listen", kernel_listen(server, 1), 0);
		at.sin_port = inet_sk(server->sk)->inet_sport;
		selftest_expect("connect TCP",
				selftest_connect(client, at.sin_port), 0);
		selftest_connected(client, IPPROTO_TCP, at.sin_port);
	}
	if (client)
		sock_release(client);
	if (server)
		sock_release(server);
}

/* An owner is not waited for, and nothing happens to its socket. */
static void __init selftest_owned(void)
{
	struct socket *sock = selftest_socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
	const __be16 port = htons(SELFTEST_PORT);
	struct skreap_sock *held;

	if (!sock)
		return;
	selftest_expect("connect UDP", selftest_connect(sock, port), 0);
	held = selftest_acquire(sock);
	selftest_expect("connected socket is held", !!held, true);
	if (held) {
		struct skreap_peer peer = selftest_peer(IPPROTO_UDP, port);

		lock_sock(sock->sk);
		selftest_destroy("destroy while owned", held, peer, -EBUSY);
		selftest_expect("state while owned", sock->sk->sk_state,
				TCP_ESTABLISHED);
		selftest_expect("still owned", sock->sk->sk_lock.owned, 1);
		release_sock(sock->sk);
		selftest_destroy("destroy", held, peer, 0);
		selftest_expect("owned when destroyed",
				sock->sk->sk_lock.owned, 0);
		skreap_sock_release_v1(held);
	}
	sock_release(sock);
}

static void __init selftest_refused(const char *what, struct socket *sock)
{
	struct skreap_sock *held;

	if (!sock)
		return;
	held = selftest_acquire(sock);
	selftest_expect(what, !!held, false);
	if (held)
		skreap_sock_release_v1(held);
	sock_release(sock);
}

/* 0, or -EIO: the module is not what it should be. */
static int __init skreap_selftest(void)
{
	struct socket *own = NULL;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(selftest_forms); i++) {
		selftest_form_now = selftest_forms[i];
		selftest_udp(AF_INET);
		/* A mapped address, which is IPv4 where peers are compared. */
		if (IS_ENABLED(CONFIG_IPV6))
			selftest_udp(AF_INET6);
		selftest_unconnected_and_closed();
		selftest_tcp();
	}
	selftest_form_now = skreap_sock_try_destroy_v1;
	selftest_owned();
	selftest_refused("raw socket is held",
			 selftest_socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
	selftest_refused("netlink socket is held",
			 selftest_socket(AF_NETLINK, SOCK_RAW, 0));
	selftest_expect("socket of the kernel's own",
			sock_create_kern(&init_net, AF_INET, SOCK_DGRAM,
					 IPPROTO_UDP, &own), 0);
	selftest_refused("socket of the kernel's own is held", own);

	if (selftest_failed) {
		pr_err("self-test: %u of %u checks failed\n", selftest_failed,
		       selftest_passed + selftest_failed);
		return -EIO;
	}
	pr_info("self-test: all %u checks passed\n", selftest_passed);
	return 0;
}
