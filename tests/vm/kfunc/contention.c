// SPDX-License-Identifier: (GPL-2.0 OR MIT)
/* A socket whose lock somebody holds: a send() that waits for the page it reads from, which we provide late. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "contention.h"
#include "sockets.h"
#include "table.h"
#include "test.h"

#define PORT 4200
#define HELD_MS 400
#define PAGE 4096

struct holder {
	int socket;
	int faults;
	char *page;
	ssize_t sent;
};

static void sleep_ms(long ms)
{
	struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

static long now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void *send_slowly(void *context)
{
	struct holder *holder = context;

	holder->sent = send(holder->socket, holder->page, PAGE, MSG_NOSIGNAL);
	return NULL;
}

static void *provide_late(void *context)
{
	struct holder *holder = context;
	struct uffdio_zeropage zero = {.range = {.start = (__u64)holder->page, .len = PAGE}};

	sleep_ms(HELD_MS);
	ioctl(holder->faults, UFFDIO_ZEROPAGE, &zero);
	return NULL;
}

static int hold(struct holder *holder)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	holder->faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	EXPECT_TRUE(holder->faults >= 0);
	EXPECT(ioctl(holder->faults, UFFDIO_API, &api), 0);
	holder->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT_TRUE(holder->page != MAP_FAILED);
	range.range.start = (__u64)holder->page;
	range.range.len = PAGE;
	EXPECT(ioctl(holder->faults, UFFDIO_REGISTER, &range), 0);
	return 0;
}

int waits_for_the_lock(struct table *table)
{
	int server = serve(IPPROTO_TCP, "127.0.0.1", PORT);
	struct holder holder = {.socket = connected(IPPROTO_TCP, "127.0.0.1", PORT)};
	struct request request = {
		.cookie = cookie_of(holder.socket), .peer = peer_of(IPPROTO_TCP, "127.0.0.1", PORT)};
	pthread_t sender, provider;
	long start, waited;
	char byte;

	EXPECT_TRUE(server >= 0 && holder.socket >= 0);
	EXPECT(hold(&holder), 0);
	EXPECT(pthread_create(&sender, NULL, send_slowly, &holder), 0);
	sleep_ms(100);
	/* Before the sleep begins: this thread may be held up in between. */
	start = now_ms();
	EXPECT(pthread_create(&provider, NULL, provide_late, &holder), 0);
	EXPECT(table_run(table, "reap", &request, sizeof(request)), 0);
	waited = now_ms() - start;
	EXPECT(request.result, 0);
	EXPECT(pthread_join(provider, NULL), 0);
	EXPECT(pthread_join(sender, NULL), 0);
	EXPECT(holder.sent, PAGE);
	EXPECT_AT_LEAST(waited, HELD_MS);
	EXPECT_ERRNO(recv(holder.socket, &byte, 1, MSG_DONTWAIT), ECONNABORTED);
	munmap(holder.page, PAGE);
	close(holder.faults);
	close(holder.socket);
	close(server);
	return 0;
}
