// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A program that changes maps as the datagram's payload, `struct request`, asks. */
#include "count.h"

enum operation {
	COUNT, /* in every map that counts */
	RECORD_SMALL, /* queue a record of 16 bytes */
	RECORD_LARGE, /* queue a record of 1000 bytes */
	RECORD_DISCARDED, /* begin a record and think better of it */
	READ_TABLE, /* read a whole table: is it of one piece? */
	GLOBALS, /* change the global variables */
};

struct request {
	__u32 operation;
	__u32 argument;
};

#define UDP_HEADER 8
#define TABLE 64
#define LARGE 1000

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 600); /* more than a page of them */
	__type(key, __u32);
	__type(value, struct shared { __u32 narrow; __u32 unused; __u64 wide; });
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32); /* which the kernel rounds up to 8 bytes */
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

struct table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TABLE);
	__type(key, __u32);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct table);
} tables SEC(".maps");

/* The results of reading a table. */
enum { WHOLE, TORN, NO_TABLE, FINDINGS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FINDINGS);
	__type(key, __u32);
	__type(value, __u64);
} findings SEC(".maps");

struct record {
	__u64 number;
	__u8 rest[LARGE - 8];
};

const volatile __u32 factor = 2;
const volatile struct { __u64 first; __u32 second; } pair = { .first = 1, .second = 2 };
__u64 initialised = 5;
__u64 zeroed;

static __always_inline void count_all(__u32 argument)
{
	struct shared *word = bpf_map_lookup_elem(&shared, &argument);
	__u32 *mine = bpf_map_lookup_elem(&per_cpu, &argument);
	__u64 one = 1, *counter;

	if (word) {
		__sync_fetch_and_add(&word->narrow, 1);
		__sync_fetch_and_add(&word->wide, 1);
	}
	if (mine)
		*mine += 1;
	counter = bpf_map_lookup_elem(&hash, &argument);
	if (counter)
		__sync_fetch_and_add(counter, 1);
	else
		bpf_map_update_elem(&hash, &argument, &one, BPF_NOEXIST);
	bpf_map_update_elem(&lru, &argument, &one, BPF_ANY);
}

static __always_inline void record_small(__u32 argument)
{
	__u64 *record = bpf_ringbuf_reserve(&records, 16, 0);

	if (!record) {
		count(MISSED);
		return;
	}
	record[0] = argument;
	record[1] = ~(__u64)argument;
	bpf_ringbuf_submit(record, 0);
}

static __always_inline void record_large(__u32 argument)
{
	struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record) {
		count(MISSED);
		return;
	}
	record->number = argument;
	for (int i = 0; i < sizeof(record->rest); i++)
		record->rest[i] = argument + i;
	bpf_ringbuf_submit(record, 0);
}

static __always_inline void record_discarded(void)
{
	void *record = bpf_ringbuf_reserve(&records, 48, 0);

	if (record)
		bpf_ringbuf_discard(record, 0);
}

static __always_inline void read_table(void)
{
	__u32 index = 0, found = WHOLE, *first, *other;
	void *table = bpf_map_lookup_elem(&tables, &index);
	__u64 *counter;

	first = table ? bpf_map_lookup_elem(table, &index) : NULL;
	if (!first)
		found = NO_TABLE;
	for (int i = 1; i < TABLE && first; i++) {
		index = i;
		other = bpf_map_lookup_elem(table, &index);
		if (!other || *other != *first)
			found = TORN;
	}
	counter = bpf_map_lookup_elem(&findings, &found);
	if (counter)
		__sync_fetch_and_add(counter, 1);
}

SEC("sk_reuseport")
int work(struct sk_reuseport_md *md)
{
	struct request *request = md->data + UDP_HEADER;

	count(RUNS);
	if ((void *)(request + 1) > md->data_end)
		return SK_DROP;
	switch (request->operation) {
	case COUNT:
		count_all(request->argument);
		break;
	case RECORD_SMALL:
		record_small(request->argument);
		break;
	case RECORD_LARGE:
		record_large(request->argument);
		break;
	case RECORD_DISCARDED:
		record_discarded();
		break;
	case READ_TABLE:
		read_table();
		break;
	case GLOBALS:
		initialised += (__u64)request->argument * factor;
		zeroed += pair.first * pair.second;
		break;
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
