//! Walks from a crate's root over all that is public, and makes the lines of its text.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syn::{Item, ItemImpl, ItemMacro};

use super::crates::{Crate, Target, imports};
use super::item;
use super::text::{made, text};

/// The public interface, a line for each item, field, variant, function and `impl`, sorted by path.
pub(super) fn text_of(name: &str, read: &Crate) -> String {
    let mut surface =
        Surface { read, paths: BTreeMap::new(), lines: BTreeSet::new(), next: VecDeque::new() };
    surface.export(Target::Module(0), name, name);
    // Modules near the root first: a name has its shortest path.
    while let Some((module, path)) = surface.next.pop_front() {
        surface.module(module, &path);
    }
    surface.exported_macros(name);
    surface.impls();
    surface.lines.into_iter().map(|(_, _, line)| line + "\n").collect()
}

struct Surface<'a> {
    read: &'a Crate,
    /// The first public path of each module and item.
    paths: BTreeMap<Target, String>,
    /// By the path of the item that they are about; its own line comes first.
    lines: BTreeSet<(String, usize, String)>,
    /// Modules whose items are still to be read.
    next: VecDeque<(usize, String)>,
}

impl Surface<'_> {
    fn module(&mut self, at: usize, path: &str) {
        let read = self.read;
        for found in read.0[at].items.iter().filter(|found| item::is_public(found)) {
            for import in imports(found) {
                let target = read.resolve(at, &import.path);
                let source = import.path.join("::");
                match (import.name, target) {
                    (Some(name), target) => {
                        self.export(target, &format!("{path}::{name}"), &source)
                    }
                    (None, Target::Module(module)) => self.module(module, path),
                    (None, _) => self.line(path, 1, format!("pub use {source}::* in {path}")),
                }
            }
            if let Item::Mod(module) = found {
                let name = module.ident.to_string();
                let target = read.resolve(at, std::slice::from_ref(&name));
                self.export(target, &format!("{path}::{name}"), "");
            } else if let Some(name) = item::name(found)
                && !matches!(found, Item::Macro(_))
            {
                self.export(Target::Item(at, name.clone()), &format!("{path}::{name}"), "");
            }
        }
    }

    /// Makes a target public as `path`; `source` is what the code names it.
    fn export(&mut self, target: Target, path: &str, source: &str) {
        if target == Target::Elsewhere {
            return self.line(path, 0, format!("pub use {source} as {path}"));
        }
        if let Some(first) = self.paths.get(&target) {
            if first != path {
                let line = format!("pub use {first} as {path}");
                self.line(path, 0, line);
            }
            return;
        }
        self.paths.insert(target.clone(), path.to_owned());
        match target {
            Target::Module(module) => {
                self.line(path, 0, format!("pub mod {path}"));
                self.next.push_back((module, path.to_owned()));
            }
            Target::Item(module, name) => {
                let named = |found: &&Item| item::name(found).as_ref() == Some(&name);
                for found in self.read.0[module].items.iter().filter(named) {
                    for (index, line) in item::lines(found, path).into_iter().enumerate() {
                        self.line(path, index, line);
                    }
                }
            }
            Target::Elsewhere => {}
        }
    }

    /// `#[macro_export]` puts a macro into the root, wherever it is.
    fn exported_macros(&mut self, root: &str) {
        for found in self.read.0.iter().flat_map(|module| &module.items) {
            if let (Item::Macro(_), true, Some(name)) =
                (found, item::is_public(found), item::name(found))
            {
                let path = format!("{root}::{name}");
                item::lines(found, &path).into_iter().for_each(|line| self.line(&path, 0, line));
            }
        }
    }

    /// What is implemented for public types, and macros, which may implement more.
    fn impls(&mut self) {
        let read = self.read;
        for (at, module) in read.0.iter().enumerate() {
            for found in &module.items {
                match found {
                    Item::Impl(found) => self.implemented(at, found),
                    Item::Macro(found) => self.macros(found),
                    _ => {}
                }
            }
        }
    }

    /// A call of a macro, or what the definition of one makes.
    fn macros(&mut self, found: &ItemMacro) {
        match &found.ident {
            None => self.line("~", 0, format!("macro call: {}", text(&found.mac))),
            Some(name) => {
                for made in made(found.mac.tokens.clone()) {
                    self.line("~~", 0, format!("macro {name} makes: {made}"));
                }
            }
        }
    }

    /// The lines of an `impl` in a module: for a public type, or of a public trait for a type of another crate.
    fn implemented(&mut self, at: usize, found: &ItemImpl) {
        let of = item::type_path(&found.self_ty).map(|path| self.read.resolve(at, &path));
        let by =
            found.trait_.as_ref().map(|(path, _)| self.read.resolve(at, &item::segments(path)));
        let public = |target: &Option<Target>| self.paths.get(target.as_ref()?).cloned();
        let is_hidden = matches!(by, Some(Target::Item(..))) && public(&by).is_none();
        if let (false, Some(path)) = (is_hidden, public(&of).or_else(|| public(&by))) {
            for line in item::impl_lines(found, &path) {
                self.line(&path, usize::MAX, line);
            }
        }
    }

    fn line(&mut self, path: &str, rank: usize, line: String) {
        self.lines.insert((path.to_owned(), rank, line));
    }
}
