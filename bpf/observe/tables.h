/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The walk over the kernel's tables of listeners (lhash2) and of UDP sockets, which hold the sockets of all
 * network namespaces. No descriptor and no process is asked.
 *
 * A namespace may have a UDP table of its own (net.ipv4.udp_child_hash_entries). Its sockets are found by
 * their descriptors.
 *
 * An iterator's run may write no more than its buffer holds, 32 KiB, and a bucket has any number of sockets.
 * So this is an iterator over the elements of an array: each run begins at the cursor in its element, and
 * writes the next run's cursor into the next element. The kernel may run it twice for one element.
 */
#pragma once

/* Records of one run: 240 of 136 bytes. */
#define RECORDS_PER_RUN 240

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RUNS);
	__type(key, __u32);
	__type(value, struct cursor);
} cursors SEC(".maps");

/* The UDP table that the last walk read. */
__u64 walked_udp_table = 0;

struct walk {
	struct seq_file *seq;
	struct cursor at;
	/* The lists of the table: how many, where the first is, how far apart they are. */
	__u32 buckets;
	__u32 stride;
	void *first;
	/* The next element of the present list. */
	void *node;
	/* Whether the cursor's last socket is yet to be found in its list. */
	__u32 resuming;
	__u32 room;
};

/* The list's end is NULL, or odd in a "nulls" list. */
static __always_inline int is_end(void *node)
{
	return !node || ((unsigned long)node & 1);
}

/*
 * Whether this is the end of another list: the socket before it moved there. The end of a "nulls" list has the
 * list's number in its low bits (init_hashinfo_lhash2). Lists of UDP sockets have no such mark.
 */
static __always_inline int has_strayed(const struct walk *walk, void *end)
{
	__u32 list = (unsigned long)end >> 1;

	return walk->at.stage == STAGE_TCP && ((list ^ walk->at.bucket) & (walk->buckets - 1));
}

static __always_inline __u64 cookie_in(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
}

static __always_inline void *bucket(const struct walk *walk)
{
	struct hlist_head *list = walk->first + (__u64)walk->at.bucket * walk->stride;

	return BPF_CORE_READ(list, first);
}

/* Returns whether a record was written. */
static __always_inline int report(struct walk *walk, struct sock *sk)
{
	struct view view = { .sk = sk };

	if (!is_internet(sk))
		return 0;
	if (walk->at.only && BPF_CORE_READ(sk, __sk_common.skc_num) != walk->at.only)
		return 0;
	if (!(walk->at.stage == STAGE_TCP ? is_listening(&view) : is_bound(&view)))
		return 0;
	emit_member(walk->seq, &view, walk->at.detail);
	return 1;
}

static long step(__u32 i, struct walk *walk)
{
	struct hlist_node *node = walk->node;
	struct sock *sk;

	if (is_end(node)) {
		if (walk->resuming) {
			/* The last socket has left the list: read all of it again. */
			walk->resuming = 0;
		} else if (walk->at.again && has_strayed(walk, node)) {
			walk->at.again--;
		} else if (++walk->at.bucket >= walk->buckets) {
			return 1;
		}
		walk->at.last = 0;
		walk->node = bucket(walk);
		return 0;
	}
	sk = (void *)node - bpf_core_field_offset(struct sock_common, skc_nulls_node);
	walk->node = BPF_CORE_READ(node, next);
	if (walk->resuming) {
		walk->resuming = (__u64)sk != walk->at.last || cookie_in(sk) != walk->at.cookie;
		return 0;
	}
	if (report(walk, sk)) {
		walk->at.last = (__u64)sk;
		walk->at.cookie = cookie_in(sk);
		return --walk->room == 0;
	}
	return 0;
}

/* The table in which the kernel looks up UDP sockets of this namespace. */
static __always_inline struct udp_table *udp_table_of(struct sock *sk)
{
	struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);

	if (bpf_core_field_exists(net->ipv4.udp_table))
		return BPF_CORE_READ(net, ipv4.udp_table);
	return BPF_CORE_READ(sk, __sk_common.skc_prot, h.udp_table);
}

static __always_inline int in_walked_table(struct sock *sk)
{
	return (__u64)udp_table_of(sk) == walked_udp_table;
}

/* The socket behind a descriptor of the reader. */
static __always_inline struct sock *sock_of_reader(__u32 fd)
{
	struct task_struct *reader = (void *)bpf_get_current_task();
	struct file **files = BPF_CORE_READ(reader, files, fdt, fd);
	struct socket *socket;
	struct file *file;

	if (bpf_probe_read_kernel(&file, sizeof(file), files + fd))
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

static __always_inline int begin_tcp(struct walk *walk, struct sock *any)
{
	struct inet_hashinfo *table =
		BPF_CORE_READ(any, __sk_common.skc_net.net, ipv4.tcp_death_row.hashinfo);

	if (!table)
		return 0;
	walk->stride = bpf_core_type_size(struct inet_listen_hashbucket);
	walk->buckets = BPF_CORE_READ(table, lhash2_mask) + 1;
	walk->first = (void *)BPF_CORE_READ(table, lhash2) +
		      bpf_core_field_offset(struct inet_listen_hashbucket, nulls_head);
	return 1;
}

static __always_inline int begin_udp(struct walk *walk, struct sock *any)
{
	struct udp_table *table = udp_table_of(any);

	if (!table)
		return 0;
	walked_udp_table = (__u64)table;
	walk->stride = bpf_core_type_size(struct udp_hslot);
	walk->buckets = BPF_CORE_READ(table, mask) + 1;
	walk->first = (void *)BPF_CORE_READ(table, hash) +
		      bpf_core_field_offset(struct udp_hslot, head);
	return 1;
}

SEC("iter/bpf_map_elem")
int tables(struct bpf_iter__bpf_map_elem *ctx)
{
	struct cursor *begin = ctx->value, *next;
	__u32 *index = ctx->key;
	struct walk walk = { .seq = ctx->meta->seq, .room = RECORDS_PER_RUN };
	struct sock *any;
	__u32 following;
	int found = 0;

	if (!index || !begin)
		return 0;
	walk.at = *begin;
	following = *index + 1;
	next = bpf_map_lookup_elem(&cursors, &following);
	if (!next)
		return 0;
	/* Before 5.19, listeners are in another kind of list. */
	if (walk.at.stage == STAGE_NONE || walk.at.stage >= STAGE_END ||
	    bpf_core_field_exists(struct inet_connection_sock, icsk_listen_portaddr_node)) {
		next->stage = STAGE_NONE;
		if (walk.at.stage == STAGE_END) {
			struct end_record record = { .header = HEADER(KIND_END, record) };

			EMIT(walk.seq, record);
		}
		return 0;
	}
	any = sock_of_reader(walk.at.udp_fd);
	if (any)
		found = walk.at.stage == STAGE_TCP ? begin_tcp(&walk, any) : begin_udp(&walk, any);
	if (!found) {
		next->stage = STAGE_NONE;
		return 0;
	}
	wanted_port = walk.at.port;
	walk.resuming = walk.at.last != 0;
	walk.node = bucket(&walk);
	bpf_loop(1 << 23, step, &walk, 0);
	if (walk.at.bucket >= walk.buckets) {
		walk.at.stage = walk.at.stage < walk.at.final_stage ? walk.at.stage + 1 : STAGE_END;
		walk.at.bucket = 0;
		walk.at.last = 0;
	}
	*next = walk.at;
	return 0;
}
