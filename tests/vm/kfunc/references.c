// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* Who may take a reference, and that each is dropped. */
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sockets.h"
#include "table.h"
#include "test.h"

#define PORT 4100

/* A peer that nothing is connected to: the destroy only looks. */
static struct request look(struct table *table, __u64 cookie)
{
	struct request request = {.cookie = cookie, .peer = peer_of(IPPROTO_UDP, "192.0.2.1", 1)};
	int err = table_run(table, "reap_and_keep", &request, sizeof(request));

	if (err)
		request.result = err;
	return request;
}

/*
 * Takes the reference out of a record and deletes it. Deleting alone does not drop it at once: since 7.1 the pointer
 * stays in the element, and the next record that is made of it begins with it.
 */
static int drop(struct table *table, __u64 cookie)
{
	struct request request = {.cookie = cookie, .peer = peer_of(IPPROTO_UDP, "192.0.2.1", 1)};
	int err = table_run(table, "reap", &request, sizeof(request));

	return err ? err : table_delete(table, cookie);
}

static int hook_takes_and_drops_one(struct table *table)
{
	struct stats before = *table->stats;
	int fd = connected(IPPROTO_UDP, "127.0.0.1", PORT);
	__u64 cookie = cookie_of(fd);

	EXPECT_TRUE(fd >= 0);
	EXPECT(table->stats->acquired - before.acquired, 1);
	EXPECT(table->stats->released - before.released, 0);
	/* A second connect replaces the reference by one to the same socket. */
	EXPECT(reconnect(fd, "127.0.0.2", PORT), 0);
	EXPECT(table->stats->acquired - before.acquired, 2);
	EXPECT(table->stats->released - before.released, 1);
	close(fd);
	EXPECT(table->stats->released - before.released, 2);
	EXPECT(look(table, cookie).result, NO_RECORD);
	return 0;
}

static int held(struct table *table, int protocol, const char *iterator)
{
	int server = serve(protocol, "127.0.0.1", PORT);
	int fd = connected(protocol, "127.0.0.1", PORT);
	__u64 cookie = cookie_of(fd);
	__u32 references;

	EXPECT_TRUE(server >= 0 && fd >= 0);
	references = look(table, cookie).references;
	EXPECT_TRUE(references >= 2);
	EXPECT(look(table, cookie).references, references);
	/* If this one were not dropped, the iterator's would be one more. */
	EXPECT(drop(table, cookie), 0);
	EXPECT(look(table, cookie).result, NO_RECORD);
	EXPECT(table_iterate(table, iterator), 0);
	EXPECT(look(table, cookie).result, -ESTALE);
	EXPECT(look(table, cookie).references, references);
	close(fd);
	EXPECT(look(table, cookie).result, NO_RECORD);
	/* The iterator has recorded the server too. */
	EXPECT_TRUE(look(table, cookie_of(server)).result < 0);
	cookie = cookie_of(server);
	close(server);
	EXPECT(look(table, cookie).result, NO_RECORD);
	return 0;
}

static int udp_iterator_takes_one(struct table *table)
{
	return held(table, IPPROTO_UDP, "iter_udp");
}

static int tcp_iterator_takes_one(struct table *table)
{
	return held(table, IPPROTO_TCP, "iter_tcp");
}

static int reference_outlives_the_socket(struct table *table)
{
	int fd = connected(IPPROTO_UDP, "127.0.0.1", PORT);
	__u64 cookie = cookie_of(fd);

	EXPECT_TRUE(fd >= 0);
	table->stats->keep_closed = 1;
	close(fd);
	table->stats->keep_closed = 0;
	EXPECT(look(table, cookie).result, -ENOENT);
	EXPECT(look(table, cookie).references, 1);
	EXPECT(drop(table, cookie), 0);
	return 0;
}

static int other_protocols_are_refused(struct table *table)
{
	static const char range[] = "0 2147483647";
	int all = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY | O_CLOEXEC);
	struct stats before = *table->stats;
	int fd;

	EXPECT(write(all, range, strlen(range)), (long long)strlen(range));
	close(all);
	fd = connected(IPPROTO_ICMP, "127.0.0.1", 0);
	EXPECT_TRUE(fd >= 0);
	EXPECT(table->stats->acquired - before.acquired, 0);
	EXPECT(table->stats->refused - before.refused, 1);
	EXPECT(look(table, cookie_of(fd)).result, NO_SOCKET);
	close(fd);
	return 0;
}

/* The destructor drops what is still in the map when that goes; a worker of the kernel frees it a moment later. */
static int references_go_with_the_map(struct table *table)
{
	int fd = connected(IPPROTO_UDP, "127.0.0.1", PORT);
	__u64 cookie = cookie_of(fd);
	__u32 references, now = 0;

	EXPECT_TRUE(fd >= 0);
	references = look(table, cookie).references;
	EXPECT_TRUE(references >= 2);
	EXPECT(table_open_again(table), 0);
	EXPECT(look(table, cookie).result, NO_RECORD);
	for (int i = 0; i < 500 && now != references; i++) {
		usleep(10000);
		EXPECT(table_iterate(table, "iter_udp"), 0);
		now = look(table, cookie).references;
	}
	EXPECT(now, references);
	close(fd);
	EXPECT(look(table, cookie).result, NO_RECORD);
	return 0;
}

static int all_references_are_dropped(struct table *table)
{
	__u64 before = table->stats->acquired - table->stats->released;

	for (int i = 0; i < 1000; i++) {
		int protocol = i & 1 ? IPPROTO_UDP : IPPROTO_TCP;
		/* Without a server, half of them fail: their release runs too. */
		int fd = connected(protocol, "127.0.0.1", PORT);

		EXPECT(fd >= 0, protocol == IPPROTO_UDP);
		if (fd >= 0)
			close(fd);
	}
	EXPECT(table->stats->acquired - table->stats->released, before);
	return 0;
}

const struct test reference_tests[] = {
	{"hook_takes_and_drops_one", hook_takes_and_drops_one},
	{"udp_iterator_takes_one", udp_iterator_takes_one},
	{"tcp_iterator_takes_one", tcp_iterator_takes_one},
	{"reference_outlives_the_socket", reference_outlives_the_socket},
	{"other_protocols_are_refused", other_protocols_are_refused},
	{"references_go_with_the_map", references_go_with_the_map},
	{"all_references_are_dropped", all_references_are_dropped},
	{},
};
