//! The modules of one crate: their files, the names they define and import, and where a path leads.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// How many imports one path may lead through; two globs that import each other would never end.
const FUEL: usize = 8;

/// One module, of a file or inline.
#[derive(Default)]
pub(super) struct Module {
    /// Relative to the directory of the crate's root file.
    pub(super) file: PathBuf,
    /// The module that has the file: itself, unless it is inline.
    pub(super) home: usize,
    pub(super) parent: usize,
    pub(super) children: BTreeMap<String, usize>,
    /// Definitions (`None`) and imports (the path they name).
    pub(super) names: BTreeMap<String, Option<Path>>,
    /// What `use x::*` names.
    pub(super) globs: Vec<Path>,
    /// Every path that the code mentions, imports included.
    pub(super) used: Vec<Path>,
    /// Paths that are re-exported.
    pub(super) exported: Vec<Path>,
}

/// `["crate", "wire", "Slot"]`.
pub(super) type Path = Vec<String>;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Found {
    Module(usize),
    /// A definition in this module.
    Item(usize),
    /// Something of another crate, a local variable, or a type parameter.
    Elsewhere,
}

/// An import or a path in the code that leads from one file to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrow {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) name: String,
}

/// A crate; the first module is its root.
pub(super) struct Tree(pub(super) Vec<Module>);

impl Tree {
    /// All arrows between files, sorted. A file that re-exports what lies in its own folder does not
    /// use it.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for (at, module) in self.0.iter().enumerate() {
            let from = module.home;
            let mut add = |path: &Path, exported: bool| {
                let (Found::Item(to), name) = self.resolve(at, path, FUEL) else { return };
                let to = self.0[to].home;
                if from != to && !(exported && self.is_within(to, from)) {
                    arrows.push(Arrow { from, to, name: name.to_owned() });
                }
            };
            module.used.iter().for_each(|path| add(path, false));
            module.exported.iter().for_each(|path| add(path, true));
        }
        arrows.sort();
        arrows.dedup();
        arrows
    }

    /// Whether `module` is `folder` or below it.
    pub(super) fn is_within(&self, module: usize, folder: usize) -> bool {
        module == folder || module != 0 && self.is_within(self.0[module].parent, folder)
    }

    /// What the path names where module `from` mentions it, and the segment that decided it.
    fn resolve<'p>(&self, from: usize, path: &'p Path, fuel: usize) -> (Found, &'p str) {
        let mut at = Found::Module(from);
        let mut decided = "";
        for (index, segment) in path.iter().enumerate() {
            let Found::Module(module) = at else { break };
            decided = segment;
            at = match segment.as_str() {
                "crate" => Found::Module(0),
                "self" => at,
                "super" => Found::Module(self.0[module].parent),
                name => match self.lookup(module, name, fuel) {
                    Some(found) => found,
                    None if index == 0 => Found::Elsewhere,
                    // A macro defines it.
                    None => Found::Item(module),
                },
            };
        }
        (at, decided)
    }

    fn lookup(&self, at: usize, name: &str, fuel: usize) -> Option<Found> {
        let fuel = fuel.checked_sub(1)?;
        let module = &self.0[at];
        if let Some(&child) = module.children.get(name) {
            return Some(Found::Module(child));
        }
        match module.names.get(name) {
            Some(None) => Some(Found::Item(at)),
            Some(Some(path)) => Some(self.resolve(at, path, fuel).0),
            None => module.globs.iter().find_map(|glob| match self.resolve(at, glob, fuel).0 {
                Found::Module(other) => self.lookup(other, name, fuel),
                Found::Item(_) | Found::Elsewhere => None,
            }),
        }
    }
}
