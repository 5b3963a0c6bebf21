// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* A table of held sockets by cookie: filled by hooks and iterators, emptied by sock_release and reap. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include "kfunc.h"
#include "shared.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

enum { MAP_HASH = 1 };

struct record {
	__u64 cookie;
	struct skreap_sock __kptr *sock;
};

struct {
	__uint(type, MAP_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct record);
} records SEC(".maps");

struct stats stats;

/* Each is asked for where it is used, or the verifier would reject the call without the module. */
#define exists(function) ((void *)(function) != NULL)

static __always_inline void record(__u64 cookie, struct sock_common *skc)
{
	struct record empty = {.cookie = cookie}, *r;
	struct skreap_sock *sock;

	if (!exists(skreap_sock_acquire_v1) || !exists(skreap_sock_release_v1))
		return;
	bpf_map_update_elem(&records, &cookie, &empty, BPF_NOEXIST);
	r = bpf_map_lookup_elem(&records, &cookie);
	if (!r)
		return;
	sock = skreap_sock_acquire_v1(skc);
	if (!sock) {
		__sync_fetch_and_add(&stats.refused, 1);
		return;
	}
	__sync_fetch_and_add(&stats.acquired, 1);
	sock = bpf_kptr_xchg(&r->sock, sock);
	if (sock) {
		__sync_fetch_and_add(&stats.released, 1);
		skreap_sock_release_v1(sock);
	}
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx)
{
	struct sock_common *skc = (struct sock_common *)ctx->sk;

	if (skc)
		record(bpf_get_socket_cookie(ctx), skc);
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct skreap_sock *sock;
	struct record *r;

	if (!exists(skreap_sock_release_v1) || stats.keep_closed)
		return 1;
	r = bpf_map_lookup_elem(&records, &cookie);
	if (!r)
		return 1;
	/* Taken out first: the destructor of the element would run under the bucket lock. */
	sock = bpf_kptr_xchg(&r->sock, NULL);
	if (sock) {
		__sync_fetch_and_add(&stats.released, 1);
		skreap_sock_release_v1(sock);
	}
	bpf_map_delete_elem(&records, &cookie);
	return 1;
}

SEC("iter/udp")
int iter_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;

	if (udp)
		record(bpf_get_socket_cookie(udp), (struct sock_common *)udp);
	return 0;
}

SEC("iter/tcp")
int iter_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;

	if (skc)
		record(bpf_get_socket_cookie(skc), skc);
	return 0;
}

/* Must not load: acquire is for cgroup hooks and iterators. Loaded only by the test that says so. */
SEC("?tp_btf/inet_sock_set_state")
int tracepoint(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];

	record(1, &sk->__sk_common);
	return 0;
}

/* Members that are not in kernel.h, as nothing but a test may look at them */
struct sock_common___references {
	refcount_t skc_refcnt;
} __attribute__((preserve_access_index));

static __always_inline int destroy(struct request *request, bool wait, bool keep)
{
	struct skreap_peer peer = request->peer;
	__u64 cookie = request->cookie;
	struct skreap_sock *sock;
	struct record *r;

	request->result = NO_FUNCTIONS;
	if (!exists(skreap_sock_destroy_v1) || !exists(skreap_sock_try_destroy_v1) ||
	    !exists(skreap_sock_release_v1))
		return 0;
	request->result = NO_RECORD;
	r = bpf_map_lookup_elem(&records, &cookie);
	if (!r)
		return 0;
	request->result = NO_SOCKET;
	sock = bpf_kptr_xchg(&r->sock, NULL);
	if (!sock)
		return 0;
	request->references = ((struct sock_common___references *)sock)->skc_refcnt.refs.counter;
	if (wait)
		request->result = skreap_sock_destroy_v1(sock, &peer);
	else
		request->result = skreap_sock_try_destroy_v1(sock, &peer);
	if (keep)
		sock = bpf_kptr_xchg(&r->sock, sock);
	if (sock) {
		__sync_fetch_and_add(&stats.released, 1);
		skreap_sock_release_v1(sock);
	}
	return 0;
}

/* Destroys the socket and drops the reference, whatever the result. */
SEC("syscall")
int reap(struct request *request)
{
	return destroy(request, true, false);
}

/* Destroys the socket and puts the reference back. */
SEC("syscall")
int reap_and_keep(struct request *request)
{
	return destroy(request, true, true);
}

/* As reap, but does not wait for the lock. */
SEC("syscall")
int try_reap(struct request *request)
{
	return destroy(request, false, false);
}

/* As reap_and_keep, but does not wait for the lock. */
SEC("syscall")
int try_reap_and_keep(struct request *request)
{
	return destroy(request, false, true);
}

/* What the weak references came to */
SEC("syscall")
int resolve(void *ctx)
{
	stats.resolved = exists(skreap_sock_acquire_v1) + exists(skreap_sock_release_v1) +
			 exists(skreap_sock_destroy_v1) + exists(skreap_sock_try_destroy_v1);
	return 0;
}
