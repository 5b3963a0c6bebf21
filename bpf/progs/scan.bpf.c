// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* The full scan: every socket of the netns the iterator was made in, destroyed where it matches. */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What to destroy, set before a pass, and what came of it */
struct scan {
	__u64 cookie; /* exactly this socket */
	__u64 visited;
	__u64 matched;
	__s64 error; /* of the last destroy, -errno */
};

struct scan scan;

SEC("iter/udp")
int skreap_scan_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;

	if (!udp)
		return 0;
	scan.visited++;
	if (udp->inet.sk.__sk_common.skc_cookie.counter != (__s64)scan.cookie)
		return 0;
	scan.matched++;
	scan.error = bpf_sock_destroy((struct sock_common *)udp);
	return 0;
}
