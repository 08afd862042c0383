//! How the groups of a listing are written so that each name finds its group again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::GroupSpec;
use crate::model::group::{Group, Protocol};
use crate::model::written::Written;

/// The parts that may be written, in the order in which they are tried.
const CHOICES: [(bool, bool, bool); 8] = [
    (false, false, false),
    (true, false, false),
    (false, true, false),
    (true, true, false),
    (false, false, true),
    (true, false, true),
    (false, true, true),
    (true, true, true),
];

/// Among more groups on one address than these, a namespace is written as soon as there are several: comparing each
/// with each would take long.
const FEW: usize = 64;

/// Writes each group's name with as few parts as [`choose`](GroupSpec::choose) needs to find it again, for a reader
/// in the network namespace with this cookie. Groups that no part but a member tells apart have their `of` already.
pub(crate) fn tell_names_apart(groups: &mut [Group], own_netns: Option<u64>) {
    let mut by_address: HashMap<(Protocol, IpAddr, u16), Vec<usize>> = HashMap::new();
    for (at, Group { key, .. }) in groups.iter().enumerate() {
        let place = (key.protocol, key.address.ip().to_canonical(), key.address.port());
        by_address.entry(place).or_default().push(at);
    }
    for several in by_address.into_values().filter(|several| several.len() > 1) {
        let named: Vec<(usize, Written)> = if several.len() <= FEW {
            let all: Vec<&Group> = several.iter().map(|at| &groups[*at]).collect();
            several.iter().map(|at| (*at, written(&groups[*at], &all, own_netns, 0))).collect()
        } else {
            let near = |at: usize| {
                let netns = groups[at].key.netns;
                let there = several.iter().map(|at| &groups[*at]);
                let there: Vec<&Group> = there.filter(|group| group.key.netns == netns).collect();
                let begin = if Some(netns.cookie) == own_netns { 0 } else { CHOICES.len() / 2 };
                (at, written(&groups[at], &there, own_netns, begin))
            };
            several.iter().map(|at| near(*at)).collect()
        };
        for (at, written) in named {
            groups[at].key.written = written;
        }
    }
}

/// The first of the choices from this one on that leaves only groups with the name of this one, among `all` on its
/// address.
fn written(group: &Group, all: &[&Group], own_netns: Option<u64>, begin: usize) -> Written {
    let netns_name = group.key.written.netns_name.clone();
    let choice = |(v6only, uid, netns): (bool, bool, bool)| Written {
        v6only: v6only && group.key.v6only,
        uid,
        netns,
        netns_name: netns_name.as_ref().map(Arc::clone),
    };
    let finds = |written: &Written| {
        let left = GroupSpec::of_key(&group.key, written).left(all, own_netns);
        left.iter().all(|other| other.key.has_name_of(&group.key))
    };
    let mut choices = CHOICES[begin..].iter().map(|parts| choice(*parts));
    choices.find(finds).unwrap_or_else(|| choice((true, true, true)))
}
