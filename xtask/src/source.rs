//! What the readers of source files share: where a module's file is, and which items are for tests or for
//! documentation alone.

use std::path::{Path, PathBuf};

use syn::{Attribute, ItemMod, Meta};

/// The file of a module that another file declares. All paths are relative to `source`, the directory of the
/// crate's root file; `parent` is the file that declares it, `directory` that of its child modules.
pub(crate) fn file_of(source: &Path, parent: &Path, directory: &Path, item: &ItemMod) -> PathBuf {
    if let Some(path) = path_attribute(&item.attrs) {
        // Relative to the file that says so.
        return parent.with_file_name(path);
    }
    let name = item.ident.to_string();
    let folder = directory.join(&name).join("mod.rs");
    if source.join(&folder).is_file() { folder } else { directory.join(format!("{name}.rs")) }
}

/// Whether these attributes leave an item out of the library: `#[cfg(test)]`, `#[cfg(doc)]`.
pub(crate) fn is_left_out(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        let condition = list.tokens.to_string();
        list.path.is_ident("cfg") && ["test", "doc", "doctest"].contains(&condition.as_str())
    })
}

/// What `#[path = "..."]` says.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    })
}
