/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Stands for libbpf's header in a host build. */
#pragma once

#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_ntohs(x) __builtin_bswap16(x)
