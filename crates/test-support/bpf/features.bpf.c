// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The smallest program for each feature that test-support's `feature` tries. They are loaded one by
 * one, each into the kernel only if it is asked for, and never attached.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

/*
 * Kernels before 5.14 take this attach type for any other (bpf_prog_load_check_attach in
 * kernel/bpf/syscall.c did not look at it), but their verifier knows no such field.
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
