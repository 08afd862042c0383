//! The records as they lie in memory: `bpf/wire/record.h`.

use zerocopy::{FromBytes, Immutable, KnownLayout};

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub(super) kind: u32,
    pub(super) size: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawReader {
    pub(super) header: Header,
    pub(super) netns_cookie: u64,
    pub(super) netns_inode: u32,
    pub(super) pad: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawMember {
    pub(super) header: Header,
    pub(super) cookie: u64,
    pub(super) sock_address: u64,
    pub(super) netns_cookie: u64,
    pub(super) netns_inode: u32,
    pub(super) reuseport_id: u32,
    pub(super) uid: u32,
    pub(super) device: u32,
    pub(super) waiting: u32,
    pub(super) half_open: u32,
    pub(super) limit: u32,
    pub(super) program_id: u32,
    pub(super) family: u16,
    pub(super) port: u16,
    pub(super) protocol: u8,
    pub(super) v6only: u8,
    pub(super) has_program: u8,
    pub(super) standing: u8,
    pub(super) address: [u8; 16],
    pub(super) program_name: [u8; 16],
    pub(super) not_asked: u32,
    pub(super) made: u32,
    pub(super) drops: u32,
    pub(super) waiters: u32,
    pub(super) device_name: [u8; 16],
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawHolder {
    pub(super) header: Header,
    pub(super) sock_address: u64,
    pub(super) cookie: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) fd: u32,
    pub(super) first_pid: u32,
    pub(super) comm: [u8; 16],
    pub(super) first_started: u64,
    pub(super) binary_inode: u64,
    pub(super) binary_device: u32,
    pub(super) pad: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawWatch {
    pub(super) header: Header,
    pub(super) sock_address: u64,
    pub(super) epoll: u64,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawEpoll {
    pub(super) header: Header,
    pub(super) epoll: u64,
    pub(super) pid: u32,
    pub(super) fd: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawWaiter {
    pub(super) header: Header,
    pub(super) object: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawEnd {
    pub(super) header: Header,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawAwaited {
    pub(super) header: Header,
    pub(super) sock_address: u64,
}
