// The part of the program with the maps in which a program looks something up. It is in the same module as
// program.rs.

use lib::maps::lpm_trie::{Key, LpmTrie};
use lib::maps::{PerCpuHashMap, ProgramArray};

/// Networks by prefix, counters per CPU, and programs that call each other.
pub(crate) fn lookups() -> (Vec<usize>, Vec<String>) {
    let members: Vec<UdpSocket> = UdpGroup::new(2).members;
    let server = members[0].local_addr().unwrap();
    let mut bpf = Ebpf::load(object!("lookups")).unwrap();
    let mut sockets: ReusePortSockArray<_> = bpf.take_map("sockets").unwrap().try_into().unwrap();
    let mut networks: LpmTrie<MapData, [u8; 4], u32> =
        bpf.take_map("networks").unwrap().try_into().unwrap();
    let mut datagrams: PerCpuHashMap<MapData, u32, u32> =
        bpf.take_map("datagrams").unwrap().try_into().unwrap();
    let recent: PerCpuHashMap<_, u32, u64> = bpf.take_map("recent").unwrap().try_into().unwrap();
    let mut choices = ProgramArray::try_from(bpf.take_map("choices").unwrap()).unwrap();
    for (index, name) in ["first", "second"].into_iter().enumerate() {
        sockets.set(index as u32, &members[index], 0).unwrap();
        let choice = program(&mut bpf, name);
        choice.load().unwrap();
        choices.set(index as u32, choice.fd().unwrap(), 0).unwrap();
    }
    let classify = program(&mut bpf, "classify");
    classify.load().unwrap();
    classify.attach(&members[0]).unwrap();

    let all = Key::new(8, [127, 0, 0, 0]);
    networks.insert(&all, 0, 0).unwrap();
    networks.insert(&Key::new(16, [127, 1, 0, 0]), 1u32, 0).unwrap();
    let send = |from: &str| {
        let client = UdpSocket::bind((from, 0)).unwrap();
        client.send_to(b"x", server).unwrap();
        let member = crate::fixtures::ready(&members, test_support::wait::BOUND).unwrap();
        members[member].recv(&mut [0; 8]).unwrap();
        member
    };
    let mut got: Vec<usize> = ["127.0.0.9", "127.1.0.9", "127.1.2.3", "127.2.1.1"].map(send).into();
    let sum = |values: &PerCpuValues<u32>| values.iter().sum::<u32>();
    let mut said = vec![
        format!("{}", sum(&datagrams.get(&0, 0).unwrap())),
        format!("{}", sum(&datagrams.get(&1, 0).unwrap())),
        format!("{}", datagrams.iter().map(|pair| sum(&pair.unwrap().1)).sum::<u32>()),
        format!("{} {}", datagrams.keys().count(), recent.keys().count()),
    ];
    let start: PerCpuValues<u32> = vec![10u32; nr_cpus().unwrap()].try_into().unwrap();
    datagrams.insert(1, start, 0).unwrap();
    networks.remove(&Key::new(16, [127, 1, 0, 0])).unwrap();
    got.push(send("127.1.0.9"));
    choices.set(0, program(&mut bpf, "second").fd().unwrap(), 0).unwrap();
    got.push(send("127.1.0.9"));
    let grown = sum(&datagrams.get(&1, 0).unwrap()) as usize - 10 * nr_cpus().unwrap();
    said.push(format!("{grown} {}", sum(&datagrams.get(&0, 0).unwrap())));
    for pair in &networks {
        let (key, value) = pair.unwrap();
        said.push(format!("{} {:?} {value}", key.prefix_len(), key.data()));
    }
    said.extend([
        map_error(networks.remove(&Key::new(16, [127, 1, 0, 0]))),
        map_error(networks.insert(&Key::new(33, [127, 1, 0, 0]), 1, 0)),
        format!("{}", matches!(networks.get(&Key::new(32, [1; 4]), 0), Err(MapError::KeyNotFound))),
        map_error(datagrams.remove(&1)),
        map_error(datagrams.remove(&1)),
        map_error(choices.clear_index(&1)),
        map_error(choices.clear_index(&4)),
    ]);
    let other = Ebpf::load(object!("lookups")).unwrap();
    let wrong: Result<LpmTrie<_, u64, u32>, MapError> = other.map("networks").unwrap().try_into();
    said.push(format!("{}", matches!(wrong, Err(MapError::InvalidKeySize { .. }))));
    let wrong: Result<PerCpuHashMap<_, u32, u32>, MapError> =
        other.map("recent").unwrap().try_into();
    said.push(format!("{}", matches!(wrong, Err(MapError::InvalidValueSize { .. }))));
    (got, said)
}
