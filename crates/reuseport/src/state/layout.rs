//! The records that are pinned, byte for byte.
//!
//! Schema 1. A field once given keeps its place and meaning; what is reserved is zero. A change
//! that an older version would misread raises [`SCHEMA`], and the older version then refuses the
//! state by name. `host.h` beside the BPF sources has the C side of [`Mark`] and [`HostMember`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::group::{Device, GroupKey, Protocol};
use crate::id::{Cookie, Netns, State, Weight};
use crate::policy::{Policy, Stickiness};

/// The version of these records.
pub(crate) const SCHEMA: u32 = 1;

/// What the first 8 bytes of a header say.
pub(crate) const MAGIC: [u8; 8] = *b"reusport";

/// The members that the host-wide layer can tell apart, all groups together.
pub(crate) const HOST_MEMBERS: u32 = 32_768;

/// A group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) schema: u32,
    /// How many slots there are.
    pub(crate) capacity: u32,
    netns_cookie: u64,
    netns_inode: u32,
    protocol: u8,
    family: u8,
    v6only: u8,
    /// 0: a socket array, 1: a socket map.
    pub(crate) sockets: u8,
    address: [u8; 16],
    port: u16,
    reserved_0: u16,
    device: u32,
    device_name: [u8; 16],
    uid: u32,
    /// 1: one of our policies, 2: the user's own program.
    kind: u32,
    policy: u32,
    stickiness: u32,
    /// The version of the way in which tables are filled.
    pub(crate) fill_version: u32,
    /// The program that was attached last.
    pub(crate) program_id: u32,
    /// The key of hashes.
    pub(crate) seed: u64,
    /// What members that enter next enter as.
    pub(crate) generation: u32,
    /// The program that takes over at this moment, with its policy; 0: none.
    next_program_id: u32,
    next_policy: u32,
    next_stickiness: u32,
    /// What the policies are told beside their number.
    policy_parameters: u64,
    next_policy_parameters: u64,
    /// 1: the program cannot read queues.
    without_queues: u32,
    next_without_queues: u32,
    reserved_1: [u32; 28],
}

const _: () = assert!(size_of::<Header>() == 256);

/// Who decides, as the header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decider {
    /// One of our policies.
    Policy { policy: Policy, stickiness: Stickiness },
    /// The user's own program.
    Object,
}

impl Header {
    pub(crate) fn new(key: &GroupKey, decider: Decider, capacity: u32, seed: u64) -> Self {
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
        let mut header = Self {
            magic: MAGIC,
            schema: SCHEMA,
            capacity,
            netns_cookie: key.netns.cookie,
            netns_inode: key.netns.inode,
            protocol: match key.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            },
            family,
            v6only: u8::from(key.v6only),
            sockets: 0,
            address,
            port: key.address.port(),
            reserved_0: 0,
            device: key.device.as_ref().map_or(0, |device| device.index),
            device_name,
            uid: key.uid,
            kind: 0,
            policy: 0,
            stickiness: 0,
            fill_version: crate::table::FILL_VERSION,
            program_id: 0,
            seed,
            generation: 1,
            next_program_id: 0,
            next_policy: 0,
            next_stickiness: 0,
            policy_parameters: 0,
            next_policy_parameters: 0,
            without_queues: 0,
            next_without_queues: 0,
            reserved_1: [0; 28],
        };
        header.set_decider(decider);
        header
    }

    pub(crate) fn set_decider(&mut self, decider: Decider) {
        (self.kind, self.policy, self.stickiness, self.policy_parameters) = match decider {
            Decider::Policy { policy, stickiness } => {
                (1, policy.code(), stickiness.code(), policy.parameters())
            }
            Decider::Object => (2, 0, 0, 0),
        };
    }

    /// Who decides; `None` for a number that this version does not know.
    pub(crate) fn decider(&self) -> Option<Decider> {
        match self.kind {
            1 => Some(Decider::Policy {
                policy: Policy::from_code(self.policy, self.policy_parameters)?,
                stickiness: Stickiness::from_code(self.stickiness)?,
            }),
            2 => Some(Decider::Object),
            _ => None,
        }
    }

    /// Who decides while the program with this id is attached.
    pub(crate) fn decider_of(&self, program_id: u32) -> Option<Decider> {
        if program_id != 0 && program_id == self.next_program_id {
            return Some(Decider::Policy {
                policy: Policy::from_code(self.next_policy, self.next_policy_parameters)?,
                stickiness: Stickiness::from_code(self.next_stickiness)?,
            });
        }
        self.decider()
    }

    /// Whether the program, one with a policy, can read queues.
    pub(crate) fn reads_queues(&self) -> bool {
        self.without_queues == 0
    }

    pub(crate) fn set_reads_queues(&mut self, reads: bool) {
        self.without_queues = u32::from(!reads);
    }

    /// Says that this program of ours is about to take over, and whether it can read queues.
    pub(crate) fn announce(
        &mut self,
        program_id: u32,
        policy: Policy,
        stickiness: Stickiness,
        reads_queues: bool,
    ) {
        self.next_without_queues = u32::from(!reads_queues);
        self.next_program_id = program_id;
        (self.next_policy, self.next_stickiness) = (policy.code(), stickiness.code());
        self.next_policy_parameters = policy.parameters();
    }

    /// The program that was about to take over, if one was.
    pub(crate) fn announced(&self) -> Option<u32> {
        (self.next_program_id != 0).then_some(self.next_program_id)
    }

    /// Ends what [`announce`](Self::announce) began: the program has taken over, or it will not.
    pub(crate) fn settle(&mut self, taken_over: bool) {
        if taken_over {
            (self.policy, self.stickiness) = (self.next_policy, self.next_stickiness);
            self.policy_parameters = self.next_policy_parameters;
            self.without_queues = self.next_without_queues;
            self.program_id = self.next_program_id;
        }
        (self.next_program_id, self.next_policy, self.next_stickiness) = (0, 0, 0);
        (self.next_policy_parameters, self.next_without_queues) = (0, 0);
    }

    /// Which group it is; `None` if the bytes name none.
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
            protocol: match self.protocol {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                _ => return None,
            },
            address: SocketAddr::new(ip, self.port),
            v6only: self.v6only != 0,
            device: (self.device != 0)
                .then(|| Device { index: self.device, name: name.map(str::to_owned) }),
            uid: self.uid,
        })
    }
}

/// A slot and the member that occupies it. All zero: free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct SlotRecord {
    /// The member's cookie; 0: the slot is free.
    cookie: u64,
    /// Rises when the slot is given to another member.
    pub(crate) epoch: u32,
    /// The member's index in the host-wide layer; [`NO_HOST_MEMBER`] if it got none.
    pub(crate) host_member: u32,
    pub(crate) generation: u32,
    weight: u16,
    /// 0: free, else as in [`state_code`].
    state: u8,
    reserved_0: u8,
    /// The CPU that is the member's own, and one; 0: none.
    cpu: u16,
    reserved_1: [u16; 3],
    reserved_2: [u64; 4],
}

const _: () = assert!(size_of::<SlotRecord>() == 64);

/// For a member that the host-wide layer had no room for: its connections are not counted.
pub(crate) const NO_HOST_MEMBER: u32 = u32::MAX;

impl SlotRecord {
    /// A member that just came.
    pub(crate) fn occupied(
        cookie: Cookie,
        epoch: u32,
        host_member: u32,
        generation: u32,
        weight: Weight,
    ) -> Self {
        Self {
            cookie: cookie.get(),
            epoch,
            host_member,
            generation,
            weight: weight.get(),
            state: state_code(State::Active),
            reserved_0: 0,
            cpu: 0,
            reserved_1: [0; 3],
            reserved_2: [0; 4],
        }
    }

    /// A free slot that remembers its epoch.
    pub(crate) fn free(epoch: u32) -> Self {
        Self {
            cookie: 0,
            epoch,
            host_member: NO_HOST_MEMBER,
            generation: 0,
            weight: 0,
            state: 0,
            reserved_0: 0,
            cpu: 0,
            reserved_1: [0; 3],
            reserved_2: [0; 4],
        }
    }

    /// The member in it; `None` if it is free.
    pub(crate) fn cookie(&self) -> Option<Cookie> {
        Cookie::new(self.cookie)
    }

    /// The CPU that is the member's own, if one is.
    pub(crate) fn cpu(&self) -> Option<u16> {
        self.cpu.checked_sub(1)
    }

    pub(crate) fn set_cpu(&mut self, cpu: u16) {
        self.cpu = cpu.saturating_add(1);
    }

    pub(crate) fn weight(&self) -> Weight {
        Weight::new(self.weight).unwrap_or(Weight::MAX)
    }

    pub(crate) fn set_weight(&mut self, weight: Weight) {
        self.weight = weight.get();
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.state = state_code(state);
    }

    /// The member's state; a number that this version does not know gets no traffic from it.
    pub(crate) fn state(&self) -> State {
        match self.state {
            1 => State::Active,
            3 => State::Draining,
            _ => State::Standby,
        }
    }
}

fn state_code(state: State) -> u8 {
    match state {
        State::Active => 1,
        State::Standby => 2,
        State::Draining => 3,
    }
}

/// On a socket: the member that it is, or that it was accepted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Mark {
    pub(crate) member: u32,
    pub(crate) epoch: u32,
    /// Set by the kernel program on connections that it counts.
    pub(crate) counted: u32,
    pub(crate) reserved: u32,
}

/// A member in the host-wide layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct HostMember {
    /// Rises when the index is given to another member, and when it is taken back.
    pub(crate) epoch: u32,
    /// 1: it belongs to a member.
    pub(crate) used: u32,
    /// Connections ever opened, modulo 2^32.
    pub(crate) opened: u32,
    /// Connections ever closed, modulo 2^32.
    pub(crate) closed: u32,
}

impl HostMember {
    /// Where `closed` begins.
    pub(crate) const CLOSED: usize = 12;

    /// Connections open at this moment.
    pub(crate) fn open(&self) -> u64 {
        u64::try_from(self.balance()).unwrap_or(0)
    }

    /// As many, or less than 0 if more were closed than opened, which nobody should see.
    pub(crate) fn balance(&self) -> i32 {
        self.opened.wrapping_sub(self.closed).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str, device: Option<Device>) -> GroupKey {
        GroupKey {
            netns: Netns { cookie: 7, inode: 4_026_531_840 },
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            v6only: true,
            device,
            uid: 33,
        }
    }

    #[test]
    fn a_header_gives_back_the_group_that_it_was_made_for() {
        let eth0 = Device { index: 2, name: Some("eth0".to_owned()) };
        let nameless = Device { index: 3, name: None };
        for device in [None, Some(eth0), Some(nameless)] {
            for address in ["127.0.0.1:8080", "[2001:db8::1]:53", "[::]:1"] {
                let key = key(address, device.clone());
                let decider =
                    Decider::Policy { policy: Policy::RoundRobin, stickiness: Stickiness::None };
                let header = Header::new(&key, decider, 256, 42);
                assert_eq!(header.key(), Some(key));
                assert_eq!(header.decider(), Some(decider));
            }
        }
    }

    #[test]
    fn a_change_of_policy_says_who_decides_at_every_moment() {
        let decided_by = |policy| Decider::Policy { policy, stickiness: Stickiness::None };
        let mut header =
            Header::new(&key("127.0.0.1:80", None), decided_by(Policy::RoundRobin), 64, 1);
        header.program_id = 10;
        header.announce(11, Policy::Random, Stickiness::None, false);
        assert_eq!(header.decider_of(10), Some(decided_by(Policy::RoundRobin)));
        assert_eq!(header.decider_of(11), Some(decided_by(Policy::Random)));
        let (mut taken, mut not) = (header, header);
        taken.settle(true);
        not.settle(false);
        assert_eq!((taken.program_id, taken.announced()), (11, None));
        assert_eq!((taken.reads_queues(), not.reads_queues()), (false, true));
        assert_eq!(taken.decider(), Some(decided_by(Policy::Random)));
        assert_eq!((not.program_id, not.announced()), (10, None));
        assert_eq!(not.decider(), Some(decided_by(Policy::RoundRobin)));
    }

    #[test]
    fn bytes_of_another_making_name_nothing() {
        let header = Header::read_from_bytes(&[0xa5; 256]).unwrap();
        assert_eq!(header.key(), None);
        assert_eq!(header.decider(), None);
    }

    #[test]
    fn a_free_slot_has_no_member_and_an_unknown_state_gets_nothing() {
        assert_eq!(SlotRecord::free(3).cookie(), None);
        let mut record = SlotRecord::occupied(Cookie::new(9).unwrap(), 1, 2, 3, Weight::DEFAULT);
        assert_eq!(record.state(), State::Active);
        record.state = 99;
        assert_eq!(record.state(), State::Standby);
    }
}
