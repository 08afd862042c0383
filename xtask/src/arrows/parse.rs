//! Reads the source files of a crate into a [`Tree`]. Code for tests and documentation is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, Item, Meta, UseTree, Visibility};

use super::tree::{self, Module, Tree};
use crate::source::{file_of, is_left_out};

/// Reads the crate with this root file.
pub(super) fn read(root: &Path) -> Result<Tree> {
    let source = root.parent().unwrap_or(Path::new(""));
    let file = root.strip_prefix(source).context("a crate's root is a file")?.to_owned();
    let module = Module { file: file.clone(), ..Module::default() };
    let mut reader =
        Reader { source, tree: Tree(vec![module]), at: 0, directory: PathBuf::new(), error: None };
    reader.file(&file);
    match reader.error {
        Some(error) => Err(error),
        None => Ok(reader.tree),
    }
}

struct Reader<'a> {
    /// The directory of the root file.
    source: &'a Path,
    tree: Tree,
    /// The module being read.
    at: usize,
    /// Where the files of its children are, relative to `source`.
    directory: PathBuf,
    error: Option<anyhow::Error>,
}

impl Reader<'_> {
    fn module(&mut self) -> &mut Module {
        &mut self.tree.0[self.at]
    }

    fn file(&mut self, file: &Path) {
        let path = self.source.join(file);
        let read = || anyhow::Ok(syn::parse_file(&std::fs::read_to_string(&path)?)?);
        match read().with_context(|| format!("cannot parse {}", path.display())) {
            Ok(file) => self.visit_file(&file),
            Err(error) => _ = self.error.get_or_insert(error),
        }
    }

    fn import(&mut self, tree: &UseTree, mut path: tree::Path, exported: bool) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                return self.import(&step.tree, path, exported);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|t| self.import(t, path.clone(), exported));
            }
            UseTree::Glob(_) => return self.module().globs.push(path),
            UseTree::Name(last) => path.push(last.ident.to_string()),
            UseTree::Rename(last) => path.push(last.ident.to_string()),
        }
        let name = match tree {
            UseTree::Rename(rename) => rename.rename.to_string(),
            // `use x::{self}` imports x.
            _ if path.last().is_some_and(|last| last == "self") => {
                path.pop();
                path.last().cloned().unwrap_or_default()
            }
            _ => path.last().cloned().unwrap_or_default(),
        };
        let module = self.module();
        if exported { &mut module.exported } else { &mut module.used }.push(path.clone());
        module.names.insert(name, Some(path));
    }

    /// The paths in the arguments of a macro, which need not be Rust.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = tree::Path::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.tree.0[self.at].used.push(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    colons = 0;
                    self.module().used.push(std::mem::take(&mut path));
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.module().used.push(path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = head(item);
        if is_left_out(attributes) {
            return;
        }
        if let Some(name) = name {
            self.module().names.insert(name.to_string(), None);
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_left_out(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A name that no module has: `::x` is another crate.
        let path = item.leading_colon.iter().map(|_| "::".to_owned()).collect();
        self.import(&item.tree, path, !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let (at, directory) = (self.at, self.directory.clone());
        let file = item
            .content
            .is_none()
            .then(|| file_of(self.source, &self.tree.0[at].file, &directory, item));
        let new = self.tree.0.len();
        let home = if file.is_some() { new } else { self.tree.0[at].home };
        let path = file.clone().unwrap_or_else(|| self.tree.0[at].file.clone());
        self.tree.0.push(Module { file: path, home, parent: at, ..Module::default() });
        self.module().children.insert(name.clone(), new);
        (self.at, self.directory) = (new, directory.join(name));
        match (file, &item.content) {
            (Some(file), _) => self.file(&file),
            (None, content) => {
                content.iter().for_each(|(_, items)| items.iter().for_each(|i| self.visit_item(i)));
            }
        }
        (self.at, self.directory) = (at, directory);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string());
            self.module().used.push(segments.collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    /// `#[error("...", crate::hint::of(error))]` is code; documentation is not a list.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}

/// An item's attributes, and the name that it defines.
fn head(item: &Item) -> (&[Attribute], Option<&Ident>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
        Item::Impl(item) => (&item.attrs, None),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
        Item::Mod(item) => (&item.attrs, None),
        Item::Static(item) => (&item.attrs, Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.ident)),
        Item::Use(item) => (&item.attrs, None),
        _ => (&[], None),
    }
}
