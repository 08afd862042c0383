// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The same, for kernels where it can be done faster: with bpf_rdonly_cast (Linux 6.2) and a JIT.
 */
#define READ_QUEUES READ_DIRECTLY
#include "select.bpf.c"
