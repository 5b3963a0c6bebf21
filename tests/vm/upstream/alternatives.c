// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * Times three ways to destroy the UDP sockets with one peer, in turns, on the kernel with docs/upstream and
 * docs/upstream/alternatives: bpf_sock_destroy_peer_might_sleep() on references that were recorded at connect, iter/udp
 * in each netns, and iter/udp_all once. One line of JSON for each world and way on stderr.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "alternatives.skel.h"

enum { ROUNDS = 15, MAX_NETNS = 100, MAX_SOCKETS = 10000, VICTIM_PORT = 5300, OTHER_PORT = 5301 };

static const struct world {
	int netns, sockets, victims;
} worlds[] = {
	{1, 10000, 10}, {10, 10000, 10}, {100, 1000, 10}, {100, 10000, 1}, {100, 10000, 10}, {100, 10000, 1000},
};

enum way { HELD, EACH_NETNS, ALL_NETNS, WAYS };
static const char *const way_names[] = {"held", "iter/udp", "iter/udp_all"};

static struct alternatives *skel;
static struct bpf_link *each_netns, *all_netns;
static int first_netns, netns[MAX_NETNS], sockets[MAX_SOCKETS];

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void enter(int fd)
{
	if (setns(fd, CLONE_NEWNET))
		fail("setns");
}

static int this_netns(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("/proc/thread-self/ns/net");
	return fd;
}

static void make_netns(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd;

	first_netns = this_netns();
	for (int i = 0; i < MAX_NETNS; i++) {
		if (unshare(CLONE_NEWNET))
			fail("unshare");
		netns[i] = this_netns();
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		if (ioctl(fd, SIOCSIFFLAGS, &request))
			fail("lo");
		close(fd);
	}
	enter(first_netns);
}

/* The victims are in as many netns as possible. */
static void connect_socket(int i, int port)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	if (connect(sockets[i], (void *)&to, sizeof(to)))
		fail("connect");
}

static void make_sockets(const struct world *world)
{
	for (int n = 0; n < world->netns; n++) {
		enter(netns[n]);
		for (int i = n; i < world->sockets; i += world->netns) {
			sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
			if (sockets[i] < 0)
				fail("socket");
			connect_socket(i, i < world->victims ? VICTIM_PORT : OTHER_PORT);
		}
	}
	enter(first_netns);
}

static void read_all(struct bpf_link *link)
{
	int fd = bpf_iter_create(bpf_link__fd(link));
	char text[64];

	if (fd < 0)
		fail("bpf_iter_create");
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

static void destroy(enum way way, const struct world *world)
{
	LIBBPF_OPTS(bpf_test_run_opts, options);

	switch (way) {
	case HELD:
		if (bpf_prog_test_run_opts(bpf_program__fd(skel->progs.destroy_held), &options))
			fail("destroy_held");
		break;
	case EACH_NETNS:
		for (int i = 0; i < world->netns; i++) {
			enter(netns[i]);
			read_all(each_netns);
		}
		enter(first_netns);
		break;
	default:
		read_all(all_netns);
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Microseconds. All victims must be gone, and nothing else. */
static double timed(enum way way, const struct world *world)
{
	double begin, time;
	int error;
	socklen_t size = sizeof(error);

	skel->bss->visited = skel->bss->destroyed = 0;
	begin = now();
	destroy(way, world);
	time = now() - begin;
	if ((int)skel->bss->destroyed != world->victims) {
		fprintf(stderr, "%s destroyed %u of %d\n", way_names[way], skel->bss->destroyed, world->victims);
		exit(1);
	}
	skel->bss->held = 0;
	for (int i = 0; i < world->victims; i++) {
		if (getsockopt(sockets[i], SOL_SOCKET, SO_ERROR, &error, &size) || error != ECONNABORTED)
			fail("a victim has no error");
		connect_socket(i, VICTIM_PORT);
	}
	return time;
}

static int by_size(const void *a, const void *b)
{
	const double *left = a, *right = b;

	return (*left > *right) - (*left < *right);
}

static void measure(const struct world *world)
{
	static double times[WAYS][ROUNDS];
	unsigned int visited[WAYS];

	skel->bss->held = 0;
	make_sockets(world);
	for (int way = 0; way < WAYS; way++) /* what is loaded or grows once */
		timed(way, world);
	for (int round = 0; round < ROUNDS; round++) {
		for (int way = 0; way < WAYS; way++) {
			times[way][round] = timed(way, world);
			visited[way] = skel->bss->visited;
		}
	}
	for (int way = 0; way < WAYS; way++) {
		fprintf(stderr, "{\"netns\": %d, \"sockets\": %d, \"victims\": %d, \"way\": \"%s\", \"visited\": %u, \"us\": [",
			world->netns, world->sockets, world->victims, way_names[way], visited[way]);
		qsort(times[way], ROUNDS, sizeof(double), by_size);
		for (int round = 0; round < ROUNDS; round++)
			fprintf(stderr, "%s%.1f", round ? ", " : "", times[way][round]);
		fprintf(stderr, "], \"median\": %.1f}\n", times[way][ROUNDS / 2]);
	}
	for (int i = 0; i < world->sockets; i++)
		close(sockets[i]);
}

int main(int argc, char **argv)
{
	struct rlimit files = {MAX_SOCKETS + 1000, MAX_SOCKETS + 1000};
	int cgroup = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (argc > 1 && !strcmp(argv[1], "--list")) {
		printf("alternatives: test\n");
		return 0;
	}
	if (setrlimit(RLIMIT_NOFILE, &files))
		fail("RLIMIT_NOFILE");
	skel = alternatives__open_and_load();
	if (!skel)
		fail("load");
	skel->bss->victim_addr = htonl(INADDR_LOOPBACK);
	skel->bss->victim_port = htons(VICTIM_PORT);
	skel->links.hold_victim = bpf_program__attach_cgroup(skel->progs.hold_victim, cgroup);
	each_netns = bpf_program__attach_iter(skel->progs.destroy_in_netns, NULL);
	all_netns = bpf_program__attach_iter(skel->progs.destroy_in_all_netns, NULL);
	if (!skel->links.hold_victim || !each_netns || !all_netns)
		fail("attach");
	make_netns();
	for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
		measure(&worlds[i]);
	printf("test alternatives ... ok\n");
	return 0;
}
