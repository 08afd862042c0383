//! A takeover of another owner's program that was interrupted.

use super::*;

#[test]
fn an_interrupted_takeover_goes_on_with_what_is_asked() {
    let mut world = attached();
    world.happens(&Happens::Detached);
    world.pinned.iter_mut().for_each(|pinned| pinned.has_replaced = true);
    let plan = world.planned(|o, r| attach(o, r, request(None))).unwrap();
    assert_eq!(plan, AttachPlan::Resume { goes_on: true });
    let hash: Program<ObjectSpec> = Policy::Hash.into();
    let plan = world.planned(|o, r| attach(o, r, request(Some(&hash)))).unwrap();
    let AttachPlan::Build(build) = plan else { panic!("{plan:?}") };
    assert_eq!(build.in_place_of, InPlaceOf::Takeover);
    // The same by another owner's program, which decides again.
    world.happens(&Happens::OtherAttaches);
    let force = AttachRequest { force: true, ..request(None) };
    let plan = world.planned(|o, r| attach(o, r, force)).unwrap();
    assert_eq!(plan, AttachPlan::Resume { goes_on: false });
}
