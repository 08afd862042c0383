//! The lines of one item: its signature, and those of its public parts.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{
    Attribute, Fields, FnArg, Ident, ImplItem, Item, ItemImpl, Meta, Pat, ReceiverKind, Signature,
    TraitItem, Type, Visibility,
};

use super::text::text;
use crate::source::is_left_out;

/// Whether an item is compiled for tests or documentation alone, a feature for tests included.
pub(super) fn is_for_tests(attributes: &[Attribute]) -> bool {
    let mentions_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, Meta::List(list) if text(&list.tokens).starts_with("any(test,"))
    };
    is_left_out(attributes) || attributes.iter().any(mentions_test)
}

pub(super) fn attributes(item: &Item) -> &[Attribute] {
    head(item).0
}

/// The name that the item defines.
pub(super) fn name(item: &Item) -> Option<String> {
    head(item).2.map(Ident::to_string)
}

/// Whether users can reach it if they reach its module. A macro is reached by `#[macro_export]`.
pub(super) fn is_public(item: &Item) -> bool {
    match item {
        Item::Macro(item) => item.attrs.iter().any(|a| a.path().is_ident("macro_export")),
        item => matches!(head(item).1, Some(Visibility::Public(_))),
    }
}

fn head(item: &Item) -> (&[Attribute], Option<&Visibility>, Option<&Ident>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.vis), Some(&item.sig.ident)),
        Item::Impl(item) => (&item.attrs, None, None),
        Item::Macro(item) => (&item.attrs, None, item.ident.as_ref()),
        Item::Mod(item) => (&item.attrs, Some(&item.vis), None),
        Item::Static(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.vis), Some(&item.ident)),
        Item::Use(item) => (&item.attrs, Some(&item.vis), None),
        _ => (&[], None, None),
    }
}

/// The lines of an item that is public as `path`. The first one is the item's own.
pub(super) fn lines(item: &Item, path: &str) -> Vec<String> {
    let before = shown(attributes(item));
    let head =
        |what: &str, after: TokenStream| format!("{before}pub {what} {path}{}", glued(&after));
    match item {
        Item::Const(item) => {
            let ty = &item.ty;
            vec![head("const", quote!(: #ty))]
        }
        Item::Static(item) => {
            let ty = &item.ty;
            vec![head("static", quote!(: #ty))]
        }
        Item::Type(item) => {
            let (generics, ty) = (&item.generics, &item.ty);
            vec![head("type", quote!(#generics = #ty))]
        }
        Item::Macro(_) => vec![format!("{before}macro {path}!")],
        Item::Fn(item) => vec![format!("{before}pub {}", function(&item.sig, path))],
        Item::Struct(item) => {
            let (generics, bounds) = (&item.generics, &item.generics.where_clause);
            let mut lines = vec![head("struct", quote!(#generics #bounds)) + hidden(&item.fields)];
            lines.extend(fields(&item.fields, path, |vis| matches!(vis, Visibility::Public(_))));
            lines
        }
        Item::Enum(item) => {
            let (generics, bounds) = (&item.generics, &item.generics.where_clause);
            let mut lines = vec![head("enum", quote!(#generics #bounds))];
            for variant in &item.variants {
                let path = format!("{path}::{}", variant.ident);
                lines.push(format!("{}variant {path}", shown(&variant.attrs)));
                lines.extend(fields(&variant.fields, &path, |_| true));
            }
            lines
        }
        Item::Trait(item) => {
            let (unsafety, generics, supertraits) =
                (&item.unsafety, &item.generics, &item.supertraits);
            let colon = &item.colon_token;
            let what = text(&quote!(#unsafety trait));
            let mut lines = vec![head(&what, quote!(#generics #colon #supertraits))];
            lines.extend(item.items.iter().filter_map(|part| part_of_trait(part, path)));
            lines
        }
        _ => Vec::new(),
    }
}

fn part_of_trait(part: &TraitItem, path: &str) -> Option<String> {
    Some(match part {
        TraitItem::Const(item) => format!("const {path}::{}: {}", item.ident, text(&item.ty)),
        TraitItem::Type(item) => format!("type {path}::{}", item.ident),
        TraitItem::Fn(item) => {
            let given = if item.default.is_some() { " { .. }" } else { "" };
            function(&item.sig, &format!("{path}::{}", item.sig.ident)) + given
        }
        _ => return None,
    })
}

/// Says that users cannot make such a value, because it has private fields.
fn hidden(fields: &Fields) -> &'static str {
    let private = fields.iter().any(|field| !matches!(field.vis, Visibility::Public(_)));
    if private { " { .. }" } else { "" }
}

fn fields(fields: &Fields, path: &str, is_shown: fn(&Visibility) -> bool) -> Vec<String> {
    let line = |(index, field): (usize, &syn::Field)| {
        let name = field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
        is_shown(&field.vis).then(|| format!("field {path}::{name}: {}", text(&field.ty)))
    };
    fields.iter().enumerate().filter_map(line).collect()
}

/// The lines of an `impl` for a type that is public as `path`.
pub(super) fn impl_lines(item: &ItemImpl, path: &str) -> Vec<String> {
    let (generics, ty) = (&item.generics, &item.self_ty);
    let bounds = &item.generics.where_clause;
    if let Some((name, _)) = &item.trait_ {
        let (unsafety, polarity) = (&item.unsafety, &item.modifiers.polarity);
        let header = text(&quote!(#unsafety impl #generics #polarity #name for));
        let types = item.items.iter().filter_map(|part| match part {
            ImplItem::Type(item) => Some(format!(" {} = {};", item.ident, text(&item.ty))),
            _ => None,
        });
        let types: String = types.collect();
        let types = if types.is_empty() { types } else { format!(" {{{types} }}") };
        let of = text(&quote!(#ty #bounds));
        return vec![format!("{header} {of}{types}")];
    }
    let is_plain = generics.params.is_empty() && bounds.is_none();
    let of = if is_plain {
        String::new()
    } else {
        format!(" in {}", text(&quote!(impl #generics #ty #bounds)))
    };
    let line = |part: &ImplItem| match part {
        ImplItem::Fn(item) if is_open(&item.vis, &item.attrs) => {
            let path = format!("{path}::{}", item.sig.ident);
            Some(format!("{}pub {}{of}", shown(&item.attrs), function(&item.sig, &path)))
        }
        ImplItem::Const(item) if is_open(&item.vis, &item.attrs) => {
            Some(format!("pub const {path}::{}: {}{of}", item.ident, text(&item.ty)))
        }
        _ => None,
    };
    item.items.iter().filter_map(line).collect()
}

fn is_open(vis: &Visibility, attributes: &[Attribute]) -> bool {
    matches!(vis, Visibility::Public(_)) && !is_for_tests(attributes)
}

/// The name in the path of a type, without references around it.
pub(super) fn type_path(ty: &Type) -> Option<Vec<String>> {
    match ty {
        Type::Path(path) => Some(segments(&path.path)),
        Type::Reference(reference) => type_path(&reference.elem),
        _ => None,
    }
}

pub(super) fn segments(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

/// A signature with `path` in place of the name, and without what only the body sees.
fn function(sig: &Signature, path: &str) -> String {
    let inputs = sig.inputs.iter().map(|input| match input {
        FnArg::Receiver(receiver) => match &receiver.kind {
            ReceiverKind::Value => "self".to_owned(),
            ReceiverKind::Typed(_, ty) => format!("self: {}", text(ty)),
            _ => text(receiver),
        },
        FnArg::Typed(input) => {
            let name = match &*input.pat {
                Pat::Ident(pattern) => pattern.ident.to_string(),
                _ => "_".to_owned(),
            };
            format!("{name}: {}", text(&input.ty))
        }
    });
    let inputs = inputs.collect::<Vec<_>>().join(", ");
    let Signature { constness, asyncness, safety, abi, generics, output, .. } = sig;
    let before = text(&quote!(#constness #asyncness #safety #abi fn));
    let (output, bounds) = (glued(&output), glued(&generics.where_clause));
    format!("{before} {path}{}({inputs}){output}{bounds}", text(generics))
}

/// The attributes that users depend on, each with a space behind it.
fn shown(attributes: &[Attribute]) -> String {
    let mut shown = String::new();
    for attribute in attributes {
        let path = attribute.path();
        if path.is_ident("derive")
            && let Meta::List(list) = &attribute.meta
        {
            let derived = text(&list.tokens);
            let mut traits: Vec<_> = derived.split(", ").collect();
            traits.sort_unstable();
            shown += &format!("#[derive({})] ", traits.join(", "));
        } else if path.is_ident("must_use") {
            shown += "#[must_use] ";
        } else if ["cfg", "deprecated", "non_exhaustive", "repr"]
            .iter()
            .any(|name| path.is_ident(name))
        {
            shown += &format!("{} ", text(attribute));
        }
    }
    shown
}

/// What follows a name: generics and a colon at once, all else after a space.
fn glued(tokens: &impl ToTokens) -> String {
    let text = text(tokens);
    let close = text.is_empty() || text.starts_with(['<', ':']);
    if close { text } else { format!(" {text}") }
}
