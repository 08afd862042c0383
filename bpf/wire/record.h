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
	KIND_HOLDER = 5,
	KIND_END = 6,
	KIND_WAITER = 7,
	KIND_AWAITED = 8,
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

/* What a socket that has a member_record is. */
enum standing {
	STANDING_MEMBER = 0,
	STANDING_MPTCP = 1, /* a member that belongs to an MPTCP listener: no map accepts it */
	STANDING_OUTSIDE = 2, /* a UDP socket with SO_REUSEPORT that is in no group and not connected */
	STANDING_PLAIN = 3, /* in no group: written only for the port that is asked for */
};

/* Bits: datagrams that may reach a UDP socket without any program being asked. */
enum not_asked {
	NOT_ASKED_MULTICAST = 1, /* it has joined a multicast group */
	NOT_ASKED_BROADCAST = 2, /* SO_BROADCAST */
	NOT_ASKED_TRANSPARENT = 4, /* IP_TRANSPARENT: TPROXY may assign datagrams to it */
};

/* Bits: how a socket was made. */
enum made {
	MADE_REUSEADDR = 1, /* SO_REUSEADDR */
	MADE_REUSEPORT = 2, /* SO_REUSEPORT, perhaps since after bind */
	MADE_MPTCP = 4,	    /* it belongs to an MPTCP listener */
	MADE_DEFERRING = 8, /* TCP_DEFER_ACCEPT */
	MADE_TRANSPARENT = 16, /* TCP: IP_TRANSPARENT */
};

/* Not looked at, or the queue changed meanwhile. */
#define WAITERS_UNKNOWN 0xffffffff

/* One socket. Fields that do not apply are 0. */
struct member_record {
	struct header header;
	__u64 cookie;	    /* 0: no process has ever asked for it */
	__u64 sock_address;
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 reuseport_id; /* the same for all members of a group, and as long as it exists */
	__u32 uid;
	__u32 device;	    /* interface index, 0: not bound to one */
	__u32 waiting;	    /* TCP: connections to accept; UDP: bytes to read */
	__u32 half_open;    /* TCP: requests in the handshake; UDP: 0 */
	__u32 limit;	    /* TCP: backlog; UDP: receive buffer in bytes */
	__u32 program_id;   /* 0 for a classic program */
	__u16 family;
	__u16 port;
	__u8 protocol;
	__u8 v6only;
	__u8 has_program;
	__u8 standing;
	__u8 address[16];   /* IPv4 in the first four */
	char program_name[16];
	__u32 not_asked;    /* UDP: enum not_asked */
	__u32 made;	    /* enum made; this and what follows only in detail */
	__u32 drops;	    /* packets that the kernel dropped there, since the socket was made */
	__u32 waiters;	    /* epoll instances that watch it and threads that wait for it, or WAITERS_UNKNOWN */
	char device_name[16]; /* empty: the device is gone */
};

/* One descriptor of a socket, which need not have a member_record. */
struct holder_record {
	struct header header;
	__u64 sock_address;
	__u64 cookie;
	__u32 pid; /* in the reader's pid namespace, 0: not visible there */
	__u32 tid; /* of the thread whose descriptor it is; the pid unless threads have different files */
	__u32 fd;
	__u32 first_pid;    /* of the first process of its line of parents that runs the same file, 0: not visible */
	char comm[16];
	__u64 first_started; /* when that one began, in nanoseconds since the host's boot */
	__u64 binary_inode; /* the file that it runs; 0: it is ending */
	__u32 binary_device;
	__u32 pad;
};

/* An epoll instance watches a socket's file. */
struct watch_record {
	struct header header;
	__u64 sock_address;
	__u64 epoll; /* the struct eventpoll's address, 0: there are more than MAX_WATCHES */
};

/* A process has a descriptor of an epoll instance. */
struct epoll_record {
	struct header header;
	__u64 epoll;
	__u32 pid; /* in the reader's pid namespace, 0: not visible there */
	__u32 fd;
};

/* A thread waits for a socket, or in epoll_wait; or the queue was not seen to its end, and others may (pid 0). */
struct waiter_record {
	struct header header;
	__u64 object; /* the address of the struct sock or of the struct eventpoll */
	__u32 pid;    /* in the reader's pid namespace, 0: not visible there */
	__u32 tid;
};

/* The kernel's tables were walked to their end. */
struct end_record {
	struct header header;
};

/* A socket of which it is asked whether it is waited for. */
struct asked {
	__u64 sock_address; /* 0: none */
	__u64 cookie;
};

/* The most sockets that are asked for at once. */
#define MAX_ASKED 256

/* A socket that was asked for is waited for now. */
struct awaited_record {
	struct header header;
	__u64 sock_address;
};

enum stage {
	STAGE_NONE = 0,
	STAGE_TCP = 1,
	STAGE_UDP = 2,
	STAGE_END = 3,
};

/* Where a run of the walk over the kernel's tables begins. */
struct cursor {
	__u32 stage;
	__u32 bucket;
	__u64 last;   /* the address of the last socket of the bucket that was reported, or 0 */
	__u64 cookie; /* its cookie: another socket may come to the same address */
	__u32 udp_fd; /* a descriptor of the reader: any UDP socket */
	__u32 again;  /* how often the walk may still read a list again that changed meanwhile */
	__u32 final_stage; /* the last stage: listeners alone take a fraction of the time on a host with many UDP sockets */
	__u16 port;   /* of which sockets in no group are reported, too; 0: of none */
	__u16 detail; /* whether to report how each socket was made, what it dropped and who waits for it */
	__u16 only;   /* the port of which alone sockets are reported; 0: of all */
	__u16 reserved[3];
};

/* Runs of that walk, of up to 240 sockets each (RECORDS_PER_RUN): 1,105,920 sockets. */
#define MAX_RUNS 4608

WIRE_TYPE(enum, kind);
WIRE_TYPE(enum, standing);
WIRE_TYPE(enum, stage);
WIRE_TYPE(enum, not_asked);
WIRE_TYPE(enum, made);
WIRE_TYPE(struct, reader_record);
WIRE_TYPE(struct, member_record);
WIRE_TYPE(struct, holder_record);
WIRE_TYPE(struct, watch_record);
WIRE_TYPE(struct, epoll_record);
WIRE_TYPE(struct, waiter_record);
WIRE_TYPE(struct, end_record);
WIRE_TYPE(struct, cursor);
WIRE_TYPE(struct, asked);
WIRE_TYPE(struct, awaited_record);
