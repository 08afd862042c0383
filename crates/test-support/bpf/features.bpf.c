// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A minimal program for each feature that test-support's `feature` probes for. None is attached. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

/*
 * Kernels before 5.14 ignore the attach type (bpf_prog_load_check_attach in kernel/bpf/syscall.c did
 * not check it), but their verifier does not know this field.
 */
SEC("sk_reuseport/migrate")
int migrate(struct sk_reuseport_md *ctx)
{
	return ctx->migrating_sk ? SK_DROP : SK_PASS;
}

SEC("iter/task_file")
int task_file(void *ctx)
{
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int sk_storage(void *ctx)
{
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int tracepoint(void *ctx)
{
	return 0;
}
