/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Stands for libbpf's header in a host build: sockets are ordinary memory. */
#pragma once

#define BPF_CORE_READ(from, field) ((from)->field)
