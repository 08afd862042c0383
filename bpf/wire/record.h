/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The records of the iterators in observe.bpf.c, in the host's byte order (addresses excepted, which are
 * in network byte order). Each begins with its kind and its size in bytes, itself included.
 */
#pragma once

#include "../kernel.h"
#include <bpf/bpf_helpers.h>

#include "type.h"

enum kind {
	KIND_READER = 1,
	KIND_MEMBER = 2,
	KIND_WATCH = 3,
	KIND_EPOLL = 4,
};

struct header {
	__u32 kind;
	__u32 size;
};

/* The reading process: once, before everything else. */
struct reader_record {
	struct header header;
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 pad;
};

/* One descriptor of one member. Fields that do not apply are 0. */
struct member_record {
	struct header header;
	__u64 cookie;
	__u64 sock_address;
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 reuseport_id; /* the same for all members of a group, and as long as it exists */
	__u32 uid;
	__u32 device;	    /* interface index, 0: not bound to one */
	__u32 pid;	    /* in the reader's pid namespace, 0: not visible there */
	__u32 fd;
	__u32 waiting;	    /* TCP: connections to accept; UDP: bytes to read */
	__u32 half_open;    /* TCP: requests in the handshake; UDP: 0 */
	__u32 limit;	    /* TCP: backlog; UDP: receive buffer in bytes */
	__u32 program_id;   /* 0 for a classic program */
	__u16 family;
	__u16 port;
	__u8 protocol;
	__u8 v6only;
	__u8 has_program;
	__u8 pad;
	__u8 address[16];   /* IPv4 in the first four */
	char comm[16];
	char program_name[16];
};

/* An epoll instance watches a member's file. */
struct watch_record {
	struct header header;
	__u64 cookie;
	__u64 epoll; /* the struct eventpoll's address, 0: there are more than MAX_WATCHES */
};

/* A process has a descriptor of an epoll instance. */
struct epoll_record {
	struct header header;
	__u64 epoll;
	__u32 pid; /* in the reader's pid namespace, 0: not visible there */
	__u32 fd;
};

WIRE_TYPE(enum, kind);
WIRE_TYPE(struct, reader_record);
WIRE_TYPE(struct, member_record);
WIRE_TYPE(struct, watch_record);
WIRE_TYPE(struct, epoll_record);
