//! Maps of sockets: storing, reading, and selecting from them.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use sk_reuseport::maps::{Map, MapError, ReusePortSockArray, SockHash, SockMap};
use sk_reuseport::net::Bind;
use sk_reuseport::{Ebpf, EbpfLoader};
use test_support::loopback;
use test_support::netns;
use test_support::wait::{self, BOUND};

use crate::fixtures::*;

const NOEXIST: u64 = 1;
const EXIST: u64 = 2;

/// The error number of a map's system call, and the report.
fn refused(result: Result<(), MapError>) -> (Errno, String) {
    match result.unwrap_err() {
        MapError::SyscallError(error) => (errno(&error).unwrap(), report(&error)),
        other => panic!("{other}"),
    }
}

fn indices<T: std::borrow::Borrow<sk_reuseport::maps::MapData>>(
    array: &ReusePortSockArray<T>,
) -> Vec<u32> {
    array.indices().collect::<Result<_, _>>().unwrap()
}

#[test]
fn an_array_with_wide_values_has_readable_cookies_and_indices() {
    netns::isolated(|| {
        let listeners = Bind::new(loopback(false)).listeners(2).unwrap();
        let mut array = ReusePortSockArray::create("sockets", 8).unwrap();
        assert_eq!(indices(&array), []);
        array.set(1, &listeners[0], 0).unwrap();
        array.set(6, &listeners[1], 0).unwrap();
        assert_eq!(array.get(&1).unwrap(), Some(cookie(&listeners[0])));
        assert_eq!(array.get(&6).unwrap(), Some(cookie(&listeners[1])));
        assert_eq!(array.get(&0).unwrap(), None);
        assert_eq!(indices(&array), [1, 6]);
        assert!(matches!(array.get(&8), Err(MapError::OutOfBounds { index: 8, max_entries: 8 })));

        array.clear_index(&1).unwrap();
        assert_eq!(indices(&array), [6]);
        assert_eq!(refused(array.clear_index(&1)).0, Errno::NOENT);
        assert!(matches!(array.clear_index(&8), Err(MapError::OutOfBounds { .. })));
        // A removed socket can be stored at another index.
        array.set(0, &listeners[0], 0).unwrap();
        assert_eq!(indices(&array), [0, 6]);
        let error = array.set(8, &listeners[0], 0).unwrap_err();
        assert!(matches!(error, MapError::OutOfBounds { index: 8, max_entries: 8 }));
    });
}

#[test]
fn an_array_with_narrow_values_selects_but_cannot_be_read() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut ebpf = Ebpf::load(SELECT).unwrap();
        let array = ebpf.take_map("narrow_sockets").unwrap();
        let mut array: ReusePortSockArray<_> = array.try_into().unwrap();
        for (index, member) in group.members.iter().enumerate() {
            array.set(index as u32, member, NOEXIST).unwrap();
        }
        loaded(&mut ebpf, "select_narrow").attach(&group.members[0]).unwrap();
        for index in [1, 0, 1] {
            choose(&mut ebpf, index);
            assert_eq!(group.send(b"x"), index as usize);
        }
        assert_eq!(counted(&ebpf, Counter::Picked), 3);

        let error = array.get(&0).unwrap_err();
        assert!(matches!(error, MapError::CookiesUnreadable));
        assert!(report(&error).contains("__type(value, __u64)"), "{error}");
        assert_eq!(
            indices(&array),
            [0, 1, 2, 3, 4, 5, 6, 7],
            "the kernel does not show which are empty"
        );
        array.clear_index(&0).unwrap();
        assert_eq!(refused(array.clear_index(&0)).0, Errno::NOENT);
    });
}

#[test]
fn a_socket_is_in_one_array_once() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut array = ReusePortSockArray::create("first", 8).unwrap();
        let mut other = ReusePortSockArray::create("second", 8).unwrap();
        array.set(0, &group.members[0], 0).unwrap();
        for result in [
            array.set(1, &group.members[0], 0),
            array.set(0, &group.members[0], 0),
            other.set(0, &group.members[0], 0),
        ] {
            let (errno, message) = refused(result);
            assert_eq!(errno, Errno::BUSY);
            assert!(message.contains("one socket array, once"), "{message}");
        }
        // A socket can replace another one at an index.
        array.set(0, &group.members[1], EXIST).unwrap();
        assert_eq!(array.get(&0).unwrap(), Some(cookie(&group.members[1])));
        assert_eq!(refused(array.set(0, &group.members[0], NOEXIST)).0, Errno::EXIST);
        assert_eq!(refused(array.set(1, &group.members[0], EXIST)).0, Errno::NOENT);
    });
}

#[test]
fn only_sockets_of_a_group_can_be_stored() {
    netns::isolated(|| {
        let mut array = ReusePortSockArray::create("sockets", 8).unwrap();
        let bound = TcpListener::bind(loopback(false)).unwrap();
        let unbound = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        sockopt::set_socket_reuseport(&unbound, true).unwrap();
        for result in [array.set(0, &bound, 0), array.set(0, &unbound, 0)] {
            let (errno, message) = refused(result);
            assert_eq!(errno, Errno::INVAL);
            assert!(message.contains("SO_REUSEPORT and be bound (UDP) or listening"), "{message}");
        }
        let unix = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        let (_, message) = refused(array.set(0, &unix, 0));
        assert!(message.contains("only TCP and UDP sockets can be selected"), "{message}");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(refused(array.set(0, &file, 0)).0, Errno::NOTSOCK);
        assert_eq!(indices(&array), []);
    });
}

#[test]
fn closed_sockets_leave_the_array_which_keeps_none_open() {
    netns::isolated(|| {
        let mut group = UdpGroup::new(2);
        let mut array = ReusePortSockArray::create("sockets", 8).unwrap();
        for (index, member) in group.members.iter().enumerate() {
            array.set(index as u32, member, 0).unwrap();
        }
        let address = group.address();
        drop(group.members.remove(0));
        wait::until("the index is empty", BOUND, || array.get(&0).unwrap().is_none());
        assert_eq!(indices(&array), [1]);
        drop(group);
        once_closed(|| UdpSocket::bind(address).is_ok());
    });
}

#[test]
fn a_program_selects_from_a_sockmap_by_index_and_from_a_sockhash_by_key() {
    netns::isolated(|| {
        const KEY: u64 = 0xdead_beef_0123_4567;
        let group = UdpGroup::new(3);
        let mut ebpf = EbpfLoader::new()
            .override_global("slot", &5u32, true)
            .override_global("key", &KEY, true)
            .load(SOCKMAPS)
            .unwrap();
        let by_index = ebpf.take_map("by_index").unwrap();
        let mut by_index: SockMap<_> = by_index.try_into().unwrap();
        by_index.set(5, &group.members[1], 0).unwrap();
        let by_key = ebpf.take_map("by_key").unwrap();
        let mut by_key: SockHash<_, u64> = by_key.try_into().unwrap();
        by_key.insert(KEY, group.members[2].as_raw_fd(), 0).unwrap();

        loaded(&mut ebpf, "select_by_index").attach(&group.members[0]).unwrap();
        assert_eq!(group.send(b"x"), 1);
        loaded(&mut ebpf, "select_by_key").attach(&group.members[0]).unwrap();
        assert_eq!(group.send(b"x"), 2);
        assert_eq!(counted(&ebpf, Counter::Picked), 2);

        assert_eq!(by_index.get(&5).unwrap(), Some(cookie(&group.members[1])));
        assert_eq!(by_index.get(&0).unwrap(), None);
        assert!(matches!(by_index.get(&8), Err(MapError::OutOfBounds { .. })));
        by_index.clear_index(&5).unwrap();
        assert_eq!(refused(by_index.clear_index(&5)).0, Errno::INVAL);
        assert_eq!(by_index.indices().count(), 8);

        assert_eq!(by_key.cookie(&KEY).unwrap(), Some(cookie(&group.members[2])));
        assert_eq!(by_key.cookie(&0).unwrap(), None);
        assert!(matches!(by_key.get(&0, 0), Err(MapError::KeyNotFound)));
        assert_eq!(by_key.keys().collect::<Result<Vec<_>, _>>().unwrap(), [KEY]);
        let pairs: Vec<_> = by_key.iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(pairs, [(KEY, cookie(&group.members[2]) as i32)]);
        by_key.remove(&KEY).unwrap();
        assert_eq!(refused(by_key.remove(&KEY)).0, Errno::NOENT);
        // Both maps are empty: the kernel chooses.
        group.send(b"x");
        assert_eq!(counted(&ebpf, Counter::Missed), 1);
    });
}

#[test]
fn a_sockmap_with_narrow_values_selects_but_cannot_be_read() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut ebpf =
            EbpfLoader::new().override_global("slot", &1u32, true).load(SOCKMAPS).unwrap();
        let mut narrow: SockMap<_> = ebpf.take_map("narrow").unwrap().try_into().unwrap();
        narrow.set(1, &group.members[1], 0).unwrap();
        loaded(&mut ebpf, "select_narrow").attach(&group.members[0]).unwrap();
        assert_eq!(group.send(b"x"), 1);
        assert_eq!(counted(&ebpf, Counter::Picked), 1);
        assert!(matches!(narrow.get(&1), Err(MapError::CookiesUnreadable)));
    });
}

#[test]
fn a_socket_is_in_many_socket_maps_but_not_in_an_array_at_the_same_time() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        let mut array = ReusePortSockArray::create("array", 8).unwrap();
        let mut first = SockMap::create("first", 8).unwrap();
        let mut second = SockMap::create("second", 8).unwrap();
        first.set(0, &group.members[0], 0).unwrap();
        first.set(1, &group.members[0], 0).unwrap();
        second.set(0, &group.members[0], 0).unwrap();
        let (errno, message) = refused(array.set(0, &group.members[0], 0));
        assert_eq!(errno, Errno::BUSY);
        assert!(message.contains("put it into a socket map (SockMap) too"), "{message}");
        array.set(0, &group.members[1], 0).unwrap();
        assert_eq!(refused(first.set(2, &group.members[1], 0)).0, Errno::BUSY);
        array.clear_index(&0).unwrap();
        first.set(2, &group.members[1], 0).unwrap();
    });
}

#[test]
fn a_sockmap_takes_the_place_of_a_socket_array() {
    netns::isolated(|| {
        let group = UdpGroup::new(2);
        // Sockets in the socket map of another program can only be stored in another socket map.
        let mut theirs = SockMap::create("theirs", 8).unwrap();
        let mut ours = SockMap::create("ours", 16).unwrap();
        for (index, member) in group.members.iter().enumerate() {
            theirs.set(index as u32, member, 0).unwrap();
            ours.set(index as u32, member, 0).unwrap();
        }
        let mut ebpf = EbpfLoader::new().map("sockets", ours.map_data()).load(SELECT).unwrap();
        assert!(matches!(ebpf.map("sockets"), Some(Map::SockMap(_))));
        loaded(&mut ebpf, "select_socket").attach(&group.members[0]).unwrap();
        for index in [1, 0, 1] {
            choose(&mut ebpf, index);
            assert_eq!(group.send(b"x"), index as usize);
        }
        assert_eq!(counted(&ebpf, Counter::Picked), 3);
    });
}

#[test]
fn creating_a_sockmap_needs_cap_net_admin_and_storing_nothing() {
    netns::isolated(|| {
        let group = UdpGroup::new(1);
        let mut map = SockMap::create("before", 8).unwrap();
        keep_only(rustix::thread::CapabilitySet::BPF);
        let error = SockMap::create("now", 8).unwrap_err();
        assert_eq!(errno(&error), Some(Errno::PERM));
        assert!(report(&error).contains("CAP_NET_ADMIN"), "{error}");
        keep_only(rustix::thread::CapabilitySet::empty());
        map.set(0, &group.members[0], 0).unwrap();
    });
}

#[test]
fn socket_maps_of_the_wrong_shape_are_refused() {
    let mut ebpf = Ebpf::load(SOCKMAPS).unwrap();
    let map = ebpf.map("by_key").unwrap();
    let error = SockHash::<_, u32>::try_from(map).unwrap_err();
    assert!(matches!(error, MapError::InvalidKeySize { size: 4, expected: 8 }));
    assert!(matches!(SockMap::try_from(map).unwrap_err(), MapError::InvalidMapType { .. }));
    assert!(SockHash::<_, u64>::try_from(map).unwrap().fd().as_fd().try_clone_to_owned().is_ok());
    let map = ebpf.map_mut("by_index").unwrap();
    let error = ReusePortSockArray::try_from(map).unwrap_err();
    assert!(report(&error).contains("SOCKMAP"), "{error}");
}
