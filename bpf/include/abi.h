/* SPDX-License-Identifier: (GPL-2.0 OR MIT) OR Apache-2.0 */
/*
 * Every struct that crosses the border between kernel and user space.
 *
 * Fixed-width members, explicit padding, sizes asserted.  Rust gets these types from the BTF of the
 * object (libbpf-cargo's skeleton), other languages can include this file.  Any change of meaning
 * or layout raises SKREAP_ABI_VERSION, which a walk checks first.
 */
#ifndef SKREAP_ABI_H
#define SKREAP_ABI_H

#define SKREAP_ABI_VERSION 4

/*
 * Version of everything that lives in pinned maps.  Raise it whenever the programs of this version
 * cannot continue with the map contents of the version before.  A changed size is detected without
 * it.
 */
#define SKREAP_LAYOUT_VERSION 3

/* Number of concurrent walks; each has a slot, a cursor node and an emit buffer of its own. */
#define SKREAP_WALK_SLOTS 8
/* Victims one emit buffer holds; a walk with more is resumed. */
#define SKREAP_EMIT_MAX 2048

/* Identifies a socket to sock_diag: the layout of struct inet_diag_sockid (linux/inet_diag.h). */
struct skreap_sockid {
	__be16 sport;
	__be16 dport;
	__be32 saddr[4]; /* IPv4 in [0] */
	__be32 daddr[4];
	__u32 ifindex;
	__u32 cookie[2]; /* low half first */
};
_Static_assert(sizeof(struct skreap_sockid) == 48, "layout of struct inet_diag_sockid");

/* Reason why a socket was emitted.  A targeted walk emits CONNECTED and, if asked, UNCONNECTED. */
enum skreap_relation {
	SKREAP_CONNECTED = 1,	/* its live peer is the backend it is recorded under */
	SKREAP_UNCONNECTED = 2, /* has no peer, has sent to the backend (id.daddr is the backend) */
	SKREAP_MOVED_ON = 3,	/* recorded under a backend, connected to another peer */
	SKREAP_NO_PEER = 4,	/* recorded by connect(), has no peer now */
	SKREAP_STALE = 5,	/* node without its socket: an alarm */
};

/* Bits beside the relation, where a walk lists or watches pending connects */
enum skreap_pending {
	SKREAP_PENDING = 64,	/* it may be connecting to the target at this moment */
	SKREAP_NO_VICTIM = 128, /* ... and is emitted for no other reason */
};

/* One socket as the walk read it from the live struct sock. */
struct skreap_victim {
	struct skreap_sockid id;
	__u64 netns;	  /* netns cookie */
	__u32 netns_inum; /* inode number of the netns */
	__u8 family;	  /* AF_INET, AF_INET6 (also for IPv4-mapped peers) */
	__u8 protocol;	  /* IPPROTO_TCP, IPPROTO_UDP */
	__u8 state;	  /* TCP_* of net/tcp_states.h; UDP: ESTABLISHED or CLOSE */
	__u8 relation;	  /* enum skreap_relation, and bits of enum skreap_pending */
};
_Static_assert(sizeof(struct skreap_victim) == 64, "one cache line");

enum skreap_walk_flags {
	SKREAP_WALK_UNCONNECTED = 1, /* sockets that only sent to the backend are victims too */
	SKREAP_WALK_RESUME = 2,	     /* continue where the last call on this slot stopped */
	SKREAP_WALK_ALL = 4,	     /* no target: emit every node of the index */
	SKREAP_WALK_DESTROY = 8,     /* destroy the victims; emit those that could not be */
	SKREAP_WALK_LIST = 16,	     /* with DESTROY: emit all victims */
	/* Emit only the sockets that may be connecting to the target at this moment */
	SKREAP_WALK_PENDING = 32,
	/* Begin to watch them.  Without PENDING: emit them beside the victims */
	SKREAP_WALK_WATCH = 64,
	SKREAP_WALK_EXPIRE = 128, /* with PENDING: end the wait, do not emit the watched ones again */
	/*
	 * With ALL: id.daddr, id.dport and family of MOVED_ON are those of the backend it is
	 * recorded under (dport 0: not known), not of its peer
	 */
	SKREAP_WALK_RECORDED = 256,
	/* Only where frontends are recorded: only victims of those set for the slot */
	SKREAP_WALK_FRONTENDS = 1 << 14,
	/* The same, with ALL: forget the frontends recorded in the epochs set for the slot */
	SKREAP_WALK_FORGET = 1 << 15,
};

/* Why the index may not know all sockets of the target */
enum skreap_incomplete {
	SKREAP_INCOMPLETE_FULL = 1,	   /* a record failed: no free node */
	/*
	 * an unconnected socket sent to too many peers to list, or one that sent to the target had
	 * no node
	 */
	SKREAP_INCOMPLETE_UNCONNECTED = 2,
	SKREAP_INCOMPLETE_EVERYTHING = 4, /* sockets of any backend may be missing */
	/* the kernel's own sockets (MPTCP subflows, an NFS mount) have connected to the target: the index has none */
	SKREAP_INCOMPLETE_KERNEL = 8,
};

/*
 * Context of the `skreap_walk` program, BPF_PROG_TEST_RUN with ctx_in only; the kernel writes it
 * back in place.  The victims are in the map `.bss.emit`, at index slot * SKREAP_EMIT_MAX.  The
 * result of each destroy, 0 or a positive errno, is in `.bss.results` at the same index.  Counters
 * are of this call alone: add them up over resumed calls.
 *
 * SKREAP_WALK_DESTROY needs the kernel module (docs/kfunc.md).  It compares the peer again under the
 * lock of each socket, and never waits for that lock.  An emitted victim with ENODATA has no
 * reference; one with EBUSY has its lock held, or is being recorded or destroyed by another program
 * at this moment.  Destroy these by their id.
 */
struct skreap_walk {
	/* in */
	__u32 version; /* SKREAP_ABI_VERSION */
	__u16 slot;    /* 0 .. SKREAP_WALK_SLOTS - 1, one walk at a time on each */
	__u16 flags;   /* enum skreap_walk_flags */
	__be32 daddr[4]; /* target; IPv4 in [0], IPv4-mapped addresses as IPv4 */
	__be16 dport;
	__u8 family;
	__u8 protocol;
	__u32 states; /* bit 1 << TCP_* of net/tcp_states.h: TCP sockets in these are victims; 0: as all bits */
	/* out */
	__s32 error;	  /* 0 or -errno: EPROTO version, EINVAL target, EBUSY slot in use, EOPNOTSUPP no module */
	__u32 emitted;	  /* victims in the emit buffer */
	__u32 more;	  /* 1: not done yet, call again with SKREAP_WALK_RESUME */
	__u32 incomplete; /* enum skreap_incomplete */
	__u64 visited;	   /* nodes of the target */
	__u64 passed_over; /* nodes of other backends in the same bucket */
	__u64 unconnected; /* skipped: has only sent to the target, and not requested */
	__u64 moved_on;	   /* skipped: connected to another peer */
	__u64 no_peer;	   /* skipped: recorded by connect(), has no peer */
	__u64 state;	   /* skipped: TCP state that cannot be destroyed, or not requested */
	__u64 stale;	   /* skipped: the node's socket is gone; an alarm */
	__u64 destroyed;   /* victims destroyed by this walk */
	__u64 gone;	   /* victims that were closed before the destroy had their lock */
};
_Static_assert(sizeof(struct skreap_walk) == 120, "no hidden padding");

/* Result of a re-key for one socket */
enum skreap_rekeyed {
	SKREAP_REKEY_GONE = 1,	    /* closed, or not in the index */
	SKREAP_REKEY_NO_PEER = 2,   /* a pending or failed connect, disconnected, destroyed */
	SKREAP_REKEY_ONLY_SENT = 3, /* has no peer, and was never recorded by connect() */
	SKREAP_REKEY_KNOWN = 4,	    /* was recorded under its live peer already */
	SKREAP_REKEY_ADDED = 5,	    /* is recorded under its live peer now */
	SKREAP_REKEY_NO_NODE = 6,   /* no free node: its live peer is incomplete */
};

/* Context of the `skreap_rekey` program, BPF_PROG_TEST_RUN as for `skreap_walk`. */
struct skreap_rekey {
	__u32 version; /* in: SKREAP_ABI_VERSION */
	__s32 error;   /* out: 0 or -errno: EPROTO version, EINVAL cookie */
	__u64 cookie;  /* in: of the socket */
	enum skreap_rekeyed result; /* out */
	__u32 nodes;		    /* out: memberships the socket had before */
};
_Static_assert(sizeof(struct skreap_rekey) == 24, "no hidden padding");

/* Context of the `skreap_sent` program, BPF_PROG_TEST_RUN as for `skreap_walk`. */
struct skreap_sent {
	__u32 version; /* in: SKREAP_ABI_VERSION */
	__s32 error;   /* out: 0 or -errno: EPROTO version, EINVAL cookie */
	__u64 cookie;  /* in: of the socket */
	__u32 nodes;   /* out: memberships of the socket; 0: it is closed, or not in the index */
	__u32 sent;    /* out: 1: it has sent to an address, or to too many peers to tell */
};
_Static_assert(sizeof(struct skreap_sent) == 24, "no hidden padding");

/* Sockets that user space may connect at one time */
#define SKREAP_CONNECTS_MAX 4096

/* Connects of others, of one of these sockets: values of the map `own_connects`, by cookie */
struct skreap_connects {
	__u64 theirs;	 /* since user space has put the socket there */
	__be32 daddr[4]; /* of the last one; IPv4 in [0] */
	__be16 dport;
	__u16 family;
	__u32 padding;
};
_Static_assert(sizeof(struct skreap_connects) == 32, "no hidden padding");

/* Context of the `skreap_connecting` program, BPF_PROG_TEST_RUN as for `skreap_walk`. */
struct skreap_connecting {
	__s32 users; /* in: how many more look at the map, or fewer */
	__u32 padding;
};
_Static_assert(sizeof(struct skreap_connecting) == 8, "no hidden padding");

/*
 * Context of the `skreap_incomplete` program, BPF_PROG_TEST_RUN as for `skreap_walk`: changes the
 * bits that stand for the backends that may lack sockets in the index.
 */
enum skreap_incomplete_action {
	SKREAP_INCOMPLETE_FLIP = 1,    /* later bits are of another generation */
	SKREAP_INCOMPLETE_CLEAR = 2,   /* clear the bits that are older than the last flip */
	SKREAP_INCOMPLETE_SET_ALL = 3, /* sockets of any backend may be missing */
};

struct skreap_incomplete_update {
	__u32 version; /* in: SKREAP_ABI_VERSION */
	__s32 error;   /* out: 0 or -errno: EPROTO version, EINVAL what */
	enum skreap_incomplete_action what; /* in */
};
_Static_assert(sizeof(struct skreap_incomplete_update) == 12, "no hidden padding");

/* Counters kept by the index; sums over the shards are exact when no hook is running. */
struct skreap_shard_counters {
	__u64 inserts;	/* nodes linked into a bucket */
	__u64 removals; /* nodes unlinked from a bucket */
	__u64 releases; /* sockets released that had at least one node */
};

struct skreap_cpu_counters {
	__u64 releases_without_node;   /* has a cookie, was not recorded */
	__u64 releases_without_cookie; /* never connected, cookie never requested */
	__u64 padding[6];
};
_Static_assert(sizeof(struct skreap_cpu_counters) == 64, "one cache line per CPU");

struct skreap_counters {
	__u64 dropped_full;	 /* not recorded: no free node */
	__u64 dropped_chain;	 /* not recorded: record chain longer than the bound */
	__u64 ignored_kernel;	 /* not recorded: in-kernel socket, never runs sock_release */
	__u64 ignored_protocol; /* not recorded: neither TCP nor UDP */
	__u64 wildcard;		 /* sockets that became wildcards: too many peers to list */
	__u64 stale;		 /* nodes without their socket, found by walks */
	__u64 without_ref;	 /* sockets the module gave no reference to */
	__u64 last_stale;	 /* cookie of the socket whose nodes were the last stale ones */
};

/*
 * Results for the pre-existing sockets.  Sockets that are not connected, or
 * outside the cgroup, are not counted.
 */
struct skreap_bootstrap_counts {
	__u64 indexed;
	__u64 closed; /* left out: closed, or just being closed */
};

enum skreap_bootstrap_what {
	SKREAP_BOOTSTRAP_CLIENT = 1,
	SKREAP_BOOTSTRAP_ACCEPTED = 2, /* left out: the server's side */
	SKREAP_BOOTSTRAP_DROPPED = 3,  /* no room; the backend is incomplete */
};

/* A socket that the iterators over pre-existing sockets have come to: their output.  One that several processes have open, or
 * that is met again, is told of each time; a dropped one is told of as a client before. */
struct skreap_bootstrap_socket {
	__u64 cookie;
	__u32 protocol;
	__u32 what; /* enum skreap_bootstrap_what */
};
_Static_assert(sizeof(struct skreap_bootstrap_socket) == 16, "no hidden padding");

struct skreap_bootstrap {
	__u64 cgroup; /* in: id of the indexed cgroup; 0: the root */
	struct skreap_bootstrap_counts tcp;
	struct skreap_bootstrap_counts udp;
	__u64 passed; /* sockets read so far; stands still while the pass waits for a lock */
	__u64 fence;
};
_Static_assert(sizeof(struct skreap_bootstrap) == 56, "no hidden padding");

/* Most distinct frontends; the default of a service that records them */
#define SKREAP_FRONTENDS_MAX 16384

/* The frontend of a node: the address that the application named.  One of these, or an element of the table of frontends */
enum skreap_frontend_id {
	SKREAP_FRONTEND_UNKNOWN = 0,
	SKREAP_FRONTEND_DIRECT = 1, /* the backend itself was named */
	SKREAP_FRONTEND_FIRST = 2,  /* of the table: its first element */
};

enum skreap_frontend_op {
	SKREAP_FRONTEND_SET_EPOCH = 1,	    /* value: the epoch of what is recorded from now on; 0: nothing is trusted */
	SKREAP_FRONTEND_FILTER_CLEAR = 2,   /* of the slot; value: the first epoch that SKREAP_WALK_FORGET forgets */
	SKREAP_FRONTEND_FILTER_ID = 3,	    /* the slot's walks want this id */
	SKREAP_FRONTEND_FILTER_ADDRESS = 4, /* the slot's walks want this frontend */
};

/* Context of the `skreap_frontends` program, BPF_PROG_TEST_RUN as for `skreap_walk`. */
struct skreap_frontend {
	__u32 version; /* in: SKREAP_ABI_VERSION */
	__s32 error;   /* out: 0 or -errno: EPROTO version, EINVAL op, slot or value */
	enum skreap_frontend_op op; /* in, as all that follows */
	__u32 slot;
	__u32 value;
	__be32 daddr[4]; /* as in struct skreap_walk */
	__be16 dport;
	__u8 family;
	__u8 protocol;
};
_Static_assert(sizeof(struct skreap_frontend) == 40, "no hidden padding");

/* Calls whose frontend was not found out, by reason */
struct skreap_frontend_counters {
	__u64 not_first;  /* the first program did not run before all others, or nobody knows */
	__u64 no_note;	  /* it has left no note, or another call has overwritten it */
	__u64 table_full; /* no room for another frontend */
};

/*
 * Context of the `skreap_functions` program: 1 where it was loaded with the function, of the kernel or
 * the module.
 */
struct skreap_functions {
	__u32 acquire;
	__u32 release;
	__u32 destroy;
};
_Static_assert(sizeof(struct skreap_functions) == 12, "no hidden padding");

/* Whether a reference to each recorded socket is held, and by whose functions (docs/kfunc.md). */
enum { SKREAP_REFS_NONE, SKREAP_REFS_MODULE, SKREAP_REFS_KERNEL };

/*
 * The facts that a process needs about a pinned index before it loads its programs and takes over.
 */
struct skreap_cfg {
	__u32 layout; /* SKREAP_LAYOUT_VERSION */
	__u32 nodes;
	__u64 seed;
	__u32 shards;
	__u32 record_slots; /* per shard */
	__u32 buckets;	    /* per shard */
	__u32 max_memberships;
	__u32 max_sockets;
	__u32 bootstrapped; /* 1: pre-existing sockets have been looked for */
	__u32 refs;	    /* SKREAP_REFS_* */
	__u32 frontends;    /* room for so many; 0: none are recorded */
};
_Static_assert(sizeof(struct skreap_cfg) == 48, "no hidden padding");

/*
 * The constants above, in the read-only data of the object, where user space checks and reads them.
 */
struct skreap_abi {
	__u32 version;
	__u32 layout;
	__u32 walk_slots;
	__u32 emit_max;
	enum skreap_relation relation;
	enum skreap_pending pending;
	enum skreap_walk_flags walk_flags;
	enum skreap_incomplete incomplete;
};
_Static_assert(sizeof(struct skreap_abi) == 32, "no hidden padding");

#endif
