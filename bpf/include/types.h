/* SPDX-License-Identifier: (GPL-2.0 OR MIT) */
/* The kernel's fixed-width names for programs that are built without kernel headers. */
#ifndef SKREAP_TYPES_H
#define SKREAP_TYPES_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u64 __le64;

typedef _Bool bool;
#define true 1
#define false 0

#endif
