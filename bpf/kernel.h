/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The kernel's types: those that the programs read.
 *
 * There is no generated vmlinux.h here: every structure declares only the fields that are read, in
 * any order. `preserve_access_index` makes the loader look up each field's place in the running
 * kernel's own BTF (CO-RE), so one object fits every kernel that has the fields. Anonymous unions
 * and structs of the kernel may be left out: fields are found through them.
 *
 * Include this before <bpf/bpf_helpers.h>, which needs the integer types. It goes together with
 * <linux/bpf.h>, and takes the place of <linux/in.h> and <linux/in6.h>.
 */
#ifndef REUSEPORT_KERNEL_H
#define REUSEPORT_KERNEL_H

/* As in <linux/types.h>. */
typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;

enum { AF_INET = 2, AF_INET6 = 10 };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_MPTCP = 262 };
/* include/net/tcp_states.h; a connected UDP socket is in ESTABLISHED too */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_RECV = 3,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_CLOSE = 7,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_CLOSING = 11,
};

#ifndef NULL
#define NULL ((void *)0)
#endif

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

/* Lists. The next pointer of the last element of a "nulls" list is odd. */

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct hlist_nulls_node {
	struct hlist_nulls_node *next;
};

struct hlist_nulls_head {
	struct hlist_nulls_node *first;
};

/* Circular: the last element's next pointer is the head's address. */
struct list_head {
	struct list_head *next;
};

/* Processes and their namespaces. */

struct ns_common {
	unsigned int inum;
};

/* The tables of listeners and of UDP sockets. */

struct inet_listen_hashbucket {
	struct hlist_nulls_head nulls_head;
};

struct inet_hashinfo {
	struct inet_listen_hashbucket *lhash2;
	unsigned int lhash2_mask;
};

struct inet_timewait_death_row {
	struct inet_hashinfo *hashinfo;
};

struct udp_hslot {
	struct hlist_head head;
};

struct udp_table {
	struct udp_hslot *hash;
	unsigned int mask;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
	struct udp_table *udp_table; /* since 6.2 */
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
	__u64 net_cookie;
	struct hlist_head *dev_index_head;
};

struct net_device {
	char name[16];
	int ifindex;
	struct hlist_node index_hlist; /* the place in dev_index_head */
};

struct nsproxy {
	struct net *net_ns;
};

struct pid_namespace;

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct hlist_head tasks[1]; /* the first is of PIDTYPE_PID */
	struct upid numbers[1];
};

struct file;

struct fdtable {
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct mm_struct {
	struct file *exe_file;
};

struct task_struct {
	int pid;
	int tgid;
	char comm[16];
	struct pid *thread_pid;
	struct hlist_node pid_links[1]; /* the same */
	struct nsproxy *nsproxy;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct files_struct *files;
	struct mm_struct *mm;
	__u64 start_boottime;
};

/* Who waits: threads, epoll instances. A circle of which the head is in the queue itself. */

struct wait_queue_head {
	struct list_head head;
};

struct wait_queue_entry {
	void *private;
	struct list_head entry;
};

struct poll_wqueues {
	struct task_struct *polling_task;
};

struct socket_wq {
	struct wait_queue_head wait;
};

/* Packets. */

struct sk_buff {
	unsigned int truesize;
	unsigned char *head;
	unsigned int end; /* where the shared info lies, from the head on */
};

struct skb_shared_info {
	unsigned short gso_size; /* of each datagram of a train; 0 for a single one */
};

/* What a program of the type sk_reuseport really gets for a context. */
struct sk_reuseport_kern {
	struct sk_buff *skb;
};

/* Sockets. */

struct proto {
	struct {
		struct udp_table *udp_table; /* NULL since 6.2 */
	} h;
};

struct sock_common {
	__be32 skc_rcv_saddr;
	__u16 skc_num; /* the local port, in the host's byte order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_reuse : 4;
	unsigned char skc_reuseport : 1;
	unsigned char skc_ipv6only : 1;
	int skc_bound_dev_if;
	unsigned long skc_flags;
	struct {
		struct net *net;
	} skc_net;
	struct in6_addr skc_v6_rcv_saddr;
	struct proto *skc_prot;
	atomic64_t skc_cookie;
	struct hlist_nulls_node skc_nulls_node; /* the place in a table, of either kind of list */
};

struct bpf_prog_aux {
	__u32 id; /* 0 for a classic program */
	char name[16];
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct sock_reuseport {
	unsigned int reuseport_id;
	struct bpf_prog *prog;
};

/* What UDP sockets drop, since 6.18. */
struct numa_drop_counters {
	atomic_t drops0;
	atomic_t drops1;
};

struct sock {
	struct sock_common __sk_common;
	struct socket_wq *sk_wq;
	atomic_t sk_drops;
	struct numa_drop_counters *sk_drop_counters;
	struct sock_reuseport *sk_reuseport_cb;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	int sk_rcvbuf;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	__u16 sk_protocol;
	struct {
		__u32 val;
	} sk_uid;
};

struct request_sock_queue {
	atomic_t qlen;
	__u8 rskq_defer_accept;
};

struct ip_mc_socklist;
struct ipv6_mc_socklist;

struct ipv6_pinfo {
	struct ipv6_mc_socklist *ipv6_mc_list;
};

struct inet_sock {
	struct sock sk;
	struct ipv6_pinfo *pinet6;
	unsigned long inet_flags; /* since 6.6 */
	unsigned char transparent : 1; /* before */
	struct ip_mc_socklist *mc_list;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet; /* first: a pointer to one is a pointer to the other */
	struct request_sock_queue icsk_accept_queue;
	struct hlist_node icsk_listen_portaddr_node; /* the place in lhash2 before 5.19 */
};

struct tcp_sock {
	struct inet_connection_sock inet_conn; /* the same */
	_Bool is_mptcp;
};

struct mptcp_sock {
	struct inet_connection_sock sk; /* the same */
	struct sock *first;
};

struct udp_sock {
	struct inet_sock inet; /* the same */
	int forward_deficit;
	unsigned long udp_flags; /* since 6.7 */
	unsigned char accept_udp_l4 : 1; /* before, since 5.13 */
};

typedef enum {
	SS_CONNECTED = 3,
} socket_state;

struct socket {
	socket_state state;
	struct sock *sk;
};

/* Files and who watches them by epoll (fs/eventpoll.c). */

struct super_block {
	__u32 s_dev;
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct file {
	void *private_data;
	struct hlist_head *f_ep;
	struct inode *f_inode;
};

struct eventpoll {
	struct file *file;
	struct wait_queue_head wq; /* threads in epoll_wait */
	struct wait_queue_head poll_wait; /* who watches the instance itself */
};

struct epitem {
	struct eventpoll *ep;
	struct hlist_node fllink;
};

/* Its entry in the queue of what it watches. */
struct eppoll_entry {
	struct epitem *base;
	struct wait_queue_entry wait;
	struct wait_queue_head *whead;
};

/* A request of io_uring in the queue of what it waits for (io_uring/poll.h). */
struct io_poll {
	struct wait_queue_head *head;
	struct wait_queue_entry wait;
};

/* BPF iterators. */

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 seq_num;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
};

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

#endif
