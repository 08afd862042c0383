//! Notes on the CPUs of members.

use super::*;

#[test]
fn show_members_that_are_served_on_other_cpus() {
    let mut group = GroupView { policy: Some("cpu"), unsteered: 0, ..ours() };
    group.members.truncate(3);
    for (member, cpu) in group.members.iter_mut().zip([0, 1, 2]) {
        (member.cpu, member.owner_cpu) = (Some(cpu), Some(cpu ^ 1));
    }
    let unknown = &mut group.members[2];
    (unknown.owner_cpu, unknown.cpu_guessed) = (None, true);
    unknown.owner_cpu_unknown = Some("2 threads with different CPUs".to_owned());
    group.cpus_without_member = vec![3, 4, 5, 7];
    let text = plain(&show(&group, &reader(300)));
    let notes: Vec<&str> = text.lines().rev().take(3).collect();
    assert_eq!(
        notes,
        [
            "no member has CPUs 3-5,7; what arrives there is dealt by hash among the nearest members",
            "slot 2: CPU unknown: 2 threads with different CPUs; it gets the packets of CPU 2",
            "members are served on another CPU than the one whose packets they get: slot 0 (CPU 0, \
             served on CPU 1), slot 1 (CPU 1, served on CPU 0); \
             `reuseport policy tcp:127.0.0.1:8080 cpu --cpus 1,0,2` changes that",
        ]
    );
    group.members[2].cpu_guessed = false;
    assert!(!plain(&show(&group, &reader(300))).contains("unknown"), "the user gave it");
}
