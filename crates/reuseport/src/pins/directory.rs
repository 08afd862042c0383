//! The names of groups' directories.

use std::net::IpAddr;

use crate::model::group::GroupKey;

/// The name of a group's directory: its whole key, without dots, which bpffs refuses.
pub(crate) fn directory_name(key: &GroupKey) -> String {
    let address = match key.address.ip() {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    };
    let v6only = if key.v6only { "-v6only" } else { "" };
    let device = key.device.as_ref().map_or(0, |device| device.index);
    let (protocol, port) = (key.protocol, key.address.port());
    format!(
        "{protocol}-{address}-{port}-net{}-dev{device}-uid{}{v6only}",
        key.netns.cookie, key.uid
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::group::{Device, Protocol, examples};
    use crate::model::id::Netns;

    #[test]
    fn groups_that_differ_in_any_part_have_different_directories_without_dots() {
        let key = examples::key(Protocol::Tcp, "127.0.0.1:80");
        let keys = [
            key.clone(),
            GroupKey { netns: Netns { cookie: 3, inode: 2 }, ..key.clone() },
            GroupKey { protocol: Protocol::Udp, ..key.clone() },
            GroupKey { address: "127.0.0.1:81".parse().unwrap(), ..key.clone() },
            GroupKey { address: "[::1]:80".parse().unwrap(), ..key.clone() },
            GroupKey { v6only: true, ..key.clone() },
            GroupKey { device: Some(Device { index: 1, name: None }), ..key.clone() },
            GroupKey { uid: 33, ..key },
        ];
        let names: HashSet<String> = keys.iter().map(directory_name).collect();
        assert_eq!(names.len(), keys.len());
        assert!(names.iter().all(|name| !name.contains('.') && name.len() < 128));
    }
}
