/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* What the BPF programs of this test and its user space side agree on. */
#ifndef KFUNC_SHARED_H
#define KFUNC_SHARED_H

/* Instead of a destroy's result, when there is nothing to destroy */
#define NO_FUNCTIONS 1000 /* the module is missing */
#define NO_RECORD 1001	  /* the cookie is unknown */
#define NO_SOCKET 1002	  /* the record holds no reference */

/* Context of the syscall programs */
struct request {
	/* in */
	__u64 cookie;
	struct skreap_peer peer;
	/* out */
	__s32 result;
	__u32 references; /* of the socket, including the record's */
	__u32 reserved;
};

struct stats {
	__u64 acquired;
	__u64 refused; /* acquire returned NULL */
	__u64 released;
	__u32 resolved;	   /* how many of the four functions were found at load */
	__u32 keep_closed; /* in: sock_release leaves the reference in the record */
};

#endif
