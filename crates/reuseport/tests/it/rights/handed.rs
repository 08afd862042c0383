//! Sockets of an ordinary user, steered by a program that a privileged helper loaded and hands over
//! as a pin or through a Unix socket.

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
use sk_reuseport::programs::SkReuseport;
use sk_reuseport::programs::select::{attach, detach};
use test_support::loopback;
use test_support::{netns, wait};

use super::steps::*;
use crate::common::rights::user_capable_of;
use crate::common::world::alone;

/// Sends a datagram to the group, and returns the socket that receives it.
fn receiver(group: &[UdpSocket]) -> usize {
    let client = UdpSocket::bind(loopback(false)).unwrap();
    let address: SocketAddr = group[0].local_addr().unwrap();
    client.send_to(b"x", address).unwrap();
    let got = |socket: &UdpSocket| socket.recv(&mut [0; 8]).is_ok();
    group.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    wait::until_some("a datagram", wait::BOUND, || group.iter().position(got))
}

/// How many choices the program of [`chooser`] has counted.
fn picked(ebpf: &Ebpf) -> u64 {
    let counters: Array<_, u64> = ebpf.map("counters").unwrap().try_into().unwrap();
    counters.get(&1, 0).unwrap()
}

#[test]
fn an_ordinary_user_steers_sockets_with_a_pinned_program() {
    alone(|| {
        let mut helpers = chooser();
        pin_for_user(&mut helpers);
        user_capable_of(CapabilitySet::empty(), || {
            let group = sockets();
            let (program, mut array) = open_pins().unwrap();
            for (index, socket) in group.iter().enumerate() {
                array.set(index as u32, socket, 0).unwrap();
            }
            program.attach(&group[0]).unwrap();
            for _ in 0..20 {
                assert_eq!(receiver(&group), 1);
            }
            // The program stays attached when its descriptors are closed.
            drop((program, array));
            assert_eq!(receiver(&group), 1);
            SkReuseport::detach(&group[0]).unwrap();
        });
        assert_eq!(picked(&helpers), 21);
    });
}

#[test]
fn an_ordinary_user_steers_sockets_with_a_program_from_a_helper() {
    netns::isolated(|| {
        let mut helpers = chooser();
        let (helper, user) = UnixStream::pair().unwrap();
        let program = select(&mut helpers, "select_socket").fd().unwrap().try_clone().unwrap();
        let array =
            helpers.map("sockets").unwrap().data().fd().as_fd().try_clone_to_owned().unwrap();
        send_descriptors(&helper, &[program.as_fd(), array.as_fd()]);
        drop((program, array));
        user_capable_of(CapabilitySet::empty(), || {
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

/// For kernels that refuse bpf(2) to ordinary users: the user hands sockets to the helper, which
/// does the rest.
#[test]
fn a_helper_steers_sockets_from_an_ordinary_user() {
    netns::isolated(|| {
        let mut helpers = chooser();
        let (helper, user) = UnixStream::pair().unwrap();
        let group = user_capable_of(CapabilitySet::empty(), || {
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
    // There must be no other message.
    from.set_nonblocking(true).unwrap();
    assert!(from.read(&mut byte).is_err());
    got.unwrap()
}
