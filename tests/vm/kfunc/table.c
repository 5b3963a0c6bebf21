// SPDX-License-Identifier: (GPL-2.0 OR MIT)
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

/* The globals of the object, of which stats are all, rounded up to a page */
#define STATS_SIZE 4096
_Static_assert(sizeof(struct stats) <= STATS_SIZE, "one page");

static const char *const hooks[] = {"connect4", "connect6", "sendmsg4", "sock_release"};

int table_open(struct table *table, const char *path, const char *cgroup)
{
	int directory, err;

	memset(table, 0, sizeof(*table));
	table->path = path;
	table->cgroup = cgroup;
	table->object = bpf_object__open_file(path, NULL);
	if (!table->object)
		return -errno;
	err = bpf_object__load(table->object);
	if (err)
		goto fail;
	table->stats = mmap(NULL, STATS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    bpf_object__find_map_fd_by_name(table->object, ".bss"), 0);
	if (table->stats == MAP_FAILED) {
		table->stats = NULL;
		err = -errno;
		goto fail;
	}
	directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0) {
		err = -errno;
		goto fail;
	}
	for (size_t i = 0; !err && i < sizeof(hooks) / sizeof(*hooks); i++) {
		struct bpf_program *program = bpf_object__find_program_by_name(table->object, hooks[i]);
		struct bpf_link *link = bpf_program__attach_cgroup(program, directory);

		if (link)
			table->links[table->link_count++] = link;
		else
			err = -errno;
	}
	close(directory);
	if (!err)
		return 0;
fail:
	table_close(table);
	return err;
}

void table_close(struct table *table)
{
	while (table->link_count)
		bpf_link__destroy(table->links[--table->link_count]);
	if (table->stats)
		munmap(table->stats, STATS_SIZE);
	bpf_object__close(table->object);
	memset(table, 0, sizeof(*table));
}

int table_open_again(struct table *table)
{
	const char *path = table->path, *cgroup = table->cgroup;

	table_close(table);
	return table_open(table, path, cgroup);
}

int table_run(const struct table *table, const char *program, void *context, unsigned int size)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = context, .ctx_size_in = size);
	struct bpf_program *found = bpf_object__find_program_by_name(table->object, program);

	return found ? bpf_prog_test_run_opts(bpf_program__fd(found), &options) : -ENOENT;
}

int table_iterate(const struct table *table, const char *program)
{
	struct bpf_program *found = bpf_object__find_program_by_name(table->object, program);
	struct bpf_link *link = bpf_program__attach_iter(found, NULL);
	char ignored[4096];
	ssize_t got;
	int fd, err = 0;

	if (!link)
		return -errno;
	fd = bpf_iter_create(bpf_link__fd(link));
	if (fd < 0) {
		err = -errno;
	} else {
		while ((got = read(fd, ignored, sizeof(ignored))) > 0)
			;
		if (got < 0)
			err = -errno;
		close(fd);
	}
	bpf_link__destroy(link);
	return err;
}

int table_delete(const struct table *table, __u64 cookie)
{
	int fd = bpf_object__find_map_fd_by_name(table->object, "records");

	return bpf_map_delete_elem(fd, &cookie) ? -errno : 0;
}

int table_try_program(const char *path, const char *program, char *log, unsigned int size)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *found;
	int err;

	if (!object)
		return -errno;
	found = bpf_object__find_program_by_name(object, program);
	err = found ? bpf_program__set_autoload(found, true) : -ENOENT;
	if (!err)
		err = bpf_program__set_log_buf(found, log, size);
	if (!err)
		err = bpf_object__load(object);
	bpf_object__close(object);
	return err;
}
