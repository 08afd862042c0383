//! The verifier accepts every object with every policy for both protocols, with the least rights that
//! the object needs.

use rustix::thread::CapabilitySet;
use sk_reuseport::maps::{Array, ArrayOfMaps, MapData};
use sk_reuseport::programs::Program;
use sk_reuseport::{BtfKind, EbpfLoader, KernelBtf};
use test_support::btf::Btf;
use test_support::feature::{self, require};

use crate::common::rights::capable_of;

const SELECT: &[u8] = include_bytes!("../../bpf/select.bpf.o");
const SELECT_LOAD: &[u8] = include_bytes!("../../bpf/select_load.bpf.o");
const SELECT_DIRECT: &[u8] = include_bytes!("../../bpf/select_direct.bpf.o");

/// `RDONLY_CAST` of bpf/wire/config.h.
const RDONLY_CAST: u32 = 0x7265_6164;
/// TCP and UDP, and the structures that their sockets begin.
const PROTOCOLS: [(u32, &str); 2] = [(6, "inet_connection_sock"), (17, "udp_sock")];

/// Loads the object for each policy and protocol. Without `cast`, it does not call bpf_rdonly_cast.
fn load_all(object: &[u8], cast: Option<(&KernelBtf, u32)>) {
    for (protocol, socket) in PROTOCOLS {
        for (policy, number) in Btf::of(object).enumeration("policy").unwrap() {
            let number = u32::try_from(number).unwrap();
            let pattern: Array<MapData, u64> =
                Array::create_named("table", 64, Array::<MapData, u64>::MMAPABLE).unwrap();
            let tables = ArrayOfMaps::create("tables", 1, pattern.map_data()).unwrap();
            let mut loader = EbpfLoader::new();
            loader
                .override_global("POLICY", &number, true)
                .override_global("PROTOCOL", &protocol, true)
                .map("tables", tables.map_data());
            let types = cast.map(|(btf, cast)| {
                loader.kernel_btf(btf).kernel_function(RDONLY_CAST, cast);
                let names = [socket, "sk_reuseport_kern", "skb_shared_info"];
                btf.ids(names.map(|name| (name, BtfKind::Struct))).unwrap()
            });
            if let Some([socket, context, shared_info]) = &types {
                loader
                    .override_global("SOCKET_TYPE", socket, true)
                    .override_global("CONTEXT_TYPE", context, true)
                    .override_global("SHARED_INFO_TYPE", shared_info, true);
            }
            let mut ebpf = loader.load(object).unwrap();
            let Some(Program::SkReuseport(mut program)) = ebpf.take_program("reuseport") else {
                panic!("no program");
            };
            program.load().unwrap_or_else(|error| panic!("{policy}, {protocol}: {error:?}"));
        }
    }
}

#[test]
fn the_verifier_accepts_every_policy_with_cap_bpf_alone() {
    capable_of(CapabilitySet::BPF, || load_all(SELECT, None));
}

#[test]
fn the_verifier_accepts_every_policy_that_reads_queues() {
    capable_of(CapabilitySet::BPF | CapabilitySet::PERFMON, || load_all(SELECT_LOAD, None));
}

#[test]
fn the_verifier_accepts_every_policy_that_reads_queues_directly() {
    if !require(&feature::RDONLY_CAST) {
        return;
    }
    let btf = KernelBtf::from_sys_fs().unwrap();
    let [cast] = btf.ids([("bpf_rdonly_cast", BtfKind::Func)]).unwrap();
    capable_of(CapabilitySet::BPF | CapabilitySet::PERFMON, || {
        load_all(SELECT_DIRECT, Some((&btf, cast)))
    });
}
