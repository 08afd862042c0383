//! Do the policies cost more than in another build of the program, from a directory?
//!
//! Each policy's two programs take turns within a round; what counts is the ratio of each round. The
//! measure is the kernel's own count of the programs' running time, less the empty program's.

use std::path::Path;

use anyhow::{Context, Result};
use reuseport::Policy;
use reuseport::policy::Payload;

use super::programs::{SELECT, Steered, Variant};
use super::traffic::Traffic;
use crate::report::{Figure, Report, Table, number};
use crate::stats::{median, ratios, spread, turns};

/// Rounds after which all programs are loaded again: where in memory a program lies matters, too.
const LOADED_FOR: u32 = 20;

/// With groups of these sizes.
pub(super) fn compare(
    directory: &Path,
    sizes: &[u16],
    rounds: u32,
    report: &mut Report,
) -> Result<()> {
    let path = directory.join("select_direct.bpf.o");
    let other = std::fs::read(&path).with_context(|| path.display().to_string())?;
    // With a payload for the policy that needs to know which.
    let policies = || Policy::ALL.iter().copied().chain(Payload::new(0, 8).map(Policy::Payload));
    let both = |policy| [Variant::of(policy, &other), Variant::of(policy, SELECT)];
    for &members in sizes {
        let variants = [Variant::empty()].into_iter().chain(policies().flat_map(both));
        let mut variants: Vec<Variant<'_>> = variants.collect();
        for _ in 0..rounds.div_ceil(LOADED_FOR) {
            let mut group = Steered::new(Traffic::Scattered, members, variants)?;
            for round in 0..LOADED_FOR.min(rounds) as usize {
                let mut turns = turns(round, group.variants.len());
                turns.try_for_each(|variant| group.time_program(variant))?;
            }
            variants = group.variants;
        }
        let empty = median(&variants[0].program);
        let own = |variant: &Variant<'_>| variant.program.iter().map(|time| time - empty).collect();
        let mut table = Table::new(["policy", "other, ns", "this, ns", "ratio: p10", "p50", "p90"]);
        for pair in variants[1..].chunks(2) {
            let [other, this]: [Vec<f64>; 2] = [own(&pair[0]), own(&pair[1])];
            let policy = &pair[0].name;
            let name = [policy.clone(), number(median(&other)), number(median(&this))];
            let spread = spread(&ratios(&this, &other)).map(|ratio| format!("{ratio:.3}"));
            table.row(name.into_iter().chain(spread));
            let name = format!("UDP, {members} members, {policy}: this to other");
            report.raw(&name, [&pair[0].program, &pair[1].program])?;
            report.figure(Figure::ratio(name, &this, &other).at_most_beyond_spread(1.0));
        }
        report.table(format!("UDP, {members} members: the program's own time"), table);
    }
    Ok(())
}
