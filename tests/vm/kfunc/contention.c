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

/* Provides the page and ends what hold() began. */
static int let_go(struct holder *holder, pthread_t sender)
{
	struct uffdio_zeropage zero = {.range = {.start = (__u64)holder->page, .len = PAGE}};

	EXPECT(ioctl(holder->faults, UFFDIO_ZEROPAGE, &zero), 0);
	EXPECT(pthread_join(sender, NULL), 0);
	EXPECT(holder->sent, PAGE);
	munmap(holder->page, PAGE);
	close(holder->faults);
	return 0;
}

int owner_is_not_waited_for(struct table *table)
{
	int server = serve(IPPROTO_TCP, "127.0.0.1", PORT);
	struct holder holder = {.socket = connected(IPPROTO_TCP, "127.0.0.1", PORT)};
	int other = connected(IPPROTO_TCP, "127.0.0.1", PORT);
	struct skreap_peer peer = peer_of(IPPROTO_TCP, "127.0.0.1", PORT);
	struct request held = {.cookie = cookie_of(holder.socket), .peer = peer};
	struct request free = {.cookie = cookie_of(other), .peer = peer};
	pthread_t sender;
	char byte;

	EXPECT_TRUE(server >= 0 && holder.socket >= 0 && other >= 0);
	EXPECT(hold(&holder), 0);
	EXPECT(pthread_create(&sender, NULL, send_slowly, &holder), 0);
	sleep_ms(100);
	/* Nobody provides the page yet: whoever waited for the lock would wait for ever. */
	EXPECT(table_run(table, "try_reap_and_keep", &held, sizeof(held)), 0);
	EXPECT(held.result, -EBUSY);
	EXPECT(table_run(table, "try_reap", &free, sizeof(free)), 0);
	EXPECT(free.result, 0);
	EXPECT_ERRNO(recv(other, &byte, 1, MSG_DONTWAIT), ECONNABORTED);
	EXPECT(let_go(&holder, sender), 0);
	EXPECT_ERRNO(recv(holder.socket, &byte, 1, MSG_DONTWAIT), EAGAIN);
	EXPECT(table_run(table, "try_reap", &held, sizeof(held)), 0);
	EXPECT(held.result, 0);
	EXPECT_ERRNO(recv(holder.socket, &byte, 1, MSG_DONTWAIT), ECONNABORTED);
	close(holder.socket);
	close(other);
	close(server);
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
