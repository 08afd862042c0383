//! A group's header: its key, its program and its secret. Pinned; the kernel program does not read it.
//!
//! Schema 1. A field keeps its place and meaning. `reserved` bytes are zero. `retired` fields have numbers
//! that earlier versions wrote and no version reads: they never get another meaning. A change that an
//! older version would misread raises [`SCHEMA`], and the older version then refuses the state by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::config;
use crate::model::group::{Device, GroupKey, Protocol};
use crate::model::id::Netns;
use crate::model::policy::Policy;
use crate::model::selection::{Program, Selection};
use crate::model::sticky::Stickiness;

/// The version of the pinned records.
pub(crate) const SCHEMA: u32 = 1;

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
    program: ProgramCode,
    retired_numbers: [u32; 2],
    /// The key of hashes.
    pub(crate) seed: u64,
    /// The generation of the next new members.
    pub(crate) generation: u32,
    /// The id of the program that is about to take over; 0: none.
    next_program_id: u32,
    next_policy: u32,
    next_sticky: u32,
    policy_parameters: u64,
    next_policy_parameters: u64,
    /// 1: the program cannot read queues.
    without_queues: u32,
    next_without_queues: u32,
    /// The id of the map in which the host-wide layer counts this group's connections; 0: of a version
    /// that did not note it.
    host_layer: u32,
    reserved_4: [u32; 27],
}

const _: () = assert!(size_of::<Header>() == 256);

/// A [`Program`] without the policy's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ProgramCode {
    /// 1: this tool's program, 2: the user's own.
    kind: u32,
    policy: u32,
    sticky: u32,
}

/// Reads a selection's numbers; `None` for one that this version does not know.
fn selection(policy: u32, parameters: u64, sticky: u32) -> Option<Selection> {
    Some(Selection {
        policy: Policy::from_code(policy, parameters)?,
        sticky: Stickiness::from_code(sticky)?,
    })
}

impl Header {
    pub(crate) fn new(key: &GroupKey, program: Program, seed: u64) -> Self {
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
        let (code, policy_parameters) = match program {
            Program::Selection(Selection { policy, sticky }) => {
                let code = ProgramCode { kind: 1, policy: policy.code(), sticky: sticky.code() };
                (code, policy.parameters())
            }
            Program::Object(()) => (ProgramCode { kind: 2, policy: 0, sticky: 0 }, 0),
        };
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
            program: code,
            retired_numbers: [0; 2],
            seed,
            generation: 1,
            next_program_id: 0,
            next_policy: 0,
            next_sticky: 0,
            policy_parameters,
            next_policy_parameters: 0,
            without_queues: 0,
            next_without_queues: 0,
            host_layer: 0,
            reserved_4: [0; 27],
        }
    }

    /// The program that decides; `None` for a number that this version does not know.
    pub(crate) fn program(&self) -> Option<Program> {
        let ProgramCode { kind, policy, sticky } = self.program;
        match kind {
            1 => selection(policy, self.policy_parameters, sticky).map(Program::Selection),
            2 => Some(Program::Object(())),
            _ => None,
        }
    }

    /// The program that decides while the one with this id is attached.
    pub(crate) fn program_with_id(&self, id: u32) -> Option<Program> {
        if id != 0 && id == self.next_program_id {
            return selection(self.next_policy, self.next_policy_parameters, self.next_sticky)
                .map(Program::Selection);
        }
        self.program()
    }

    /// Whether this tool's program can read queues.
    pub(crate) fn reads_queues(&self) -> bool {
        self.without_queues == 0
    }

    pub(crate) fn set_reads_queues(&mut self, reads: bool) {
        self.without_queues = u32::from(!reads);
    }

    /// Whether the group's connections are counted in the host-wide layer with this id. UDP has none: there
    /// every layer will do.
    pub(crate) fn is_in_layer(&self, id: u32) -> bool {
        let connections = config::protocol(self.protocol) != Some(Protocol::Udp);
        !connections || self.host_layer == 0 || self.host_layer == id
    }

    pub(crate) fn set_host_layer(&mut self, id: u32) {
        self.host_layer = id;
    }

    /// Announces that the program with this id is about to take over, and whether it can read queues.
    pub(crate) fn announce(&mut self, id: u32, selection: Selection, reads_queues: bool) {
        self.next_program_id = id;
        self.next_policy = selection.policy.code();
        self.next_policy_parameters = selection.policy.parameters();
        self.next_sticky = selection.sticky.code();
        self.next_without_queues = u32::from(!reads_queues);
    }

    /// The id of the program that was about to take over, if there is one.
    pub(crate) fn announced(&self) -> Option<u32> {
        (self.next_program_id != 0).then_some(self.next_program_id)
    }

    /// Ends what [`announce`](Self::announce) began: the program has taken over, or it will not.
    pub(crate) fn settle(&mut self, taken_over: bool) {
        if taken_over {
            self.program.policy = self.next_policy;
            self.program.sticky = self.next_sticky;
            self.policy_parameters = self.next_policy_parameters;
            self.without_queues = self.next_without_queues;
        }
        (self.next_program_id, self.next_policy, self.next_sticky) = (0, 0, 0);
        (self.next_policy_parameters, self.next_without_queues) = (0, 0);
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
        Some(GroupKey {
            netns: Netns { cookie: self.netns_cookie, inode: self.netns_inode },
            protocol: config::protocol(self.protocol)?,
            address: SocketAddr::new(ip, self.port),
            v6only: self.v6only != 0,
            device: (self.device != 0)
                .then(|| Device { index: self.device, name: name.map(str::to_owned) }),
            uid: self.uid,
            of: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::group::examples;

    fn key(address: &str, device: Option<Device>) -> GroupKey {
        let netns = Netns { cookie: 7, inode: 4_026_531_840 };
        GroupKey { netns, v6only: true, device, uid: 33, ..examples::key(Protocol::Tcp, address) }
    }

    #[test]
    fn a_header_converts_back_to_its_group_and_program() {
        let eth0 = Device { index: 2, name: Some("eth0".to_owned()) };
        let nameless = Device { index: 3, name: None };
        for device in [None, Some(eth0), Some(nameless)] {
            for address in ["127.0.0.1:8080", "[2001:db8::1]:53", "[::]:1"] {
                let key = key(address, device.clone());
                let program = Policy::RoundRobin.into();
                let header = Header::new(&key, program, 42);
                assert_eq!(header.key(), Some(key));
                assert_eq!(header.program(), Some(program));
            }
        }
        let header = Header::new(&key("[::]:1", None), Program::Object(()), 42);
        assert_eq!(header.program(), Some(Program::Object(())));
    }

    #[test]
    fn during_a_change_of_policy_the_attached_program_tells_which_one_decides() {
        let mut header = Header::new(&key("127.0.0.1:80", None), Policy::RoundRobin.into(), 1);
        header.announce(11, Policy::Random.into(), false);
        assert_eq!(header.program_with_id(10), Some(Policy::RoundRobin.into()));
        assert_eq!(header.program_with_id(11), Some(Policy::Random.into()));
        let (mut taken, mut not) = (header, header);
        taken.settle(true);
        not.settle(false);
        assert_eq!((taken.announced(), not.announced()), (None, None));
        assert_eq!((taken.reads_queues(), not.reads_queues()), (false, true));
        assert_eq!(taken.program(), Some(Policy::Random.into()));
        assert_eq!(not.program(), Some(Policy::RoundRobin.into()));
    }

    #[test]
    fn unknown_bytes_have_no_group_and_no_program() {
        let header = Header::read_from_bytes(&[0xa5; 256]).unwrap();
        assert_eq!(header.key(), None);
        assert_eq!(header.program(), None);
    }
}
