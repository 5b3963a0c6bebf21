/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* Expectations: the first that does not hold ends the test and says what was found. */
#ifndef KFUNC_TEST_H
#define KFUNC_TEST_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

struct table;

struct test {
	const char *name;
	/* 0 if all holds; the table is loaded, except before the module is. */
	int (*run)(struct table *table);
};

#define EXPECT(found, expected)                                                                                \
	do {                                                                                                   \
		long long found_ = (found), expected_ = (expected);                                            \
		if (found_ != expected_) {                                                                     \
			printf("%s:%d: %s is %lld, not %lld (errno %d)\n", __FILE__, __LINE__, #found, found_, \
			       expected_, errno);                                                              \
			return -1;                                                                             \
		}                                                                                              \
	} while (0)

#define EXPECT_AT_LEAST(found, least)                                                                    \
	do {                                                                                             \
		long long found_ = (found), least_ = (least);                                            \
		if (found_ < least_) {                                                                   \
			printf("%s:%d: %s is %lld, below %lld\n", __FILE__, __LINE__, #found, found_, least_); \
			return -1;                                                                       \
		}                                                                                        \
	} while (0)

#define EXPECT_TRUE(condition) EXPECT(!!(condition), 1)
/* For calls that say -1 and set errno */
#define EXPECT_ERRNO(call, error)                 \
	do {                                      \
		errno = 0;                        \
		EXPECT_TRUE((long long)(call) < 0); \
		EXPECT(errno, error);             \
	} while (0)

extern const struct test destroy_tests[], reference_tests[];
/* Which form of the destroy these tests call: "" waits for the lock, "try_" does not. */
extern const char *destroy_form;

#endif
