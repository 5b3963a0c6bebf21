/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* Cgroup membership of a socket, for programs that see the sockets of all cgroups. */
#ifndef SKREAP_CGROUP_BPF_H
#define SKREAP_CGROUP_BPF_H

/* No cgroup2 hierarchy in use is deeper; only a test of the depth itself would be. */
#define CGROUP_DEPTH_MAX 256

/*
 * True if the socket belongs to the cgroup with this id or one below it, also if that was removed
 * meanwhile.  0: the root, to which all belong.
 */
static __always_inline bool in_cgroup(const struct sock *sk, __u64 wanted)
{
	struct cgroup *cgroup, *ancestor;
	__u64 id = 0;
	int level = 0, i;

	if (!wanted || !bpf_core_field_exists(sk->sk_cgrp_data))
		return true;
	/* Read as plain numbers: the verifier does not know the index into ancestors. */
	if (bpf_core_read(&cgroup, sizeof(cgroup), &sk->sk_cgrp_data.cgroup) || !cgroup)
		return false;
	BPF_CORE_READ_INTO(&level, cgroup, level);
	bpf_for(i, 0, CGROUP_DEPTH_MAX) {
		const void *at = (const void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors);

		if (i > level || bpf_probe_read_kernel(&ancestor, sizeof(ancestor), at + i * sizeof(ancestor)))
			return false;
		BPF_CORE_READ_INTO(&id, ancestor, kn, id);
		if (id == wanted)
			return true;
	}
	return false;
}

#endif
