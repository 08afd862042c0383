/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Keys of maps, for programs that load without CAP_PERFMON.
 *
 * A key lies on the stack. The compiler likes to put two of them into the same eight bytes, and the
 * verifiers from 5.16 to 6.8 then refuse the program without CAP_PERFMON: the second key would overwrite
 * part of what they know of the first ("attempt to corrupt spilled pointer",
 * check_stack_write_fixed_off in kernel/bpf/verifier.c). So each has eight bytes to itself, written
 * at once.
 */
#pragma once

#include "kernel.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the key would be the other half"
#endif

/* The address of a key of 32 bits, for one call. */
#define MAP_KEY(n) (&(__u64){ (__u32)(n) })
