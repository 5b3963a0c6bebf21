/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
#ifndef KFUNC_CONTENTION_H
#define KFUNC_CONTENTION_H

struct table;

/* A destroy sleeps while the socket lock is held, then destroys. */
int waits_for_the_lock(struct table *table);
/* The other form returns at once, leaves the socket alone, and destroys another one meanwhile. */
int owner_is_not_waited_for(struct table *table);

#endif
