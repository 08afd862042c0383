//! Who is a member, and what becomes of members that cannot be borrowed.

mod connected;
mod hidden;
mod letting_go;
mod threads;

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use reuseport::group::{Group, Unborrowable};
use reuseport::id::Cookie;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use test_support::process::close;

/// A socket whose only descriptor is in flight: in the queue of a Unix socket, in no process.
pub(super) struct InFlight {
    from: OwnedFd,
    _to: OwnedFd,
}

impl InFlight {
    pub(super) fn send(socket: impl Into<OwnedFd>) -> Self {
        let socket = socket.into();
        let (_to, from) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let mut space = [MaybeUninit::uninit(); 64];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&_to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        close(socket);
        Self { from, _to }
    }

    /// Takes the descriptor out.
    pub(super) fn receive(self) -> OwnedFd {
        let mut space = [MaybeUninit::uninit(); 64];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&self.from, &mut [IoSliceMut::new(&mut [0])], &mut control, flags).unwrap();
        control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .unwrap()
    }
}

/// Why each member cannot be borrowed.
pub(super) fn reasons(group: &Group) -> BTreeMap<Option<Cookie>, Option<Unborrowable>> {
    group.members.iter().map(|member| (member.cookie, member.unborrowable())).collect()
}
