/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* Sockets on loopback, and their identity. */
#ifndef KFUNC_SOCKETS_H
#define KFUNC_SOCKETS_H

#include <linux/types.h>

#include "kfunc.h"

/* A peer from text; an IPv4-mapped address becomes IPv4, as in the kernel's record. */
struct skreap_peer peer_of(int protocol, const char *address, int port);
/* A socket connected to the address as it is written; -1 and errno. */
int connected(int protocol, const char *address, int port);
/* Connects a socket that exists. */
int reconnect(int fd, const char *address, int port);
/* A listener, or a UDP socket that is bound. */
int serve(int protocol, const char *address, int port);
__u64 cookie_of(int fd);

#endif
