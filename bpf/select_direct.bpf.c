// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The program of select.bpf.c that reads the members' queues as memory is read. It needs bpf_rdonly_cast
 * (Linux 6.2), a JIT, and CAP_PERFMON.
 */
#define READ_QUEUES READ_DIRECTLY
#include "select.bpf.c"
