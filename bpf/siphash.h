/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * SipHash-1-3 (Aumasson and Bernstein, 2012) over a few whole words: a keyed hash for bytes that a remote
 * sender chooses freely. Without the key, collisions cannot be found.
 */
#pragma once

#include "flow.h"
#include "wire/config.h"

struct siphash {
	__u64 v0, v1, v2, v3;
};

static __always_inline __u64 rotate(__u64 x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static __always_inline void siphash_round(struct siphash *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

/* The key is the group's secret. */
static __always_inline void siphash_begin(struct siphash *s)
{
	__u64 k0 = SEED, k1 = mix(SEED);

	s->v0 = k0 ^ 0x736f6d6570736575ULL;
	s->v1 = k1 ^ 0x646f72616e646f6dULL;
	s->v2 = k0 ^ 0x6c7967656e657261ULL;
	s->v3 = k1 ^ 0x7465646279746573ULL;
}

static __always_inline void siphash_word(struct siphash *s, __u64 word)
{
	s->v3 ^= word;
	siphash_round(s);
	s->v0 ^= word;
}

/* Ends with the last word, whose highest byte holds the length of the whole input. */
static __always_inline __u64 siphash_end(struct siphash *s, __u64 last)
{
	siphash_word(s, last);
	s->v2 ^= 0xff;
	siphash_round(s);
	siphash_round(s);
	siphash_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}
