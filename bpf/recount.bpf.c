// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Counts open connections by the marks on them, to find closes that no program of host.bpf.c saw.
 */
#include "kernel.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "wire/live.h"
#include "wire/mark.h"

/*
 * A connection that ended unseen is gone, or it is in a state in which it no longer counts, which the kernel
 * stores after the programs that count have run.
 *
 * Within one read(2), which covers up to a million marks, each socket that stays is visited: RCU is held
 * over each of the map's buckets, and no mark changes its bucket (bpf_sk_storage_map_seq_find_next). A
 * visit too many, such as to a socket that is being freed, only makes the walk find more.
 */
SEC("iter/bpf_sk_storage_map")
int recount(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct mark *mark = ctx->value;
	struct sock *sk = ctx->sk;
	struct host_member *member;
	__u32 index, *count;

	if (!mark || !sk || !mark->counted)
		return 0;
	if (worker_has_closed(sk->__sk_common.skc_state)) {
		mark->epoch = 0; /* as count() does: the socket can listen again */
		return 0;
	}
	index = mark->member;
	member = bpf_map_lookup_elem(&members, &index);
	if (!member || member->epoch != mark->epoch)
		return 0;
	count = bpf_map_lookup_elem(&live, &index);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
