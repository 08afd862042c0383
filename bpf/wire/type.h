/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Describes a type in the object's BTF, where a test compares it with its Rust counterpart. Without this,
 * clang describes only the types of globals, maps and functions' arguments.
 *
 * The section is of no use to the kernel, and no loader makes a map of it.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#define WIRE_TYPE(kind, name) kind name wire_##name SEC(".wire")
