/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The select program for the host: what crates/policy-model/src/sys.rs calls. A model is one group; no
 * function keeps a pointer that it is given.
 */
#pragma once

#include "../kernel.h"

struct model;

struct model_config {
	__u64 seed;
	__u64 stale_after;
	__u32 policy;
	__u32 protocol;
	__u32 load;
	__u32 cpus;
	__u32 payload_offset;
	__u32 payload_length;
	/* wire/tuning.h */
	__u32 sample;
	__u32 window;
	__u32 slow_start;
	__u32 half_open_bound;
	__u32 uncounted;
	__u32 uncounted_blind;
};

struct model_packet {
	__u32 hash;
	__u32 arrival; /* enum arrival */
	__u32 v6;
	__u32 payload_length;
	__u8 source[16];
	const __u8 *payload;
	const __u8 *extensions; /* behind the IP header */
	__u32 extensions_length;
	__u32 first_extension; /* IPv6: the number of the first */
	__u32 sequence;
	__u16 source_port;
	__u16 port;
	__u32 early; /* data begins at the IP header */
	__u32 truesize; /* what it takes of a receive buffer */
	__u32 train; /* how long the datagrams of a train are; 0 for a single one */
};

struct model_queue {
	__u32 waiting; /* TCP: connections; UDP: bytes */
	__u32 half_open;
	__u32 limit;
};

/* NULL without memory. */
struct model *model_new(const struct model_config *config, __u32 slots, __u32 words);
void model_free(struct model *model);

/* Indexes beyond what model_new was told are ignored, or give 0. */
void model_set_word(struct model *model, __u32 index, __u64 word);
/* What selecting the slot gives: 0 or a negative error. */
void model_set_socket(struct model *model, __u32 slot, __s32 error);
void model_set_queue(struct model *model, __u32 slot, const struct model_queue *queue);
/* More connections opened and closed; those that wait are open. */
void model_count(struct model *model, __u32 host, __u32 opened, __u32 closed);
/* Whether the slot's queue can be read. */
void model_set_address(struct model *model, __u32 slot, __u32 known);
void model_set_report(struct model *model, __u32 slot, __u64 epoch, __u64 busy, __u64 in_flight);
void model_set_start(struct model *model, __u32 slot, __u32 start);
void model_set_clock(struct model *model, __u64 now);
void model_set_cpu(struct model *model, __u32 cpu);

/* Runs the program: the selected slot, or -1. */
__s32 model_run(struct model *model, const struct model_packet *packet);
__u64 model_counter(const struct model *model, __u32 reason);
__u64 model_picks(const struct model *model, __u32 slot);
