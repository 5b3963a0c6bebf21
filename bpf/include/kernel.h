/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The few kernel types that the programs read, instead of a generated vmlinux.h.
 *
 * Types from the UAPI are complete and their layout is fixed.  Kernel-internal types list only the
 * members in use.  preserve_access_index lets libbpf move every access to the offset of the running
 * kernel, so order and padding here have no meaning.
 */
#ifndef SKREAP_KERNEL_H
#define SKREAP_KERNEL_H

#include "types.h"

#define NULL ((void *)0)

#define AF_INET 2
#define AF_INET6 10

#define SOCK_STREAM 1
#define SOCK_DGRAM 2

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_CLOSING 11
#define TCP_NEW_SYN_RECV 12

#define ENOENT 2
#define EBUSY 16
#define EINVAL 22
#define ENODATA 61
#define EPROTO 71
#define EOPNOTSUPP 95
#define ESTALE 116

/* ---- UAPI, linux/bpf.h ---- */

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
};

#define BPF_F_NO_PREALLOC 1 /* of a map */

#define BPF_ANY 0
#define BPF_NOEXIST 1

struct bpf_spin_lock {
	__u32 val;
};

struct bpf_iter_num {
	__u64 __opaque[1];
} __attribute__((aligned(8)));

/* Context of cgroup/sock_release */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* host order */
	__be16 dst_port;
	__u16 : 16;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
};

/* Context of cgroup/connect{4,6} and cgroup/sendmsg{4,6}; addresses and port in network order. */
struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	__u64 sk; /* struct bpf_sock *, 8 bytes on every target */
};

/* Context of programs of type SCHED_CLS; only passed on to helpers */
struct __sk_buff;

/* A socket as packets to it name it: saddr and sport are the peer's. */
struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

#define BPF_F_CURRENT_NETNS (-1L)

/* ---- kernel-internal, by CO-RE ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

typedef struct {
	struct {
		int counter;
	} refs;
} refcount_t;

struct ns_common {
	const void *ops; /* the same in all netns */
	__u32 inum;
	refcount_t count; /* until 6.17 */
};

struct hlist_node {
	struct hlist_node *next;
};

/* The last one is no node but 1 and, above that, a number. */
struct hlist_nulls_node {
	struct hlist_nulls_node *next;
};

struct inet_ehash_bucket {
	struct hlist_nulls_node *chain;
};

/* The table of TCP sockets that have a peer */
struct inet_hashinfo {
	struct inet_ehash_bucket *ehash;
	unsigned int ehash_mask;
};

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo; /* since 6.1 */
};

struct udp_hslot {
	int count;
};

/* The table of UDP sockets that have a local port */
struct udp_table {
	struct udp_hslot *hash;
	unsigned int mask;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
	struct udp_table *udp_table; /* since 6.2 */
};

struct net {
	struct list_head list; /* in net_namespace_list */
	__u64 net_cookie;
	struct ns_common ns;
	__u32 hash_mix;
	struct netns_ipv4 ipv4;
};

struct nsproxy {
	struct net *net_ns;
};

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[]; /* one for each PID namespace, [0] that of the machine */
};

struct task_struct {
	struct nsproxy *nsproxy;
	struct task_struct *group_leader;
	struct pid *thread_pid;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num; /* host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	struct hlist_node skc_node;
	struct hlist_nulls_node skc_nulls_node; /* the same place */
};

struct kernfs_node {
	__u64 id; /* cgroup id: inode number of its directory */
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[]; /* [0] is the root, [level] the cgroup itself; since 6.1 */
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

typedef struct {
	atomic64_t refcnt;
} file_ref_t;

struct file {
	file_ref_t f_ref; /* since 6.13 */
};

struct file___6_12 {
	atomic64_t f_count; /* atomic_long_t there */
};

struct sock;

struct socket {
	struct sock *sk;
	struct file *file; /* null: a socket of the kernel's own, or one that was released */
};

typedef struct {
	__u32 val;
} kuid_t;

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket; /* null: closed by its owner, the kernel finishes the connection */
	struct sock_cgroup_data sk_cgrp_data;
	__u32 sk_max_ack_backlog;
	kuid_t sk_uid; /* of its inode: who made it, or to whom fchown() gave it */
	__u8 sk_kern_sock : 1;
	__u8 sk_userlocks : 4;
	__u16 sk_type;
	__u16 sk_protocol;
	__u32 sk_mark;
};

struct ipv6_pinfo {
	int mcast_oif;
};

struct inet_sock {
	struct sock sk;
	__be32 inet_saddr;
	struct ipv6_pinfo *pinet6;
	int mc_index;
};

struct udp_sock {
	struct inet_sock inet;
};

struct tcp_sock {
	bool is_mptcp; /* with CONFIG_MPTCP */
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

/* Context of iter/tcp (net/ipv4/tcp_ipv4.c) */
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

/* Context of iter/udp (net/ipv4/udp.c) */
struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

/* Context of iter/task_file (kernel/bpf/task_iter.c) */
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* Begins as struct hlist_nulls_head does, and every bucket of a table with one of the two. */
struct hlist_head {
	struct hlist_node *first;
};

#endif
