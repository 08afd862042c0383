//! Fills entries by CPU: the CPU that receives a packet selects the member.

use crate::model::id::Slot;

/// The NUMA node of each possible CPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Topology {
    /// NUMA nodes by CPU number; at least one.
    pub(crate) nodes: Vec<u16>,
}

/// A member and its CPU.
pub(super) type Placed = (Slot, Option<u16>);

/// Entry `cpu + cpus * n` is the CPU's *n*th member; shorter lists repeat, up to the length of the longest.
/// A CPU without members takes turns among those of its node, or, in a node without members, among all.
///
/// At most `limit` entries: on a CPU with very many members, some then get nothing.
pub(super) fn fill(members: &[Placed], topology: &Topology, limit: usize) -> Vec<Slot> {
    let cpus = topology.nodes.len();
    if members.is_empty() || cpus == 0 {
        return Vec::new();
    }
    let on = |cpu: usize| {
        let own = members.iter().filter(move |(_, own)| own.map(usize::from) == Some(cpu));
        own.map(|(slot, _)| *slot).collect::<Vec<_>>()
    };
    let node = |cpu: u16| topology.nodes.get(usize::from(cpu));
    let near: Vec<Vec<Slot>> = topology
        .nodes
        .iter()
        .enumerate()
        .map(|(cpu, own_node)| {
            let own = on(cpu);
            if !own.is_empty() {
                return own;
            }
            let in_node = |(_, own): &&Placed| own.and_then(node) == Some(own_node);
            let mut others: Vec<Slot> = members.iter().filter(in_node).map(|m| m.0).collect();
            if others.is_empty() {
                others = members.iter().map(|(slot, _)| *slot).collect();
            }
            // Such CPUs start with different members.
            let start = cpu % others.len();
            others.rotate_left(start);
            others
        })
        .collect();
    // Enough rounds for the longest list.
    let rounds = near.iter().map(Vec::len).max().unwrap_or(1).min(limit / cpus);
    (0..rounds).flat_map(|round| near.iter().map(move |own| own[round % own.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(entries: &[Slot]) -> Vec<u16> {
        entries.iter().map(|slot| slot.get()).collect()
    }

    fn members(cpus: &[u16]) -> Vec<Placed> {
        (0..).zip(cpus).map(|(slot, cpu)| (Slot::new(slot), Some(*cpu))).collect()
    }

    #[test]
    fn each_cpu_has_its_member() {
        let topology = Topology { nodes: vec![0; 4] };
        assert_eq!(slots(&fill(&members(&[2, 0, 3, 1]), &topology, 100)), [1, 3, 0, 2]);
    }

    #[test]
    fn members_on_the_same_cpu_take_turns() {
        let topology = Topology { nodes: vec![0; 2] };
        assert_eq!(slots(&fill(&members(&[0, 1, 0]), &topology, 100)), [0, 1, 2, 1]);
    }

    #[test]
    fn a_cpu_without_members_takes_those_of_its_node() {
        let topology = Topology { nodes: vec![0, 0, 1, 1] };
        // Members on CPUs 0 and 2: CPU 1 goes to the first, CPU 3 to the second.
        assert_eq!(slots(&fill(&members(&[0, 2]), &topology, 100)), [0, 0, 1, 1]);
        // None in node 1: its CPUs take turns among all.
        let entries = fill(&members(&[0, 1]), &topology, 100);
        assert_eq!(slots(&entries), [0, 1, 0, 1, 0, 1, 1, 0]);
    }

    #[test]
    fn entries_do_not_exceed_the_limit() {
        let topology = Topology { nodes: vec![0; 512] };
        let entries = fill(&members(&[0; 500]), &topology, 65_521);
        assert_eq!(entries.len(), 512 * 127);
    }

    #[test]
    fn members_without_a_cpu_get_turns_on_empty_cpus() {
        let topology = Topology { nodes: vec![0; 2] };
        let entries = fill(&[(Slot::new(7), None), (Slot::new(8), None)], &topology, 100);
        assert_eq!(slots(&entries), [7, 8, 8, 7]);
        assert_eq!(fill(&[], &topology, 100), []);
    }
}
