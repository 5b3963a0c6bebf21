// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * The selection on the index of a service that records frontends, whose nodes are longer.
 */
#define SKREAP_FRONTENDS
#include "select.bpf.c"
