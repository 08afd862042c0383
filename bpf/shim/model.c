// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * select.bpf.c compiled for the host, unchanged: the helpers work on a model's arrays, and what the loader
 * sets, and the constants of wire/tuning.h, are variables.
 */
#include "model.h"
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdlib.h>
#include <string.h>
#include <bpf/bpf_helpers.h>
#include "../wire/type.h"

/* Variables of each thread, which model_run sets, in place of read-only data. */
#define const _Thread_local
#include "../wire/config.h"
#undef const

#define REUSEPORT_TUNING_H
enum tuning { TUNING_IS_VARIABLE };
static _Thread_local __u32 SAMPLE, WINDOW, SLOW_START, HALF_OPEN_BOUND, UNCOUNTED, UNCOUNTED_BLIND;

/* Sockets are ordinary memory: see bpf/bpf_core_read.h. */
#define READ_QUEUES 1
#include "../select.bpf.c"

/* What a map's first bytes contain here, where libbpf's declarations have a pointer that nothing reads. */
enum map_id {
	MAP_NONE,
	MAP_SOCKETS,
	MAP_ADDRESSES,
	MAP_CURSOR,
	MAP_DRAWS,
	MAP_EARLY,
	MAP_TABLES,
	MAP_WORDS,
	MAP_LIMITERS,
	MAP_PROGRESS,
	MAP_REPORTS,
	MAP_MEMBERS,
	MAP_COUNTERS,
	MAP_PICKS,
	MAPS,
};

struct storage {
	char *values;
	__u32 size;
	__u32 count;
};

union socket_memory {
	struct inet_connection_sock tcp;
	struct udp_sock udp;
};

#define EXTENSIONS_ROOM 64

struct model {
	struct model_config config;
	struct storage maps[MAPS];
	__u64 words_id;
	__u32 slots;
	union socket_memory *memory;
	__s32 *errors;
	__u64 now;
	__u32 cpu;
	__s32 selected;
	struct sk_buff skb;
	struct skb_shared_info shared;
	struct sk_reuseport_kern context;
	/* The packet that is being decided on, from its IP header on; and where `data` begins in it. */
	__u8 packet[IPV6_HEADER + EXTENSIONS_ROOM + sizeof(struct tcphdr) + 256];
	__u32 length;
	__u32 data;
};

static _Thread_local struct model *current;

#define SET_ID(map, id) (*(__u64 *)&(map) = (id))

__attribute__((constructor)) static void set_ids(void)
{
	SET_ID(sockets, MAP_SOCKETS);
	SET_ID(addresses, MAP_ADDRESSES);
	SET_ID(cursor, MAP_CURSOR);
	SET_ID(draws, MAP_DRAWS);
	SET_ID(early, MAP_EARLY);
	SET_ID(tables, MAP_TABLES);
	SET_ID(limiters, MAP_LIMITERS);
	SET_ID(progress, MAP_PROGRESS);
	SET_ID(reports, MAP_REPORTS);
	SET_ID(members, MAP_MEMBERS);
	SET_ID(counters, MAP_COUNTERS);
	SET_ID(picks, MAP_PICKS);
}

static void *value_of(const struct model *model, enum map_id map, __u32 key)
{
	const struct storage *storage = &model->maps[map];

	return key < storage->count ? storage->values + (size_t)key * storage->size : NULL;
}

void *bpf_map_lookup_elem(void *map, const void *key)
{
	__u64 id = *(__u64 *)map;

	return id == MAP_TABLES ? &current->words_id : value_of(current, id, *(const __u32 *)key);
}

long bpf_sk_select_reuseport(struct sk_reuseport_md *ctx, void *map, void *key, __u64 flags)
{
	__u32 slot = *(__u32 *)key;
	__s32 error = slot < current->slots ? current->errors[slot] : -ENOENT;

	if (!error)
		current->selected = slot;
	return error;
}

static long load(__u64 offset, void *to, __u32 length)
{
	if (offset + length > current->length)
		return -EFAULT;
	memcpy(to, current->packet + offset, length);
	return 0;
}

long bpf_skb_load_bytes(const void *ctx, __u32 offset, void *to, __u32 length)
{
	return load((__u64)current->data + offset, to, length);
}

long bpf_skb_load_bytes_relative(const void *ctx, __u32 offset, void *to, __u32 length, __u32 start)
{
	return start == BPF_HDR_START_NET ? load(offset, to, length) : -EFAULT;
}

struct sk_reuseport_kern *model_context(struct sk_reuseport_md *ctx)
{
	return &current->context;
}

__u32 bpf_get_smp_processor_id(void)
{
	return current->cpu;
}

__u64 bpf_ktime_get_coarse_ns(void)
{
	return current->now;
}

__u64 bpf_ktime_get_ns(void)
{
	return current->now;
}

static bool allocate(struct model *model, enum map_id map, __u32 size, __u32 count)
{
	char *values = calloc(count, size);

	model->maps[map] = (struct storage){ values, size, count };
	return values;
}

struct model *model_new(const struct model_config *config, __u32 slots, __u32 words)
{
	struct model *model = calloc(1, sizeof(*model));

	if (!model)
		return NULL;
	model->config = *config;
	model->slots = slots;
	model->words_id = MAP_WORDS;
	model->memory = calloc(slots, sizeof(*model->memory));
	model->errors = calloc(slots, sizeof(*model->errors));
	if (!model->memory || !model->errors ||
	    !allocate(model, MAP_ADDRESSES, sizeof(__u64), slots) ||
	    !allocate(model, MAP_CURSOR, sizeof(__u64), 1) ||
	    !allocate(model, MAP_DRAWS, sizeof(__u64), 1) ||
	    !allocate(model, MAP_EARLY, sizeof(struct seen), 1) ||
	    !allocate(model, MAP_WORDS, sizeof(__u64), words) ||
	    !allocate(model, MAP_LIMITERS, sizeof(struct limiter), slots) ||
	    !allocate(model, MAP_PROGRESS, sizeof(struct progress), slots) ||
	    !allocate(model, MAP_REPORTS, sizeof(struct report), slots) ||
	    !allocate(model, MAP_MEMBERS, sizeof(struct host_member), slots) ||
	    !allocate(model, MAP_COUNTERS, sizeof(__u64), REASONS) ||
	    !allocate(model, MAP_PICKS, sizeof(__u64), slots)) {
		model_free(model);
		return NULL;
	}
	for (__u32 slot = 0; slot < slots; slot++) {
		__u64 *address = value_of(model, MAP_ADDRESSES, slot);

		*address = (__u64)&model->memory[slot];
		model->errors[slot] = -ENOENT;
	}
	return model;
}

void model_free(struct model *model)
{
	for (int map = 0; map < MAPS; map++)
		free(model->maps[map].values);
	free(model->memory);
	free(model->errors);
	free(model);
}

void model_set_word(struct model *model, __u32 index, __u64 word)
{
	__u64 *at = value_of(model, MAP_WORDS, index);

	if (at)
		*at = word;
}

void model_set_socket(struct model *model, __u32 slot, __s32 error)
{
	if (slot < model->slots)
		model->errors[slot] = error;
}

void model_set_queue(struct model *model, __u32 slot, const struct model_queue *queue)
{
	struct inet_connection_sock *tcp;
	struct sock *sk;

	if (slot >= model->slots)
		return;
	tcp = &model->memory[slot].tcp;
	sk = &tcp->icsk_inet.sk;
	if (model->config.protocol == IPPROTO_TCP) {
		sk->sk_ack_backlog = queue->waiting;
		sk->sk_max_ack_backlog = queue->limit;
		tcp->icsk_accept_queue.qlen.counter = queue->half_open;
	} else {
		sk->sk_backlog.rmem_alloc.counter = queue->waiting;
		sk->sk_rcvbuf = queue->limit;
	}
}

void model_count(struct model *model, __u32 host, __u32 opened, __u32 closed)
{
	struct host_member *member = value_of(model, MAP_MEMBERS, host);

	if (member)
		*member = (struct host_member){
			.epoch = 1,
			.used = 1,
			.opened = member->opened + opened,
			.closed = member->closed + closed,
		};
}

void model_set_address(struct model *model, __u32 slot, __u32 known)
{
	__u64 *address = value_of(model, MAP_ADDRESSES, slot);

	if (address)
		*address = known ? (__u64)&model->memory[slot] : 0;
}

void model_set_report(struct model *model, __u32 slot, __u64 epoch, __u64 busy, __u64 in_flight)
{
	struct report *report = value_of(model, MAP_REPORTS, slot);

	if (report)
		*report = (struct report){ .epoch = epoch, .busy = busy, .in_flight = in_flight };
}

void model_set_start(struct model *model, __u32 slot, __u32 start)
{
	struct limiter *limiter = value_of(model, MAP_LIMITERS, slot);
	struct progress *known = value_of(model, MAP_PROGRESS, slot);

	if (limiter && known) {
		*limiter = (struct limiter){ .start = start };
		*known = (struct progress){};
	}
}

void model_set_clock(struct model *model, __u64 now)
{
	model->now = now;
}

void model_set_cpu(struct model *model, __u32 cpu)
{
	model->cpu = cpu;
}

static void enter(struct model *model)
{
	const struct model_config *config = &model->config;

	POLICY = config->policy;
	PROTOCOL = config->protocol;
	SEED = config->seed;
	LOAD = config->load;
	STALE_AFTER = config->stale_after;
	CPUS = config->cpus;
	PAYLOAD_OFFSET = config->payload_offset;
	PAYLOAD_LENGTH = config->payload_length;
	SAMPLE = config->sample;
	WINDOW = config->window;
	SLOW_START = config->slow_start;
	HALF_OPEN_BOUND = config->half_open_bound;
	UNCOUNTED = config->uncounted;
	UNCOUNTED_BLIND = config->uncounted_blind;
	current = model;
	model->selected = NO_SLOT;
}

static void put_be16(__u8 *at, __u16 value)
{
	value = bpf_htons(value);
	memcpy(at, &value, sizeof(value));
}

static __u32 extensions_length(const struct model_packet *packet)
{
	/* In IPv4 headers there is room for 40. */
	__u32 room = packet->v6 ? EXTENSIONS_ROOM : 40;

	return packet->extensions_length < room ? packet->extensions_length : room;
}

/* Writes the IP header of a packet of `length` bytes, and the extensions. */
static void put_network(__u8 *at, const struct model_packet *packet, __u32 protocol, __u32 length)
{
	__u32 extensions = extensions_length(packet);

	if (packet->v6) {
		at[0] = 0x60;
		put_be16(at + 4, length - IPV6_HEADER);
		at[6] = extensions ? packet->first_extension : protocol;
		memcpy(at + 8, packet->source, 16);
	} else {
		at[0] = 0x45 + extensions / 4;
		put_be16(at + 2, length);
		at[9] = protocol;
		memcpy(at + 12, packet->source, 4);
	}
	at += packet->v6 ? IPV6_HEADER : 20;
	if (extensions)
		memcpy(at, packet->extensions, extensions);
}

/* The headers in front of the payload, and where the program finds all that. */
static void receive(struct model *model, const struct model_packet *packet, struct sk_reuseport_md *ctx)
{
	__u32 protocol = model->config.protocol;
	bool tcp = protocol == IPPROTO_TCP;
	__u32 network = (packet->v6 ? IPV6_HEADER : 20) + extensions_length(packet);
	__u32 header = tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	__u32 length = packet->payload_length < 236 ? packet->payload_length : 236;
	__u8 *transport = model->packet + network;

	model->shared.gso_size = packet->train;
	model->skb = (struct sk_buff){ .truesize = packet->truesize, .head = (void *)&model->shared };
	model->context.skb = &model->skb;
	ctx->hash = packet->hash;
	ctx->eth_protocol = bpf_htons(packet->v6 ? ETH_P_IPV6 : ETH_P_IP);
	model->length = 0;
	if (packet->arrival == ARRIVAL_MIGRATION) {
		ctx->migrating_sk = (void *)model; /* only compared with NULL */
		return;
	}
	memset(model->packet, 0, sizeof(model->packet));
	model->length = network + header + length;
	model->data = packet->early ? 0 : network;
	put_network(model->packet, packet, protocol, model->length);
	put_be16(transport, packet->source_port);
	put_be16(transport + 2, packet->port);
	if (tcp) {
		put_be16(transport + 4, packet->sequence >> 16);
		put_be16(transport + 6, packet->sequence);
		((struct tcphdr *)transport)->doff = header / 4;
		((struct tcphdr *)transport)->syn = packet->arrival == ARRIVAL_NEW;
	} else {
		put_be16(transport + 4, header + length);
	}
	if (length)
		memcpy(transport + header, packet->payload, length);
	ctx->data = model->packet + model->data;
	ctx->data_end = model->packet + model->length;
	ctx->len = model->length - model->data;
}

__s32 model_run(struct model *model, const struct model_packet *packet)
{
	struct sk_reuseport_md ctx = {};

	enter(model);
	receive(model, packet, &ctx);
	reuseport(&ctx);
	return model->selected;
}

__u64 model_counter(const struct model *model, __u32 reason)
{
	const __u64 *counter = value_of(model, MAP_COUNTERS, reason);

	return counter ? *counter : 0;
}

__u64 model_picks(const struct model *model, __u32 slot)
{
	const __u64 *picked = value_of(model, MAP_PICKS, slot);

	return picked ? *picked : 0;
}
