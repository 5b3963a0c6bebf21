/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Lists the sockets that are connected to a backend, or destroys them, with the walk that `skreap serve --pin DIR`
 * has pinned:
 *
 *	cc -I bpf/include -o walk docs/examples/walk.c
 *	./walk DIR udp 10.0.0.1 53
 *	./walk DIR tcp fd00::1 80 destroy
 *
 * Exit status: 0 done, 1 failed, 2 wrong use, 3 done as far as possible: the index does not know every socket of the
 * backend, or a socket could not be destroyed from here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "abi.h"

/* The daemon takes slots from 0 on: the last is for others, one process at a time. */
#define SLOT (SKREAP_WALK_SLOTS - 1)

_Static_assert(sizeof(struct skreap_sockid) == sizeof(struct inet_diag_sockid), "sock_diag takes it as it is");

static void fail(const char *what, int error)
{
	fprintf(stderr, "walk: %s: %s (errno %d)\n", what, strerror(error), error);
	exit(1);
}

static int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int open_pin(const char *dir, const char *name)
{
	char path[4096];
	union bpf_attr attr = {.pathname = (unsigned long)path};
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		fail(dir, ENAMETOOLONG);
	fd = bpf(BPF_OBJ_GET, &attr);
	if (fd < 0)
		fail(path, errno);
	return fd;
}

/* A backend as the walk takes it: IPv4 in the first word, IPv4-mapped IPv6 addresses as IPv4 */
static int parse(struct skreap_walk *walk, const char *protocol, const char *address, const char *port)
{
	static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
	unsigned long number = strtoul(port, NULL, 10);
	unsigned char v6[16];

	walk->protocol = !strcmp(protocol, "tcp") ? IPPROTO_TCP : !strcmp(protocol, "udp") ? IPPROTO_UDP : 0;
	walk->dport = htons(number);
	if (inet_pton(AF_INET6, address, v6) != 1)
		walk->family = inet_pton(AF_INET, address, walk->daddr) == 1 ? AF_INET : 0;
	else if (memcmp(v6, mapped, sizeof(mapped)))
		walk->family = AF_INET6, memcpy(walk->daddr, v6, sizeof(v6));
	else
		walk->family = AF_INET, memcpy(walk->daddr, v6 + sizeof(mapped), 4);
	return walk->protocol && walk->family && number > 0 && number < 65536;
}

static unsigned own_netns(void)
{
	struct stat netns;

	if (stat("/proc/self/ns/net", &netns))
		fail("/proc/self/ns/net", errno);
	return netns.st_ino;
}

/*
 * 0, or the errno of the kernel: ENOENT if the socket was closed meanwhile.  The id contains the cookie: the kernel
 * destroys this socket or none.
 */
static int destroy(int diag, const struct skreap_victim *v)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} message = {
		.header = {.nlmsg_len = sizeof(message), .nlmsg_type = SOCK_DESTROY,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
		.request = {.sdiag_family = v->family, .sdiag_protocol = v->protocol, .idiag_states = -1},
	};
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
	} answer;

	memcpy(&message.request.id, &v->id, sizeof(v->id));
	if (send(diag, &message, sizeof(message), 0) < 0)
		fail("send SOCK_DESTROY", errno);
	if (recv(diag, &answer, sizeof(answer), 0) < (ssize_t)sizeof(answer))
		fail("answer to SOCK_DESTROY", errno);
	return -answer.error.error;
}

static void print(const struct skreap_victim *v, const char *what)
{
	char local[INET6_ADDRSTRLEN] = "";

	inet_ntop(v->family, v->id.saddr, local, sizeof(local));
	printf("cookie %llu netns %u local %s port %u%s\n",
	       (unsigned long long)v->id.cookie[1] << 32 | v->id.cookie[0], v->netns_inum, local, ntohs(v->id.sport), what);
}

/* 1 if the socket is still there */
static int end(int diag, const struct skreap_victim *v)
{
	char why[256];
	int error;

	/* A diag socket reaches the netns it was made in. */
	if (v->netns_inum != own_netns())
		return print(v, " NOT destroyed: it is in another netns, run this there"), 1;
	error = destroy(diag, v);
	if (error && error != ENOENT) {
		snprintf(why, sizeof(why), " NOT destroyed: %s (errno %d)", strerror(error), error);
		return print(v, why), 1;
	}
	return print(v, error ? " closed meanwhile" : " destroyed"), 0;
}

int main(int argc, char **argv)
{
	struct skreap_walk walk = {.version = SKREAP_ABI_VERSION, .slot = SLOT};
	size_t size = sizeof(struct skreap_victim) * SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX;
	int kill = argc == 6 && !strcmp(argv[5], "destroy"), diag = -1, left = 0;
	const struct skreap_victim *emit;
	union bpf_attr run = {};

	if (argc != 5 + kill || !parse(&walk, argv[2], argv[3], argv[4]))
		return fprintf(stderr, "usage: walk DIR udp|tcp ADDRESS PORT [destroy]\n"), 2;
	run.test.prog_fd = open_pin(argv[1], "index/walk");
	run.test.ctx_in = (unsigned long)&walk;
	run.test.ctx_size_in = sizeof(walk);
	emit = mmap(NULL, size, PROT_READ, MAP_SHARED, open_pin(argv[1], "index/maps/emit"), 0);
	if (emit == MAP_FAILED)
		fail("mmap index/maps/emit", errno);
	if (kill && (diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)) < 0)
		fail("socket NETLINK_SOCK_DIAG", errno);
	do {
		if (bpf(BPF_PROG_TEST_RUN, &run))
			fail("BPF_PROG_TEST_RUN", errno);
		if (walk.error)
			fail(walk.error == -EPROTO ? "built with the abi.h of another version" : "walk", -walk.error);
		for (unsigned i = 0; i < walk.emitted; i++) {
			const struct skreap_victim *v = &emit[SLOT * SKREAP_EMIT_MAX + i];

			if (kill)
				left += end(diag, v);
			else
				print(v, "");
		}
		walk.flags |= SKREAP_WALK_RESUME;
	} while (walk.more);
	return walk.incomplete || left ? 3 : 0;
}
