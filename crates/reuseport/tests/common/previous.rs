//! A group's pinned state in the layout of the previous schema, as an earlier version pinned it.

use std::fs;
use std::path::{Path, PathBuf};

use reuseport::group::GroupKey;
use sk_reuseport::maps::{Array, Map, MapData};

use super::world::{ROOT, program_in};

/// The only directory of a group on this port.
pub(crate) fn directory_of(key: &GroupKey) -> PathBuf {
    let port = format!("-{}-net{}-", key.address.port(), key.netns.cookie);
    let groups = fs::read_dir(Path::new(ROOT).join("groups")).unwrap();
    let mut found = groups.map(|entry| entry.unwrap().path());
    found.find(|path| path.to_str().unwrap().contains(&port)).unwrap()
}

/// Whether a group's state has the layout of the previous schema.
pub(crate) fn is_downgraded(key: &GroupKey) -> bool {
    directory_of(key).join("slots").exists()
}

/// A pinned map with one `u32` key and values of this type.
fn open<T: sk_reuseport::Pod>(pin: &Path) -> Array<MapData, T> {
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap().try_into().unwrap()
}

/// The number of the policy of a group whose state has the present layout.
pub(crate) fn policy_code(key: &GroupKey) -> u32 {
    let setup: [u32; 16] = open(&program_in(&directory_of(key)).join("setup")).get(&0, 0).unwrap();
    setup[1]
}

/// Notes that the program was loaded by a version which knew no members on standby.
pub(crate) fn forget_standby(key: &GroupKey) {
    let mut setup: Array<_, [u32; 16]> = open(&program_in(&directory_of(key)).join("setup"));
    let mut words = setup.get(&0, 0).unwrap();
    words[7] = 0;
    setup.set(0, words, 0).unwrap();
}

/// Notes another policy, without parameters, in the header of a downgraded state, and perhaps no layer.
pub(crate) fn note_policy(key: &GroupKey, code: u32, layer: bool) {
    let mut header: Array<_, [u32; 64]> = open(&directory_of(key).join("header"));
    let mut words = header.get(&0, 0).unwrap();
    words[20] = code;
    words[30..32].fill(0);
    if !layer {
        words[36] = 0;
    }
    header.set(0, words, 0).unwrap();
}

/// Gives a group's state the layout of schema 1: a map `slots` with a record for each slot, the
/// program and its tables next to it, and what it decides by in the header.
pub(crate) fn downgrade(key: &GroupKey) {
    let directory = &directory_of(key);
    let instance = program_in(directory);
    let slots = MapData::from_pin(directory.join("sockets")).unwrap().max_entries();
    let table: Array<_, u64> = open(&instance.join("table"));
    let first = table.len() - slots * 8;
    let mut records: Array<_, [u64; 8]> = Array::create_named("slots", slots, 1 << 10).unwrap();
    for slot in 0..slots {
        let word = |word: u32| table.get(&(first + slot * 8 + word), 0).unwrap();
        records.set(slot, [0, 1, 2, 3, 4, 5, 6, 7].map(word), 0).unwrap();
    }
    records.map_data().pin(directory.join("slots")).unwrap();

    let setup: [u32; 16] = open(&instance.join("setup")).get(&0, 0).unwrap();
    let [kind, policy, parameters, more_parameters, sticky, without_queues, host_layer, ..] = setup;
    let mut header: Array<_, [u32; 64]> = open(&directory.join("header"));
    let mut words = header.get(&0, 0).unwrap();
    words[2] = 1;
    words[19..22].copy_from_slice(&[kind, policy, sticky]);
    words[30..32].copy_from_slice(&[parameters, more_parameters]);
    words[34] = without_queues;
    words[36] = host_layer;
    header.set(0, words, 0).unwrap();

    fs::rename(instance.join("select"), directory.join("select")).unwrap();
    if kind == 1 {
        fs::rename(instance.join("tables"), directory.join("tables")).unwrap();
    }
    fs::remove_dir_all(instance).unwrap();
}
