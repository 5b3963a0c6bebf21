/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/*
 * The server's side of a TCP connection.  It never connected: the hooks do not record it, so nothing else may touch it
 * either.
 *
 * Such a socket is a copy of its listener, so it has a backlog, and the handshake has left the interface of the peer's
 * first packet where a socket keeps the one for multicast.  Both must be so.  The side of a client has neither; it
 * would need to have listened before and to have chosen an interface for multicast, on TCP.  The mistake that is left,
 * a listener with a backlog of 0, makes its side look like a client's.
 */
#ifndef SKREAP_ACCEPTED_BPF_H
#define SKREAP_ACCEPTED_BPF_H

/* `live`: its peer. For TCP only. */
static __always_inline bool was_accepted(const struct sock *sk, const struct peer *live)
{
	const struct inet_sock *inet = bpf_core_cast(sk, struct inet_sock);

	if (!sk->sk_max_ack_backlog)
		return false;
	if (live->family == AF_INET)
		return !bpf_core_field_exists(inet->mc_index) || inet->mc_index;
	return !bpf_core_field_exists(inet->pinet6) || (inet->pinet6 && inet->pinet6->mcast_oif);
}

#endif
