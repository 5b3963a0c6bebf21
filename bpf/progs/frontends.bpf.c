// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * The programs of skreap.bpf.c for a service that records frontends (frontend.bpf.h), and the first
 * programs of the hooks, which note the address before anything translates it.
 */
#define SKREAP_FRONTENDS
#include "skreap.bpf.c"

SEC("cgroup/connect4")
int skreap_first_connect4(struct bpf_sock_addr *ctx)
{
	frontend_note(ctx, AF_INET);
	return ALLOW;
}

SEC("cgroup/connect6")
int skreap_first_connect6(struct bpf_sock_addr *ctx)
{
	frontend_note(ctx, AF_INET6);
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int skreap_first_sendmsg4(struct bpf_sock_addr *ctx)
{
	frontend_note(ctx, AF_INET);
	return ALLOW;
}

SEC("cgroup/sendmsg6")
int skreap_first_sendmsg6(struct bpf_sock_addr *ctx)
{
	frontend_note(ctx, AF_INET6);
	return ALLOW;
}

SEC("syscall")
int skreap_frontends(struct skreap_frontend *ctx)
{
	int err = frontend_do(ctx);

	ctx->error = err;
	return err;
}
