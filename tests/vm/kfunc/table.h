/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* The loaded BPF object, seen from user space. */
#ifndef KFUNC_TABLE_H
#define KFUNC_TABLE_H

#include <stdbool.h>

#include <linux/types.h>

#include "kfunc.h"
#include "shared.h"

struct bpf_object;
struct bpf_link;

#define MAX_LINKS 8

struct table {
	struct bpf_object *object;
	struct bpf_link *links[MAX_LINKS];
	int link_count;
	struct stats *stats; /* mapped */
	/* what table_open() was given; not owned */
	const char *path;
	const char *cgroup;
};

/* Loads the object and attaches the hooks to the cgroup; 0 or -errno. */
int table_open(struct table *table, const char *path, const char *cgroup);
/* Detaches and unloads; twice is once. */
void table_close(struct table *table);
/* Closes it and opens another one like it. */
int table_open_again(struct table *table);
/* Runs a syscall program; 0 or -errno of the run, not of the program. */
int table_run(const struct table *table, const char *program, void *context, unsigned int size);
/* Reads an iterator to its end. */
int table_iterate(const struct table *table, const char *program);
/* Deletes a record as user space does, by which the destructor of the reference runs. */
int table_delete(const struct table *table, __u64 cookie);
/* Whether the object loads with this program added, which is off otherwise; its log is kept. */
int table_try_program(const char *path, const char *program, char *log, unsigned int size);

#endif
