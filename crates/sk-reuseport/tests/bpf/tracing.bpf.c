// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Values that connections inherit from their listener, a tracepoint that counts the state changes of
 * sockets with a value, and iterators. The structures only have the fields that are read: the loader
 * finds their offsets in the running kernel (CO-RE). */
#include "count.h"
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock_common {
	__u16 skc_num;
};

struct sock {
	struct sock_common __sk_common;
};

struct task_struct {
	int tgid;
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	__u64 *value;
};

#pragma clang attribute pop

enum { TCP_ESTABLISHED = 1, TCP_CLOSE = 7 };

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u64);
} marks SEC(".maps");

/* The numbers of sockets established and closed, by mark. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct changes { __u64 established; __u64 closed; });
} changes SEC(".maps");

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int old_state, int new_state)
{
	__u64 *mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	struct changes *counts;
	__u32 index;

	if (!mark)
		return 0;
	index = *mark;
	counts = bpf_map_lookup_elem(&changes, &index);
	if (!counts)
		return 0;
	if (new_state == TCP_ESTABLISHED)
		__sync_fetch_and_add(&counts->established, 1);
	else if (new_state == TCP_CLOSE)
		__sync_fetch_and_add(&counts->closed, 1);
	return 0;
}

SEC("iter/task")
int each_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	int tgid;

	if (task) {
		/* By way of the stack: Linux 6.1 takes no kernel structure's memory there. */
		tgid = task->tgid;
		bpf_seq_write(ctx->meta->seq, &tgid, sizeof(tgid));
	}
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int each_mark(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct { __u64 mark; __u64 port; } found = {};
	struct sock *sk = ctx->sk;
	__u64 *value = ctx->value;

	if (!sk || !value)
		return 0;
	found.mark = *value;
	found.port = sk->__sk_common.skc_num;
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
