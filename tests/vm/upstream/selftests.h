/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* What the tests of the kernel's tree get in place of system(3), see selftests.c */
int run_command(const char *command);
