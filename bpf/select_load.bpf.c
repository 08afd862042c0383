// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The program of select.bpf.c that reads the members' queues with a helper. It needs CAP_PERFMON, and a kernel
 * that is not locked down for confidentiality.
 */
#define READ_QUEUES READ_BY_HELPER
#include "select.bpf.c"
