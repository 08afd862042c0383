// SPDX-License-Identifier: MIT
// Variables and arrays that `--set` sets.
#include "own.h"
#include <linux/in6.h>

SOCKETS(sockets);

// Members take turns. Their number is in a variable that is zero at first, one that is not, and an element.
__u32 workers;
__u16 before = 7, workers_too = 1, behind = 9;
__u8 workers_in_a_byte = 1;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} sizes SEC(".maps");

struct pair {
	__u32 first, second;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct pair);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} table SEC(".maps");

static __u32 turn;

static __always_inline int by_turns(struct sk_reuseport_md *ctx, __u32 members)
{
	return pick(ctx, &sockets, members ? __sync_fetch_and_add(&turn, 1) % members : 0);
}

SEC("sk_reuseport")
int among_workers(struct sk_reuseport_md *ctx)
{
	return by_turns(ctx, workers);
}

SEC("sk_reuseport")
int among_workers_too(struct sk_reuseport_md *ctx)
{
	return before == 7 && behind == 9 ? by_turns(ctx, workers_too) : SK_DROP;
}

SEC("sk_reuseport")
int among_workers_in_a_byte(struct sk_reuseport_md *ctx)
{
	return by_turns(ctx, workers_in_a_byte);
}

SEC("sk_reuseport")
int among_size(struct sk_reuseport_md *ctx)
{
	__u32 *size = bpf_map_lookup_elem(&sizes, &(__u32){ 2 });

	return by_turns(ctx, size ? *size : 0);
}

enum mode { NONE, ONE, TWO };

const volatile __u8 byte;
const volatile __s16 negative;
const volatile __u64 large;
const volatile bool on;
const volatile enum mode mode;
const volatile __be16 port;
const volatile __u8 address[4];
struct in6_addr address6;
char name[8] = "none";
__u32 limits[3] = { 1, 2, 3 };

static __always_inline bool is_expected(void)
{
	return byte == 255 && negative == -2 && large == 0xfedcba9876543210 && on && mode == TWO &&
	       port == __builtin_bswap16(443) && address[0] == 192 && address[3] == 1 &&
	       address6.s6_addr[0] == 0x20 && address6.s6_addr[15] == 9 && name[0] == 'a' &&
	       name[1] == 'b' && !name[2] && !name[3] && limits[0] == 1 && limits[1] == 20 &&
	       limits[2] == 3;
}

SEC("sk_reuseport")
int by_constants(struct sk_reuseport_md *ctx)
{
	return pick(ctx, &sockets, is_expected());
}

SEC("sk_reuseport")
int by_elements(struct sk_reuseport_md *ctx)
{
	struct pair *pair = bpf_map_lookup_elem(&pairs, &(__u32){ 0 });
	__u32 *size = bpf_map_lookup_elem(&sizes, &(__u32){ 3 });
	__u32 *one = bpf_map_lookup_elem(&table, &(__u32){ 0 });

	return pick(ctx, &sockets, pair && !pair->first && !one && size && *size == 1);
}
