/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Stands for libbpf's header in a host build: sockets are ordinary memory. */
#pragma once

#define BPF_CORE_READ(from, field) ((from)->field)
#define BPF_CORE_READ_BITFIELD_PROBED(from, field) ((from)->field)
#define bpf_core_field_exists(field) 1
/* The program's context is what user space knows by that name: what the kernel has in its place is apart. */
#define KERNEL_CONTEXT(ctx) model_context(ctx)

struct sk_reuseport_md;
struct sk_reuseport_kern;

struct sk_reuseport_kern *model_context(struct sk_reuseport_md *ctx);
