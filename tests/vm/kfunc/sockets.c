// SPDX-License-Identifier: (GPL-2.0 OR MIT)
#include "sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t parse(const char *text, int port, union address *address)
{
	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, text, &address->v4.sin_addr) == 1) {
		address->v4.sin_family = AF_INET;
		address->v4.sin_port = htons(port);
		return sizeof(address->v4);
	}
	if (inet_pton(AF_INET6, text, &address->v6.sin6_addr) == 1) {
		address->v6.sin6_family = AF_INET6;
		address->v6.sin6_port = htons(port);
		return sizeof(address->v6);
	}
	return 0;
}

static int open_for(const union address *address, int protocol)
{
	int type = protocol == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM;

	return socket(address->any.sa_family, type | SOCK_CLOEXEC, protocol);
}

struct skreap_peer peer_of(int protocol, const char *text, int port)
{
	struct skreap_peer peer = {.dport = htons(port), .protocol = protocol};
	union address address;

	if (!parse(text, port, &address))
		return peer;
	peer.family = address.any.sa_family;
	if (peer.family == AF_INET) {
		peer.daddr[0] = address.v4.sin_addr.s_addr;
	} else if (IN6_IS_ADDR_V4MAPPED(&address.v6.sin6_addr)) {
		peer.family = AF_INET;
		peer.daddr[0] = address.v6.sin6_addr.s6_addr32[3];
	} else {
		memcpy(peer.daddr, &address.v6.sin6_addr, sizeof(peer.daddr));
	}
	return peer;
}

int reconnect(int fd, const char *text, int port)
{
	union address address;
	socklen_t length = parse(text, port, &address);

	return connect(fd, &address.any, length);
}

int connected(int protocol, const char *text, int port)
{
	union address address;
	socklen_t length = parse(text, port, &address);
	int fd = open_for(&address, protocol);

	if (fd >= 0 && connect(fd, &address.any, length)) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

int serve(int protocol, const char *text, int port)
{
	union address address;
	socklen_t length = parse(text, port, &address);
	int fd = open_for(&address, protocol), one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &address.any, length) || (protocol == IPPROTO_TCP && listen(fd, 16))) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

__u64 cookie_of(int fd)
{
	__u64 cookie = 0;
	socklen_t length = sizeof(cookie);

	getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length);
	return cookie;
}
