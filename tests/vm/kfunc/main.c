// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * kfunc [--list] MODULE OBJECT CGROUP
 *
 * Tests the functions of the kernel module, in the order of its life: missing, loaded, in use, removed.
 * Prints what Rust's test programs print. Exits with 1 if a test failed.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/libbpf.h>

#include "contention.h"
#include "table.h"
#include "test.h"

#define BTF "/sys/kernel/btf/skreap"

static const char *module_path, *object_path, *cgroup_path;

/* How many functions of the module the object was linked with at load */
static int functions_found(struct table *table, int *found)
{
	EXPECT(table_run(table, "resolve", NULL, 0), 0);
	*found = table->stats->resolved;
	return 0;
}

static int object_loads_without_module(struct table *table)
{
	struct request request = {.cookie = 1};
	int found;

	EXPECT(table_open(table, object_path, cgroup_path), 0);
	EXPECT(functions_found(table, &found), 0);
	EXPECT(found, 0);
	EXPECT(table_run(table, "reap", &request, sizeof(request)), 0);
	EXPECT(request.result, NO_FUNCTIONS);
	table_close(table);
	return 0;
}

static int module_loads_with_btf(struct table *table)
{
	int fd = open(module_path, O_RDONLY | O_CLOEXEC);

	(void)table;
	EXPECT_TRUE(fd >= 0);
	EXPECT(access(BTF, F_OK), -1);
	EXPECT(syscall(SYS_finit_module, fd, "", 0), 0);
	close(fd);
	EXPECT(access(BTF, F_OK), 0);
	return 0;
}

static int object_finds_all_functions(struct table *table)
{
	int found;

	EXPECT(table_open(table, object_path, cgroup_path), 0);
	EXPECT(functions_found(table, &found), 0);
	EXPECT(found, 4);
	return 0;
}

static int other_tracing_programs_are_refused(struct table *table)
{
	static char log[1 << 16];

	(void)table;
	EXPECT_TRUE(table_try_program(object_path, "tracepoint", log, sizeof(log)) < 0);
	if (!strstr(log, "skreap_sock_acquire_v1 is not allowed")) {
		puts(log);
		return -1;
	}
	return 0;
}

static int module_stays_while_in_use(struct table *table)
{
	(void)table;
	EXPECT_ERRNO(syscall(SYS_delete_module, "skreap", O_NONBLOCK), EAGAIN);
	EXPECT(access(BTF, F_OK), 0);
	return 0;
}

/* Maps are freed by a worker of the kernel after the last user is gone, so it may take a moment. */
static int module_goes_when_unused(struct table *table)
{
	int err = -1;

	EXPECT(table->stats->acquired - table->stats->released, 0);
	table_close(table);
	for (int i = 0; i < 500 && err; i++) {
		err = syscall(SYS_delete_module, "skreap", O_NONBLOCK);
		if (err)
			usleep(10000);
	}
	EXPECT(err, 0);
	EXPECT(access(BTF, F_OK), -1);
	return 0;
}

static const struct test before[] = {
	{"object_loads_without_module", object_loads_without_module},
	{"module_loads_with_btf", module_loads_with_btf},
	{"object_finds_all_functions", object_finds_all_functions},
	{"other_tracing_programs_are_refused", other_tracing_programs_are_refused},
	{},
};

static const struct test contention[] = {
	{"waits_for_the_lock", waits_for_the_lock},
	{"owner_is_not_waited_for", owner_is_not_waited_for},
	{},
};

static const struct test after[] = {
	{"module_stays_while_in_use", module_stays_while_in_use},
	{"module_goes_when_unused", module_goes_when_unused},
	/* Nothing of the first time is left. */
	{"module_loads_again", module_loads_with_btf},
	{},
};

static const struct test *const suites[] = {before, destroy_tests, reference_tests, contention, after};

/* 0 if all holds, with both forms where there are two. */
static int run(const struct test *suite, const struct test *test, struct table *table)
{
	int err = test->run(table);

	if (err || suite != destroy_tests)
		return err;
	destroy_form = "try_";
	err = test->run(table);
	if (err)
		puts("with the form that does not wait");
	destroy_form = "";
	return err;
}

int main(int argc, char **argv)
{
	bool list = argc > 1 && !strcmp(argv[1], "--list");
	struct table table = {};
	int failed = 0;

	if (argc != 4 + list) {
		fprintf(stderr, "usage: kfunc [--list] MODULE OBJECT CGROUP\n");
		return 2;
	}
	module_path = argv[1 + list];
	object_path = argv[2 + list];
	cgroup_path = argv[3 + list];
	setvbuf(stdout, NULL, _IONBF, 0);
	for (size_t s = 0; s < sizeof(suites) / sizeof(*suites); s++) {
		for (const struct test *test = suites[s]; test->name; test++) {
			if (list) {
				printf("%s: test\n", test->name);
				continue;
			}
			/* libbpf speaks on stderr, so the line is written when it is complete. */
			if (run(suites[s], test, &table)) {
				failed++;
				printf("test %s ... FAILED\n", test->name);
			} else {
				printf("test %s ... ok\n", test->name);
			}
			/* Without the object loaded, nothing that follows means anything. */
			if (failed && suites[s] == before)
				return EXIT_FAILURE;
		}
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
