/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Lists the sockets connected to an IPv4 UDP backend with the walk that `skreap serve --pin DIR` has pinned:
 *
 *	walk DIR/index/walk DIR/index/maps/emit 10.0.0.1 53
 */
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "abi.h"

static int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int open_pin(const char *path)
{
	union bpf_attr attr = {.pathname = (unsigned long)path};

	return bpf(BPF_OBJ_GET, &attr);
}

int main(int argc, char **argv)
{
	const int slot = SKREAP_WALK_SLOTS - 1;
	struct skreap_walk walk = {.version = SKREAP_ABI_VERSION, .slot = slot, .family = AF_INET, .protocol = IPPROTO_UDP};
	int program = open_pin(argc > 4 ? argv[1] : ""), map = open_pin(argc > 4 ? argv[2] : "");
	union bpf_attr run = {.test = {.prog_fd = program, .ctx_in = (unsigned long)&walk, .ctx_size_in = sizeof(walk)}};
	size_t size = sizeof(struct skreap_victim) * SKREAP_WALK_SLOTS * SKREAP_EMIT_MAX;
	const struct skreap_victim *emit = mmap(NULL, size, PROT_READ, MAP_SHARED, map, 0);

	if (argc != 5 || emit == MAP_FAILED || inet_pton(AF_INET, argv[3], walk.daddr) != 1)
		return perror("usage: walk PROGRAM EMIT ADDRESS PORT"), 2;
	walk.dport = htons(atoi(argv[4]));
	do {
		if (bpf(BPF_PROG_TEST_RUN, &run) || walk.error)
			return fprintf(stderr, "walk: %s\n", strerror(-walk.error)), 1;
		for (unsigned i = 0; i < walk.emitted; i++) {
			const struct skreap_victim *v = &emit[slot * SKREAP_EMIT_MAX + i];

			printf("cookie %llu netns %u port %u\n", (unsigned long long)v->id.cookie[1] << 32 | v->id.cookie[0],
			       v->netns_inum, ntohs(v->id.sport));
		}
		walk.flags |= SKREAP_WALK_RESUME;
	} while (walk.more);
	return walk.incomplete ? 3 : 0;
}
