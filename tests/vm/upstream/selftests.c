// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/*
 * Runs two tests of the kernel's selftests/bpf, sock_destroy and sock_destroy_might_sleep, as they are in the patched
 * tree, with the kernel's test_progs.h. The whole of test_progs would need all of its programs built. This file has what
 * these two take from it and from network_helpers.c, without other programs: the machine has no iproute2.
 */
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <test_progs.h>
#include <bpf/btf.h>

#include "network_helpers.h"

void test_sock_destroy(void);
void test_sock_destroy_might_sleep(void);

static const struct {
	const char *name;
	void (*run)(void);
	const char *subtests[16];
} tests[] = {
	{"sock_destroy", test_sock_destroy,
	 {"tcp_client", "tcp_server", "tcp_listen_pending", "tcp_timewait", "udp_client", "udp_server",
	  "trace_tcp_destroy_sock"}},
	{"sock_destroy_might_sleep", test_sock_destroy_might_sleep,
	 {"acquired_and_kept", "acquired_and_given_to_helper", "out_of_map_and_given_to_helper",
	  "one_of_two_given_to_helper", "destroyed_in_a_hook", "acquired_in_a_syscall_program",
	  "destroyed_without_a_reference", "acquired_in_a_tracepoint", "tcp", "udp", "peer", "nowait"}},
};

struct test_env env;

static const char *test_name, *subtest_name;
static bool subtest_failed, any_failed;

static void end_subtest(void)
{
	if (subtest_name)
		printf("test %s/%s ... %s\n", test_name, subtest_name, subtest_failed ? "FAILED" : "ok");
	any_failed |= subtest_failed;
	subtest_name = NULL;
	subtest_failed = false;
}

bool test__start_subtest(const char *name)
{
	end_subtest();
	subtest_name = name;
	return true;
}

void test__fail(void)
{
	subtest_failed = true;
}

int test__join_cgroup(const char *path)
{
	char name[256];
	FILE *procs;

	snprintf(name, sizeof(name), "/sys/fs/cgroup%s", path);
	if (mkdir(name, 0755) && errno != EEXIST)
		return -1;
	strcat(name, "/cgroup.procs");
	procs = fopen(name, "w");
	if (!procs || fprintf(procs, "%d", getpid()) < 0 || fclose(procs))
		return -1;
	name[strlen(name) - strlen("/cgroup.procs")] = 0;
	return open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* In place of network_helpers.c */

static socklen_t address(struct sockaddr_storage *to, int family, const char *text, __u16 port)
{
	struct sockaddr_in6 *v6 = (void *)to;

	memset(to, 0, sizeof(*to));
	assert(family == AF_INET6);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	if (text)
		inet_pton(AF_INET6, text, &v6->sin6_addr);
	return sizeof(*v6);
}

static int serve(int type, const struct sockaddr_storage *at, socklen_t length, bool shared)
{
	int fd = socket(at->ss_family, type, 0), on = 1;
	struct timeval patience = {.tv_sec = 10};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if ((shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on))) || bind(fd, (void *)at, length) ||
	    (type == SOCK_STREAM && listen(fd, 1))) {
		close(fd);
		return -1;
	}
	return fd;
}

int start_server(int family, int type, const char *addr, __u16 port, int timeout_ms)
{
	struct sockaddr_storage at;
	socklen_t length = address(&at, family, addr, port);

	return serve(type, &at, length, false);
}

int get_socket_local_port(int fd)
{
	struct sockaddr_in6 at;
	socklen_t length = sizeof(at);

	return getsockname(fd, (void *)&at, &length) ? -1 : at.sin6_port;
}

int *start_reuseport_server(int family, int type, const char *addr, __u16 port, int timeout_ms, unsigned int count)
{
	struct sockaddr_storage at;
	socklen_t length = address(&at, family, addr, port);
	int *fds = calloc(count, sizeof(*fds));

	for (unsigned int i = 0; i < count; i++) {
		fds[i] = serve(type, &at, length, true);
		if (fds[i] < 0 || getsockname(fds[i], (void *)&at, &length)) {
			free(fds);
			return NULL;
		}
	}
	return fds;
}

void free_fds(int *fds, unsigned int count)
{
	for (unsigned int i = 0; fds && i < count; i++)
		close(fds[i]);
	free(fds);
}

int connect_to_fd(int server, int timeout_ms)
{
	struct timeval patience = {.tv_sec = 10};
	struct sockaddr_storage at;
	socklen_t length = sizeof(at), size = sizeof(int);
	int fd, type;

	if (getsockname(server, (void *)&at, &length) || getsockopt(server, SOL_SOCKET, SO_TYPE, &type, &size))
		return -1;
	fd = socket(at.ss_family, type, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (void *)&at, length)) {
		close(fd);
		return -1;
	}
	return fd;
}

struct nstoken {
	int before;
};

struct nstoken *open_netns(const char *name)
{
	struct nstoken *token = malloc(sizeof(*token));
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	token->before = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (setns(fd, CLONE_NEWNET)) {
		free(token);
		return NULL;
	}
	close(fd);
	return token;
}

void close_netns(struct nstoken *token)
{
	setns(token->before, CLONE_NEWNET);
	close(token->before);
	free(token);
}

/* In place of ip(8) */

static int add_netns(const char *name)
{
	int before = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), file, err;
	char path[256];

	mkdir("/run/netns", 0755);
	snprintf(path, sizeof(path), "/run/netns/%s", name);
	file = open(path, O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (file < 0 || unshare(CLONE_NEWNET))
		return -1;
	close(file);
	err = mount("/proc/self/ns/net", path, NULL, MS_BIND, NULL);
	setns(before, CLONE_NEWNET);
	close(before);
	return err;
}

static int raise_lo(const char *name)
{
	struct nstoken *token = open_netns(name);
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd, err;

	if (!token)
		return -1;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	err = ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	close_netns(token);
	return err;
}

int run_command(const char *command)
{
	char name[128], path[256];

	if (sscanf(command, "ip netns add %127s", name) == 1)
		return add_netns(name);
	if (sscanf(command, "ip -net %127s link set dev lo up", name) == 1)
		return raise_lo(name);
	if (sscanf(command, "ip netns del %127s", name) == 1) {
		snprintf(path, sizeof(path), "/run/netns/%s", name);
		return umount2(path, MNT_DETACH) ?: unlink(path);
	}
	fprintf(stderr, "no such command here: %s\n", command);
	return -1;
}

/* In place of test_loader.c: each program must be refused, with the words in its tag */

static const char *expected_message(const struct btf *btf, const char *program)
{
	__s32 function = btf__find_by_name_kind(btf, program, BTF_KIND_FUNC);
	const char *tag, *message;

	for (__u32 id = 1; id < btf__type_cnt(btf); id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);

		if (!btf_is_decl_tag(type) || (__s32)type->type != function)
			continue;
		tag = btf__name_by_offset(btf, type->name_off);
		message = strstr(tag, "test_expect_msg=");
		if (message)
			return message + strlen("test_expect_msg=");
	}
	return NULL;
}

static void expect_refusal(const void *elf, size_t size, const char *name)
{
	static char log[1 << 20];
	LIBBPF_OPTS(bpf_object_open_opts, options, .kernel_log_buf = log, .kernel_log_size = sizeof(log),
		    .kernel_log_level = 1);
	struct bpf_object *object = bpf_object__open_mem(elf, size, &options);
	struct bpf_program *program;
	const char *message;

	if (!ASSERT_OK_PTR(object, "open"))
		return;
	bpf_object__for_each_program(program, object)
		bpf_program__set_autoload(program, !strcmp(bpf_program__name(program), name));
	log[0] = 0;
	message = expected_message(bpf_object__btf(object), name);
	if (ASSERT_OK_PTR(message, "expected message") && ASSERT_ERR(bpf_object__load(object), "load") &&
	    !ASSERT_HAS_SUBSTR(log, message, "verifier's words"))
		fprintf(stderr, "%s\n", log);
	bpf_object__close(object);
}

void test_loader__run_subtests(struct test_loader *tester, const char *skel_name, skel_elf_bytes_fn elf_bytes)
{
	struct bpf_object *object;
	struct bpf_program *program;
	const void *elf;
	size_t size;

	elf = elf_bytes(&size);
	object = bpf_object__open_mem(elf, size, NULL);
	if (!ASSERT_OK_PTR(object, "open"))
		return;
	bpf_object__for_each_program(program, object) {
		test__start_subtest(bpf_program__name(program));
		expect_refusal(elf, size, bpf_program__name(program));
	}
	end_subtest();
	bpf_object__close(object);
}

void test_loader_fini(struct test_loader *tester)
{
}

int main(int argc, char **argv)
{
	bool list = argc > 1 && !strcmp(argv[1], "--list");

	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		for (const char *const *name = tests[i].subtests; list && *name; name++)
			printf("%s/%s: test\n", tests[i].name, *name);
		if (list)
			continue;
		test_name = tests[i].name;
		tests[i].run();
		end_subtest();
	}
	return any_failed;
}
