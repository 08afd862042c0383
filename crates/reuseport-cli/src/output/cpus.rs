//! What there is to say about the CPUs of a group's members, with policy `cpu`.

use reuseport::group::listed;

use super::by_number;
use super::view::{GroupView, MemberView};

/// The most members that a note names.
const NAMED: usize = 4;

/// The notes on a group, which `argument` finds: members that are served on another CPU than the one whose packets
/// they get, members of which it is not known, CPUs that no member has.
pub(crate) fn notes(group: &GroupView, argument: &str) -> Vec<String> {
    let mut notes = Vec::new();
    let placed: Vec<(u16, u16, &MemberView)> =
        group.members.iter().filter_map(|m| Some((m.slot?, m.cpu?, m))).collect();
    let wrong = placed.iter().filter_map(|(slot, cpu, member)| {
        let served = member.owner_cpu.filter(|served| served != cpu)?;
        Some(format!("slot {slot} (CPU {cpu}, served on CPU {served})"))
    });
    let wrong: Vec<String> = wrong.collect();
    if !wrong.is_empty() {
        let right: Vec<String> =
            placed.iter().map(|(_, cpu, m)| m.owner_cpu.unwrap_or(*cpu).to_string()).collect();
        notes.push(format!(
            "{} served on another CPU than the one whose packets {}: {}; \
             `reuseport policy {argument} cpu --cpus {}` changes that",
            by_number(wrong.len(), "a member is", "members are"),
            by_number(wrong.len(), "it gets", "they get"),
            listed(wrong, NAMED),
            right.join(","),
        ));
    }
    for (slot, cpu, member) in &placed {
        if let Some(why) = member.owner_cpu_unknown.as_ref().filter(|_| member.cpu_guessed) {
            notes
                .push(format!("slot {slot}: CPU unknown: {why}; it gets the packets of CPU {cpu}"));
        }
    }
    match group.cpus_without_member.as_slice() {
        [] => {}
        cpus => notes.push(format!(
            "no member has {} {}; what arrives there is dealt by hash among the nearest members",
            by_number(cpus.len(), "CPU", "CPUs"),
            ranges(cpus),
        )),
    }
    notes
}

/// Ascending numbers as `0,2-4`.
fn ranges(numbers: &[u16]) -> String {
    let follows = |a: &u16, b: &u16| a.checked_add(1) == Some(*b);
    let range = |run: &[u16]| match run {
        [first, .., last] => format!("{first}-{last}"),
        run => run.iter().map(u16::to_string).collect(),
    };
    numbers.chunk_by(follows).map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ranges() {
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[0, 2, 3, 4, 7, 8]), "0,2-4,7-8");
    }
}
