//! A socket that no process has a descriptor of.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::process::close;

/// A socket whose only descriptor is in flight: in the queue of a Unix socket (`SCM_RIGHTS`). It is
/// closed when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    receiver: OwnedFd,
    _sender: OwnedFd,
}

impl InFlight {
    /// Sends the descriptor and closes the caller's.
    ///
    /// # Panics
    ///
    /// Without descriptors or memory.
    pub fn send(socket: impl Into<OwnedFd>) -> Self {
        let socket = socket.into();
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let (sender, receiver) = socketpair(family, kind, SocketFlags::CLOEXEC, None)
            .unwrap_or_else(|errno| panic!("no pair of sockets: {errno}"));
        let mut space = [MaybeUninit::uninit(); 64];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "a descriptor fits");
        let sent = sendmsg(&sender, &[IoSlice::new(b"x")], &mut control, SendFlags::empty());
        assert_eq!(sent, Ok(1));
        close(socket);
        Self { receiver, _sender: sender }
    }

    /// Takes the descriptor out.
    ///
    /// # Panics
    ///
    /// Without descriptors.
    pub fn receive(self) -> OwnedFd {
        let mut space = [MaybeUninit::uninit(); 64];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (mut byte, flags) = ([0], RecvFlags::CMSG_CLOEXEC);
        let mut into = [IoSliceMut::new(&mut byte)];
        let received = recvmsg(&self.receiver, &mut into, &mut control, flags);
        assert!(received.is_ok(), "{received:?}");
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        fd.unwrap_or_else(|| panic!("no descriptor was received"))
    }
}
