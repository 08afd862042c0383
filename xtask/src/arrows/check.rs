//! What is wrong with a crate's arrows: modules without a floor, imports that point up, circles.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Arrow, Tree};

/// The top-level modules of a crate, top to bottom.
pub(super) type Floors = Vec<Vec<String>>;

/// One line for each problem, and one below it for each import it consists of.
pub(super) fn problems(tree: &Tree, floors: &[Vec<String>]) -> Vec<String> {
    let mut problems = unlisted(tree, floors);
    let floor = |name: &str| floors.iter().position(|f| f.iter().any(|listed| listed == name));
    // The crate's root stands above all floors.
    let mut floor_of = BTreeMap::from([(0, 0)]);
    for (name, &module) in &tree.0[0].children {
        floor_of.extend(floor(name).map(|floor| (module, floor + 1)));
    }
    let arrows = tree.arrows();
    for folder in (0..tree.0.len()).filter(|&module| tree.0[module].home == module) {
        let inside = arrows.iter().filter_map(|arrow| {
            let ends = (place(tree, folder, arrow.from)?, place(tree, folder, arrow.to)?);
            (ends.0 != ends.1).then_some((ends, arrow))
        });
        let mut inside: Vec<_> = inside.collect();
        if folder == 0 {
            let points_up = |&((from, to), _): &((usize, usize), &Arrow)| {
                floor_of.get(&from).zip(floor_of.get(&to)).is_some_and(|(from, to)| from > to)
            };
            let up: Vec<_> = inside.iter().filter(|arrow| points_up(arrow)).map(|a| a.1).collect();
            if !up.is_empty() {
                problems.push("imports that point up:".to_owned());
                problems.extend(listed(tree, &up));
            }
            inside.retain(|arrow| !points_up(arrow));
        }
        let edges = inside.iter().map(|(ends, _)| *ends).collect();
        for circle in circles(&edges) {
            let names = circle.iter().map(|&module| short(tree, folder, module));
            problems.push(format!("a circle of {}:", names.collect::<Vec<_>>().join(", ")));
            let part = |((from, to), _): &&((usize, usize), &Arrow)| {
                circle.contains(from) && circle.contains(to)
            };
            problems
                .extend(listed(tree, &inside.iter().filter(part).map(|a| a.1).collect::<Vec<_>>()));
        }
    }
    problems
}

/// Modules that are on no floor, and names on a floor that no module has.
fn unlisted(tree: &Tree, floors: &[Vec<String>]) -> Vec<String> {
    let modules = &tree.0[0].children;
    let listed: BTreeSet<_> = floors.iter().flatten().collect();
    let without = modules.keys().filter(|name| !listed.contains(name));
    let without = without.map(|name| format!("{name}: on no floor"));
    let gone = listed.iter().filter(|name| !modules.contains_key(**name));
    without
        .chain(gone.map(|name| format!("{name}: on a floor, but there is no such module")))
        .collect()
}

/// Which child of `folder` has the module in it; `folder` itself for its own file.
fn place(tree: &Tree, folder: usize, mut module: usize) -> Option<usize> {
    if module == folder {
        return Some(folder);
    }
    while module != 0 {
        let parent = tree.0[tree.0[module].parent].home;
        if parent == folder {
            return Some(module);
        }
        module = parent;
    }
    None
}

/// The name of a module as seen from its folder.
fn short(tree: &Tree, folder: usize, module: usize) -> String {
    let name = tree.0[folder].children.iter().find(|(_, child)| **child == module);
    name.map_or_else(|| tree.0[module].file.display().to_string(), |(name, _)| name.clone())
}

/// `pins/group.rs → kernel/maps.rs: PolicyMaps`, a line for each pair of files.
fn listed(tree: &Tree, arrows: &[&Arrow]) -> Vec<String> {
    let mut pairs = BTreeMap::<_, Vec<_>>::new();
    for arrow in arrows {
        pairs.entry((arrow.from, arrow.to)).or_default().push(arrow.name.as_str());
    }
    let file = |module: usize| tree.0[module].file.display();
    let line = |((from, to), names): (&(usize, usize), &Vec<&str>)| {
        format!("    {} → {}: {}", file(*from), file(*to), names.join(", "))
    };
    pairs.iter().map(line).collect()
}

/// Sets of nodes each of which leads to all others of its set.
fn circles(edges: &BTreeSet<(usize, usize)>) -> Vec<BTreeSet<usize>> {
    let reached = |start: usize| {
        let mut reached = BTreeSet::new();
        let mut next = vec![start];
        while let Some(node) = next.pop() {
            let targets = edges.iter().filter(|edge| edge.0 == node).map(|edge| edge.1);
            next.extend(targets.filter(|target| reached.insert(*target)));
        }
        reached
    };
    let reach: BTreeMap<_, _> = edges.iter().map(|edge| (edge.0, reached(edge.0))).collect();
    let mutual = |a: usize, b: usize| {
        reach[&a].contains(&b) && reach.get(&b).is_some_and(|back| back.contains(&a))
    };
    let sets = reach.keys().map(|&a| reach[&a].iter().copied().filter(|&b| mutual(a, b)).collect());
    sets.filter(|set: &BTreeSet<usize>| !set.is_empty())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
