//! A crate's modules with their items, and where a path leads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::{Item, UseTree};

use super::item;
use crate::source;

/// A crate; the first module is its root.
pub(super) struct Crate(pub(super) Vec<Module>);

#[derive(Default)]
pub(super) struct Module {
    parent: usize,
    children: BTreeMap<String, usize>,
    /// Without those for tests and documentation.
    pub(super) items: Vec<Item>,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Module(usize),
    /// An item of this name in a module.
    Item(usize, String),
    /// An item of another crate, or one that a macro makes.
    Elsewhere,
}

/// How many imports one path may lead through; two globs that import each other would never end.
const FUEL: usize = 8;

impl Crate {
    /// Reads the crate with this root file.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let source = root.parent().unwrap_or(Path::new(""));
        let file = root.strip_prefix(source).context("a crate's root is a file")?;
        let mut read = Self(vec![Module::default()]);
        read.file(source, file, Path::new(""), 0)?;
        Ok(read)
    }

    fn file(&mut self, source: &Path, file: &Path, directory: &Path, at: usize) -> Result<()> {
        let path = source.join(file);
        let parsed = || anyhow::Ok(syn::parse_file(&fs::read_to_string(&path)?)?);
        let parsed = parsed().with_context(|| format!("cannot parse {}", path.display()))?;
        self.items(source, file, directory, at, parsed.items)
    }

    fn items(
        &mut self,
        source: &Path,
        file: &Path,
        directory: &Path,
        at: usize,
        items: Vec<Item>,
    ) -> Result<()> {
        for mut item in items {
            if item::is_for_tests(item::attributes(&item)) {
                continue;
            }
            if let Item::Mod(module) = &mut item {
                let (name, new) = (module.ident.to_string(), self.0.len());
                self.0.push(Module { parent: at, ..Module::default() });
                self.0[at].children.insert(name.clone(), new);
                let directory: PathBuf = directory.join(name);
                match module.content.take() {
                    Some((_, inside)) => self.items(source, file, &directory, new, inside)?,
                    None => {
                        let above = directory.parent().unwrap_or(Path::new(""));
                        let file = source::file_of(source, file, above, module);
                        self.file(source, &file, &directory, new)?;
                    }
                }
            }
            self.0[at].items.push(item);
        }
        Ok(())
    }

    /// What the path names where module `from` mentions it.
    pub(super) fn resolve(&self, from: usize, path: &[String]) -> Target {
        self.resolve_with(from, path, FUEL)
    }

    fn resolve_with(&self, from: usize, path: &[String], fuel: usize) -> Target {
        let mut at = Target::Module(from);
        for segment in path {
            let Target::Module(module) = at else { break };
            at = match segment.as_str() {
                "crate" => Target::Module(0),
                "self" => Target::Module(module),
                "super" => Target::Module(self.0[module].parent),
                name => self.lookup(module, name, fuel).unwrap_or(Target::Elsewhere),
            };
        }
        at
    }

    fn lookup(&self, at: usize, name: &str, fuel: usize) -> Option<Target> {
        let fuel = fuel.checked_sub(1)?;
        let module = &self.0[at];
        if let Some(child) = module.children.get(name) {
            return Some(Target::Module(*child));
        }
        if module.items.iter().any(|item| item::name(item).as_deref() == Some(name)) {
            return Some(Target::Item(at, name.to_owned()));
        }
        module.items.iter().flat_map(imports).find_map(|import| match import.name {
            Some(known) if known == name => Some(self.resolve_with(at, &import.path, fuel)),
            Some(_) => None,
            None => match self.resolve_with(at, &import.path, fuel) {
                Target::Module(other) => self.lookup(other, name, fuel),
                Target::Item(..) | Target::Elsewhere => None,
            },
        })
    }
}

/// One path of a `use`.
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// The name that it gets; `None` for a glob.
    pub(super) name: Option<String>,
}

/// The paths of a `use`; none for another item.
pub(super) fn imports(item: &Item) -> Vec<Import> {
    let mut all = Vec::new();
    if let Item::Use(item) = item {
        leaves(&item.tree, Vec::new(), &mut all);
    }
    all
}

fn leaves(tree: &UseTree, mut path: Vec<String>, all: &mut Vec<Import>) {
    let name = match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            return leaves(&step.tree, path, all);
        }
        UseTree::Group(group) => {
            return group.items.iter().for_each(|tree| leaves(tree, path.clone(), all));
        }
        UseTree::Glob(_) => None,
        // `use x::{self}` imports x.
        UseTree::Name(last) if last.ident == "self" => path.last().cloned(),
        UseTree::Name(last) => {
            path.push(last.ident.to_string());
            path.last().cloned()
        }
        UseTree::Rename(last) => {
            path.push(last.ident.to_string());
            Some(last.rename.to_string())
        }
    };
    all.push(Import { path, name });
}
