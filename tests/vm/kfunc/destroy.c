// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* What destroy does and returns. main() runs these tests with each of its forms. */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sockets.h"
#include "table.h"
#include "test.h"

#define PORT 4000

const char *destroy_form = "";

static int reap(struct table *table, __u64 cookie, struct skreap_peer peer, const char *program)
{
	struct request request = {.cookie = cookie, .peer = peer};
	char name[32];
	int err;

	snprintf(name, sizeof(name), "%s%s", destroy_form, program);
	err = table_run(table, name, &request, sizeof(request));
	return err ? err : request.result;
}

/* recv says it once, then UDP has nothing more to say and TCP is at its end. */
static int expect_aborted(int fd, int protocol)
{
	char byte;

	EXPECT_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), ECONNABORTED);
	if (protocol == IPPROTO_TCP) {
		EXPECT(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
		EXPECT_ERRNO(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
	} else {
		EXPECT_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
		EXPECT_ERRNO(send(fd, "x", 1, 0), EDESTADDRREQ);
	}
	return 0;
}

static int expect_alive(int fd)
{
	char byte;

	EXPECT_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
	EXPECT(send(fd, "x", 1, MSG_NOSIGNAL), 1);
	return 0;
}

static int destroys(struct table *table, int protocol, const char *address)
{
	int server = serve(protocol, address, PORT);
	int fd = connected(protocol, address, PORT);
	int neighbour = connected(protocol, address, PORT);

	EXPECT_TRUE(server >= 0 && fd >= 0 && neighbour >= 0);
	EXPECT(expect_alive(fd), 0);
	EXPECT(reap(table, cookie_of(fd), peer_of(protocol, address, PORT), "reap"), 0);
	EXPECT(expect_aborted(fd, protocol), 0);
	EXPECT(expect_alive(neighbour), 0);
	/* The reference was dropped with the first. */
	EXPECT(reap(table, cookie_of(fd), peer_of(protocol, address, PORT), "reap"), NO_SOCKET);
	close(neighbour);
	close(fd);
	close(server);
	return 0;
}

static int udp_ipv4_is_destroyed(struct table *table)
{
	return destroys(table, IPPROTO_UDP, "127.0.0.1");
}

static int udp_ipv6_is_destroyed(struct table *table)
{
	return destroys(table, IPPROTO_UDP, "::1");
}

static int udp_mapped_is_destroyed(struct table *table)
{
	return destroys(table, IPPROTO_UDP, "::ffff:127.0.0.1");
}

static int tcp_ipv4_is_destroyed(struct table *table)
{
	return destroys(table, IPPROTO_TCP, "127.0.0.1");
}

static int tcp_ipv6_is_destroyed(struct table *table)
{
	return destroys(table, IPPROTO_TCP, "::1");
}

static int tcp_mapped_is_destroyed(struct table *table)
{
	return destroys(table, IPPROTO_TCP, "::ffff:127.0.0.1");
}

static int destroyed_twice(struct table *table, int protocol)
{
	int server = serve(protocol, "127.0.0.1", PORT);
	int fd = connected(protocol, "127.0.0.1", PORT);
	struct skreap_peer peer = peer_of(protocol, "127.0.0.1", PORT);

	EXPECT_TRUE(server >= 0 && fd >= 0);
	EXPECT(reap(table, cookie_of(fd), peer, "reap_and_keep"), 0);
	EXPECT(reap(table, cookie_of(fd), peer, "reap_and_keep"), -ENOENT);
	EXPECT(reap(table, cookie_of(fd), peer, "reap"), -ENOENT);
	EXPECT(expect_aborted(fd, protocol), 0);
	close(fd);
	close(server);
	return 0;
}

static int udp_destroyed_twice_is_enoent(struct table *table)
{
	return destroyed_twice(table, IPPROTO_UDP);
}

static int tcp_destroyed_twice_is_enoent(struct table *table)
{
	return destroyed_twice(table, IPPROTO_TCP);
}

static int closed(struct table *table, int protocol)
{
	int server = serve(protocol, "127.0.0.1", PORT);
	int fd = connected(protocol, "127.0.0.1", PORT);
	__u64 cookie = cookie_of(fd);

	EXPECT_TRUE(server >= 0 && fd >= 0);
	table->stats->keep_closed = 1;
	close(fd);
	table->stats->keep_closed = 0;
	EXPECT(reap(table, cookie, peer_of(protocol, "127.0.0.1", PORT), "reap"), -ENOENT);
	EXPECT(table_delete(table, cookie), 0);
	close(server);
	return 0;
}

static int udp_closed_is_enoent(struct table *table)
{
	return closed(table, IPPROTO_UDP);
}

static int tcp_closed_is_enoent(struct table *table)
{
	return closed(table, IPPROTO_TCP);
}

static int moved_socket_is_estale(struct table *table)
{
	int fd = connected(IPPROTO_UDP, "127.0.0.1", PORT);
	struct skreap_peer before = peer_of(IPPROTO_UDP, "127.0.0.1", PORT);
	struct skreap_peer now = peer_of(IPPROTO_UDP, "127.0.0.2", PORT);

	EXPECT_TRUE(fd >= 0);
	EXPECT(reconnect(fd, "127.0.0.2", PORT), 0);
	EXPECT(reap(table, cookie_of(fd), before, "reap_and_keep"), -ESTALE);
	EXPECT(expect_alive(fd), 0);
	EXPECT(reap(table, cookie_of(fd), now, "reap"), 0);
	close(fd);
	return 0;
}

/* Each member of the peer counts. */
static int almost_the_peer_is_estale(struct table *table)
{
	struct skreap_peer others[] = {
		peer_of(IPPROTO_UDP, "127.0.0.1", PORT + 1),
		peer_of(IPPROTO_UDP, "127.0.0.2", PORT),
		peer_of(IPPROTO_UDP, "::1", PORT),
		peer_of(IPPROTO_TCP, "127.0.0.1", PORT),
		{.protocol = IPPROTO_UDP},
	};
	int fd = connected(IPPROTO_UDP, "127.0.0.1", PORT);

	EXPECT_TRUE(fd >= 0);
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
		EXPECT(reap(table, cookie_of(fd), others[i], "reap_and_keep"), -ESTALE);
	EXPECT(reap(table, cookie_of(fd), peer_of(IPPROTO_UDP, "127.0.0.1", PORT), "reap"), 0);
	close(fd);
	return 0;
}

static int no_peer_at_all_is_einval(struct table *table)
{
	struct skreap_peer bad[] = {
		{.family = AF_INET, .protocol = IPPROTO_UDP},
		peer_of(IPPROTO_UDP, "127.0.0.1", 0),
		peer_of(IPPROTO_UDP, "0.0.0.0", PORT),
		peer_of(IPPROTO_UDP, "::", PORT),
		{.family = AF_UNIX, .dport = 1, .daddr = {1}, .protocol = IPPROTO_UDP},
		{.protocol = IPPROTO_TCP},
		{.dport = 1, .protocol = IPPROTO_UDP},
	};
	int fd = connected(IPPROTO_UDP, "127.0.0.1", PORT);

	EXPECT_TRUE(fd >= 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		EXPECT(reap(table, cookie_of(fd), bad[i], "reap_and_keep"), -EINVAL);
	EXPECT(expect_alive(fd), 0);
	close(fd);
	return 0;
}

static int unconnected_udp_is_destroyed_only_as_such(struct table *table)
{
	struct skreap_peer none = {.protocol = IPPROTO_UDP};
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char byte;

	EXPECT_TRUE(fd >= 0);
	EXPECT(sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)), 1);
	EXPECT(reap(table, cookie_of(fd), peer_of(IPPROTO_UDP, "127.0.0.1", PORT), "reap_and_keep"), -ENOENT);
	EXPECT(reap(table, cookie_of(fd), none, "reap"), 0);
	EXPECT_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), ECONNABORTED);
	close(fd);
	return 0;
}

const struct test destroy_tests[] = {
	{"udp_ipv4_is_destroyed", udp_ipv4_is_destroyed},
	{"udp_ipv6_is_destroyed", udp_ipv6_is_destroyed},
	{"udp_mapped_is_destroyed", udp_mapped_is_destroyed},
	{"tcp_ipv4_is_destroyed", tcp_ipv4_is_destroyed},
	{"tcp_ipv6_is_destroyed", tcp_ipv6_is_destroyed},
	{"tcp_mapped_is_destroyed", tcp_mapped_is_destroyed},
	{"udp_destroyed_twice_is_enoent", udp_destroyed_twice_is_enoent},
	{"tcp_destroyed_twice_is_enoent", tcp_destroyed_twice_is_enoent},
	{"udp_closed_is_enoent", udp_closed_is_enoent},
	{"tcp_closed_is_enoent", tcp_closed_is_enoent},
	{"moved_socket_is_estale", moved_socket_is_estale},
	{"almost_the_peer_is_estale", almost_the_peer_is_estale},
	{"no_peer_at_all_is_einval", no_peer_at_all_is_einval},
	{"unconnected_udp_is_destroyed_only_as_such", unconnected_udp_is_destroyed_only_as_such},
	{},
};
