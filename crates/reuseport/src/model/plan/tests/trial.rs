//! Trials, and what is refused for them.

use super::*;
use crate::model::id::Percent;
use crate::model::lineage::Standing;

#[test]
fn no_policy_by_cpu_decides_during_a_trial() {
    let mut world = attached();
    let trial = Percent::new(10);
    world.pinned = world.pinned.map(|p| Pinned { roster: p.roster.with_trial(trial), ..p });
    let by_cpu: Program<ObjectSpec> = Policy::Cpu.into();
    let refusal = world.planned(|o, r| set_policy(o, r, Policy::Cpu)).unwrap_err();
    assert!(matches!(refusal, Refusal::OnTrial));
    let refusal = world.planned(|o, r| attach(o, r, request(Some(&by_cpu)))).unwrap_err();
    assert!(matches!(refusal, Refusal::OnTrial));
    assert!(world.planned(|o, r| set_policy(o, r, Policy::Hash)).is_ok());
}

#[test]
fn there_is_no_trial_of_members_that_do_not_accept_yet() {
    let mut world = attached();
    let pinned = world.pinned.as_mut().unwrap();
    let (slot, _, record) = pinned.roster.occupied().last().unwrap();
    pinned.roster.set(slot, Record { generation: 2, standing: Standing::Held, ..record });
    let share = Percent::new(10).unwrap();
    let refusal = world.planned(|o, r| try_out(o, r, None, share, 0)).unwrap_err();
    assert!(matches!(refusal, Refusal::NoneAccepts));
}
