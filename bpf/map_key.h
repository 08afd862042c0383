/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Keys of maps, for programs that load without CAP_PERFMON.
 *
 * A key lies on the stack. Two of them in the same eight bytes, where the compiler likes to put
 * them, and the verifiers from 5.16 to 6.8 refuse the program to all but CAP_PERFMON: the second one
 * would overwrite part of what they know of the first ("attempt to corrupt spilled pointer",
 * check_stack_write_fixed_off in kernel/bpf/verifier.c). So each has eight bytes to itself, written
 * at once.
 */
#pragma once

#include <linux/types.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the key would be the other half"
#endif

/* The address of a key of 32 bits, for one call. */
#define MAP_KEY(n) (&(__u64){ (__u32)(n) })
