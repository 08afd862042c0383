//! A group's header: what does not change while it is steered. Pinned; the kernel program does not read it.
//!
//! Schema 2. A field keeps its place and meaning. `reserved` bytes are zero. `retired` fields have numbers
//! that no version writes any more: they never get another meaning. A change that an older version would misread
//! raises [`SCHEMA`], and the older version then refuses the state by name.
//!
//! Schema 1 had the program's [setup](super::setup) in the header, and what came next during a change of policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::config;
use super::setup::Setup;
use crate::model::group::{Device, GroupKey};
use crate::model::id::Netns;

/// The version of the pinned records.
pub(crate) const SCHEMA: u32 = 2;

/// The version before it, which this one reads and converts.
pub(crate) const PREVIOUS_SCHEMA: u32 = 1;

/// The first 8 bytes of a header.
pub(crate) const MAGIC: [u8; 8] = *b"reusport";

/// A group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) schema: u32,
    retired_capacity: u32,
    netns_cookie: u64,
    netns_inode: u32,
    protocol: u8,
    family: u8,
    v6only: u8,
    retired_sockets: u8,
    address: [u8; 16],
    port: u16,
    reserved_2: u16,
    device: u32,
    device_name: [u8; 16],
    uid: u32,
    /// Kind, policy and stickiness of the program.
    retired_program: [u32; 3],
    retired_numbers: [u32; 2],
    /// The key of hashes.
    pub(crate) seed: u64,
    retired_generation: u32,
    /// The id of the program that was about to take over; 0: none. Its policy and stickiness.
    retired_next: [u32; 3],
    /// The parameters of the program's policy, and of the next one's.
    retired_parameters: [u64; 2],
    /// 1: the program, and the next one, cannot read queues.
    retired_without_queues: [u32; 2],
    retired_host_layer: u32,
    reserved_4: [u32; 27],
}

const _: () = assert!(size_of::<Header>() == 256);

impl Header {
    pub(crate) fn new(key: &GroupKey, seed: u64) -> Self {
        let (family, address) = match key.address.ip() {
            IpAddr::V4(ip) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&ip.octets());
                (4, address)
            }
            IpAddr::V6(ip) => (6, ip.octets()),
        };
        let mut device_name = [0; 16];
        if let Some(name) = key.device.as_ref().and_then(|device| device.name.as_ref()) {
            for (to, from) in device_name[..15].iter_mut().zip(name.bytes()) {
                *to = from;
            }
        }
        Self {
            magic: MAGIC,
            schema: SCHEMA,
            retired_capacity: 0,
            netns_cookie: key.netns.cookie,
            netns_inode: key.netns.inode,
            protocol: config::protocol_number(key.protocol),
            family,
            v6only: u8::from(key.v6only),
            retired_sockets: 0,
            address,
            port: key.address.port(),
            reserved_2: 0,
            device: key.device.as_ref().map_or(0, |device| device.index),
            device_name,
            uid: key.uid,
            retired_program: [0; 3],
            retired_numbers: [0; 2],
            seed,
            retired_generation: 0,
            retired_next: [0; 3],
            retired_parameters: [0; 2],
            retired_without_queues: [0; 2],
            retired_host_layer: 0,
            reserved_4: [0; 27],
        }
    }

    /// The setup of the program with this id, in a header of the previous schema.
    pub(crate) fn previous_setup(&self, id: Option<u32>) -> Setup {
        let [next_id, next_policy, next_sticky] = self.retired_next;
        let [kind, policy, sticky] = self.retired_program;
        let [parameters, next_parameters] = self.retired_parameters;
        let [without_queues, next_without_queues] = self.retired_without_queues;
        let (codes, parameters, without_queues) = match id {
            Some(id) if id != 0 && id == next_id => {
                ([kind, next_policy, next_sticky], next_parameters, next_without_queues)
            }
            _ => ([kind, policy, sticky], parameters, without_queues),
        };
        Setup::from_codes(codes, parameters, without_queues, self.retired_host_layer)
    }

    /// The same group's header of this schema.
    pub(crate) fn converted(&self) -> Self {
        Self { schema: SCHEMA, ..*self }
    }

    /// The group; `None` if the bytes name none.
    pub(crate) fn key(&self) -> Option<GroupKey> {
        let [a, b, c, d, ..] = self.address;
        let ip = match self.family {
            4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            6 => IpAddr::V6(Ipv6Addr::from(self.address)),
            _ => return None,
        };
        let name = self.device_name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
        let netns = Netns { cookie: self.netns_cookie, inode: self.netns_inode };
        let address = SocketAddr::new(ip, self.port);
        let mut key = GroupKey::new(netns, config::protocol(self.protocol)?, address);
        (key.v6only, key.uid) = (self.v6only != 0, self.uid);
        key.device = (self.device != 0)
            .then(|| Device { index: self.device, name: name.map(str::to_owned) });
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::group::{Protocol, examples};
    use crate::model::policy::Policy;

    fn key(address: &str, device: Option<Device>) -> GroupKey {
        let netns = Netns { cookie: 7, inode: 4_026_531_840 };
        GroupKey { netns, v6only: true, device, uid: 33, ..examples::key(Protocol::Tcp, address) }
    }

    #[test]
    fn a_header_converts_back_to_its_group() {
        let eth0 = Device { index: 2, name: Some("eth0".to_owned()) };
        let nameless = Device { index: 3, name: None };
        for device in [None, Some(eth0), Some(nameless)] {
            for address in ["127.0.0.1:8080", "[2001:db8::1]:53", "[::]:1"] {
                let key = key(address, device.clone());
                let again = Header::new(&key, 42).key().unwrap();
                let name = |key: &GroupKey| key.device.clone().map(|device| device.name);
                assert_eq!((name(&again), &again), (name(&key), &key));
            }
        }
    }

    #[test]
    fn in_the_previous_schema_the_attached_program_tells_which_one_decides() {
        let (turn, random) = (Policy::RoundRobin, Policy::Random);
        let header = Header {
            schema: PREVIOUS_SCHEMA,
            retired_program: [1, turn.code(), 0],
            retired_next: [11, random.code(), 0],
            retired_without_queues: [0, 1],
            ..Header::new(&key("127.0.0.1:80", None), 1)
        };
        for (id, policy, reads) in
            [(None, turn, true), (Some(10), turn, true), (Some(11), random, false)]
        {
            let setup = header.previous_setup(id);
            assert_eq!((setup.program(), setup.reads_queues()), (Some(policy.into()), reads));
        }
        assert_eq!(header.converted().key(), header.key());
    }

    #[test]
    fn unknown_bytes_have_no_group() {
        assert_eq!(Header::read_from_bytes(&[0xa5; 256]).unwrap().key(), None);
    }
}
