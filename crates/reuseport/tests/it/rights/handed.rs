//! An ordinary user's own sockets, and a program that a privileged helper loaded: by a pin, or handed
//! over a Unix socket.

use std::io::Read as _;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::thread::CapabilitySet;
use sk_reuseport::Ebpf;
use sk_reuseport::maps::{Array, Map, MapData, ReusePortSockArray};
use sk_reuseport::net::loopback;
use sk_reuseport::programs::SkReuseport;
use sk_reuseport::programs::sk_reuseport::{attach, detach};
use test_support::{bpffs, netns, wait};

use super::as_nobody_with;
use super::steps::*;

/// Who gets what is sent to the group.
fn receiver(group: &[UdpSocket]) -> usize {
    let client = UdpSocket::bind(loopback(false)).unwrap();
    let address: SocketAddr = group[0].local_addr().unwrap();
    client.send_to(b"x", address).unwrap();
    let got = |socket: &UdpSocket| socket.recv(&mut [0; 8]).is_ok();
    group.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    wait::until_some("a datagram", wait::BOUND, || group.iter().position(got))
}

/// What the program of [`chooser`] counted as its choices.
fn picked(ebpf: &Ebpf) -> u64 {
    let counters: Array<_, u64> = ebpf.map("counters").unwrap().try_into().unwrap();
    counters.get(&1, 0).unwrap()
}

#[test]
fn an_ordinary_user_steers_his_sockets_by_what_a_helper_pinned() {
    netns::isolated(|| {
        bpffs::private();
        let mut helpers = chooser();
        pin_for_nobody(&mut helpers);
        as_nobody_with(CapabilitySet::empty(), || {
            let group = sockets();
            let (program, mut array) = open_pins().unwrap();
            for (index, socket) in group.iter().enumerate() {
                array.set(index as u32, socket, 0).unwrap();
            }
            program.attach(&group[0]).unwrap();
            for _ in 0..20 {
                assert_eq!(receiver(&group), 1);
            }
            // What is pinned stays when he closes it.
            drop((program, array));
            assert_eq!(receiver(&group), 1);
            SkReuseport::detach(&group[0]).unwrap();
        });
        assert_eq!(picked(&helpers), 21);
    });
}

#[test]
fn an_ordinary_user_steers_his_sockets_by_what_a_helper_hands_him() {
    netns::isolated(|| {
        let mut helpers = chooser();
        let (helper, user) = UnixStream::pair().unwrap();
        let program = select(&mut helpers, "select_socket").fd().unwrap().try_clone().unwrap();
        let array =
            helpers.map("sockets").unwrap().data().fd().as_fd().try_clone_to_owned().unwrap();
        send_descriptors(&helper, &[program.as_fd(), array.as_fd()]);
        drop((program, array));
        as_nobody_with(CapabilitySet::empty(), || {
            let group = sockets();
            let [program, array] = receive_descriptors(&user).try_into().unwrap();
            let array = Map::from_map_data(MapData::from_fd(array).unwrap()).unwrap();
            let mut array: ReusePortSockArray<_> = array.try_into().unwrap();
            for (index, socket) in group.iter().enumerate() {
                array.set(index as u32, socket, 0).unwrap();
            }
            attach(&group[0], &program).unwrap();
            for _ in 0..20 {
                assert_eq!(receiver(&group), 1);
            }
            detach(&group[1]).unwrap();
        });
        assert_eq!(picked(&helpers), 20);
    });
}

/// The other way round, for kernels that refuse all of bpf(2) to an ordinary user: he hands his sockets
/// to the helper, who does everything.
#[test]
fn a_helper_steers_sockets_that_an_ordinary_user_hands_it() {
    netns::isolated(|| {
        let mut helpers = chooser();
        let (helper, user) = UnixStream::pair().unwrap();
        let group = as_nobody_with(CapabilitySet::empty(), || {
            let group = sockets();
            send_descriptors(&user, &[group[0].as_fd(), group[1].as_fd()]);
            group
        });
        let handed = receive_descriptors(&helper);
        let mut array: ReusePortSockArray<_> =
            helpers.map_mut("sockets").unwrap().try_into().unwrap();
        for (index, socket) in handed.iter().enumerate() {
            array.set(index as u32, socket, 0).unwrap();
        }
        select(&mut helpers, "select_socket").attach(&handed[0]).unwrap();
        drop(handed);
        assert_eq!(receiver(&group), 1);
        assert_eq!(picked(&helpers), 1);
    });
}

fn send_descriptors(to: &UnixStream, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    assert!(message.push(SendAncillaryMessage::ScmRights(descriptors)));
    let data = [std::io::IoSlice::new(b"x")];
    sendmsg(to, &data, &mut message, SendFlags::empty()).unwrap();
}

fn receive_descriptors(mut from: &UnixStream) -> Vec<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(from, &mut data, &mut message, RecvFlags::CMSG_CLOEXEC).unwrap();
    let got = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors.collect()),
        _ => None,
    });
    // Nothing more is to come.
    from.set_nonblocking(true).unwrap();
    assert!(from.read(&mut byte).is_err());
    got.unwrap()
}
