//! A user's own map for sockets that is pinned by name: others may have put sockets into it, which stay.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use reuseport::group::GroupKey;
use reuseport::status::Steering;
use reuseport::{Attach, Balancer, ErrorKind, Host};
use sk_reuseport::maps::{Map, MapData, ReusePortSockArray};
use sk_reuseport::programs::ProgramInfo;
use test_support::bpffs;
use test_support::process::close;

use crate::common::cookie;
use crate::common::world::{
    alone, deal, key_of, listeners, more, nothing_pinned, object, one_line, with_object,
};

fn pin() -> PathBuf {
    Path::new(bpffs::PATH).join("shared_sockets")
}

fn array() -> ReusePortSockArray<MapData> {
    Map::from_map_data(MapData::from_pin(pin()).unwrap()).unwrap().try_into().unwrap()
}

/// The cookies in the map, by index.
fn content() -> Vec<(u32, u64)> {
    let array = array();
    (0..16).filter_map(|index| Some((index, array.get(&index).unwrap()?))).collect()
}

fn attach(host: &Host, key: &GroupKey) -> reuseport::Result<()> {
    Balancer::attach(host, key, &with_object(object("shared"))).map(|_| ())
}

fn cookies(members: &[TcpListener]) -> Vec<u64> {
    members.iter().map(|member| cookie(member).get()).collect()
}

#[test]
fn a_map_that_serves_another_group_is_refused() {
    alone(|| {
        let host = Host::open().unwrap();
        let (first, second) = (listeners(2), listeners(2));
        let [one, two] = [&first, &second].map(|members| key_of(&host, &members[0]));
        attach(&host, &one).unwrap();
        let of_first = cookies(&first);
        let filled = vec![(0, of_first[0]), (1, of_first[1])];
        assert_eq!(content(), filled);

        // Under the kernel's hash, and under a policy, which stays.
        for policy in [false, true] {
            if policy {
                Balancer::attach(&host, &two, &Attach::default()).unwrap();
            }
            let before = host.status(&two).unwrap();
            let error = attach(&host, &two).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let said = one_line(&error);
            for word in [&format!("cookie:{} at index 0", of_first[0]), "LIBBPF_PIN_BY_NAME"] {
                assert!(said.contains(word), "{said}");
            }
            let after = host.status(&two).unwrap();
            assert_eq!(
                (after.steering, after.group.program),
                (before.steering, before.group.program)
            );
            assert_eq!(content(), filled);
        }
        assert_eq!(deal(&first, 6), [6, 0], "its program still finds its sockets");
        reuseport::detach(&host, &two).unwrap();
        reuseport::detach(&host, &one).unwrap();
        assert_eq!(content(), []);
        attach(&host, &two).unwrap();
        assert_eq!(deal(&second, 6), [6, 0]);
        // The same object again: the sockets in the map are of this group.
        attach(&host, &two).unwrap();
        assert_eq!(deal(&second, 6), [6, 0]);
    });
}

/// Values of 4 bytes do not tell which sockets are in the map.
#[test]
fn a_map_that_does_not_tell_its_sockets_keeps_another_groups() {
    alone(|| {
        let host = Host::open().unwrap();
        let (first, second) = (listeners(2), listeners(2));
        let [one, two] = [&first, &second].map(|members| key_of(&host, &members[0]));
        let attach = |key| Balancer::attach(&host, key, &with_object(object("shared4")));
        attach(&one).unwrap();
        let error = attach(&two).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let said = one_line(&error);
        assert!(said.contains("a socket of another group is at its index"), "{said}");
        assert_eq!(deal(&first, 6), [6, 0], "its program still finds its sockets");
        assert_eq!(host.status(&two).unwrap().steering, Steering::KernelHash);
        reuseport::detach(&host, &one).unwrap();
        attach(&two).unwrap();
        assert_eq!(deal(&second, 6), [6, 0]);
    });
}

/// The kernel empties the slot of a listener that closes, and another group's socket may come there.
#[test]
fn a_slot_that_a_listener_left_is_not_emptied_where_the_map_does_not_tell() {
    let attach_again = |host: &Host, key: &GroupKey| {
        Balancer::attach(host, key, &Attach::default()).unwrap();
        reuseport::detach(host, key).unwrap();
    };
    let detach = |host: &Host, key: &GroupKey| {
        reuseport::detach(host, key).unwrap();
    };
    let ends: [fn(&Host, &GroupKey); 2] = [attach_again, detach];
    for end in ends {
        alone(|| {
            let host = Host::open().unwrap();
            let (mut members, strangers) = (listeners(2), listeners(1));
            let key = key_of(&host, &members[0]);
            Balancer::attach(&host, &key, &with_object(object("shared4"))).unwrap();
            let map = MapData::from_pin(Path::new(bpffs::PATH).join("shared4")).unwrap();
            let map = Map::from_map_data(map).unwrap();
            let mut map: ReusePortSockArray<MapData> = map.try_into().unwrap();
            close(vec![members.remove(1)]);
            map.set(1, &strangers[0], 0).unwrap();

            end(&host, &key);
            let mut another = ReusePortSockArray::create("another", 2).unwrap();
            another.set(0, &members[0], 0).expect("it was taken out");
            another.set(1, &strangers[0], 0).expect_err("it is in the map");
        });
    }
}

#[test]
fn sockets_that_others_put_there_stay() {
    alone(|| {
        let host = Host::open().unwrap();
        let (members, strangers) = (listeners(2), listeners(1));
        let key = key_of(&host, &members[0]);
        attach(&host, &key).unwrap();
        // Another process fills the next index.
        array().set(2, &strangers[0], 0).unwrap();
        let theirs = (2, cookie(&strangers[0]).get());
        let newcomers = more(key.address, 1);
        let error = Balancer::attach(&host, &key, &Attach::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let said = one_line(&error);
        assert!(said.contains("a socket of another group is at its index"), "{said}");
        assert!(said.contains("LIBBPF_PIN_BY_NAME"), "{said}");
        assert!(content().contains(&theirs));
        drop(newcomers);
        // What remains of the group goes on and is detached; the stranger stays.
        Balancer::attach(&host, &key, &Attach::default()).unwrap();
        assert_eq!(deal(&members, 4), [4, 0]);
        reuseport::detach(&host, &key).unwrap();
        assert_eq!(content(), [theirs]);
        assert!(nothing_pinned());
        assert!(attach(&host, &key).is_err());
        assert_eq!(content(), [theirs]);
        assert_eq!(host.status(&key).unwrap().steering, Steering::KernelHash);
    });
}

/// The state of a group that ended goes although the map is not empty.
#[test]
fn the_state_of_a_group_that_ended_is_removed_and_the_stranger_stays() {
    alone(|| {
        let host = Host::open().unwrap();
        let (members, strangers) = (listeners(2), listeners(1));
        let key = key_of(&host, &members[0]);
        attach(&host, &key).unwrap();
        array().set(5, &strangers[0], 0).unwrap();
        drop(members);
        let other = listeners(1);
        let other = key_of(&host, &other[0]);
        let _ = Balancer::attach(&host, &other, &Attach::default());
        let _ = reuseport::detach(&host, &other);
        assert!(nothing_pinned());
        assert_eq!(content(), [(5, cookie(&strangers[0]).get())]);
    });
}

/// The program that decides uses the map that is pinned.
#[test]
fn it_is_pinned_where_state_is() {
    alone(|| {
        let host = Host::open().unwrap();
        let members = listeners(2);
        let key = key_of(&host, &members[0]);
        attach(&host, &key).unwrap();
        let program = host.status(&key).unwrap().group.program.unwrap().id.unwrap();
        let maps = ProgramInfo::from_id(program).unwrap().map_ids().unwrap().unwrap();
        assert!(maps.contains(&MapData::from_pin(pin()).unwrap().info().unwrap().id()));
    });
}
