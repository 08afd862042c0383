//! Tokens as people write them.

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

/// The tokens in one line.
pub(super) fn text(tokens: &(impl ToTokens + ?Sized)) -> String {
    let mut words = Vec::new();
    collect(tokens.to_token_stream(), &mut words);
    let mut line = String::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 && is_spaced(&words[index - 1], word) {
            line.push(' ');
        }
        line += word;
    }
    line
}

/// What a macro's definition makes public, and for what it implements: each up to the body.
pub(super) fn made(tokens: TokenStream) -> Vec<String> {
    let mut made = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => made.extend(self::made(group.stream())),
            TokenTree::Ident(word) if word == "pub" || word == "impl" => {
                let ends = |token: &TokenTree| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    TokenTree::Punct(punct) => punct.as_char() == ';',
                    _ => false,
                };
                let mut item = TokenStream::from(TokenTree::Ident(word));
                let mut inside = Vec::new();
                for token in tokens.by_ref() {
                    if ends(&token) {
                        inside.push(token);
                        break;
                    }
                    item.extend([token]);
                }
                made.push(text(&item));
                made.extend(self::made(inside.into_iter().collect()));
            }
            _ => {}
        }
    }
    made
}

/// Without documentation.
fn collect(tokens: TokenStream, words: &mut Vec<String>) {
    let mut joint = false;
    for token in tokens {
        let word = match token {
            TokenTree::Group(group) if is_documentation(&group) => {
                words.pop();
                continue;
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                words.push(open.to_owned());
                collect(group.stream(), words);
                words.push(close.to_owned());
                joint = false;
                continue;
            }
            // `>>` closes two lists.
            TokenTree::Punct(punct) => {
                let next = punct.spacing() == Spacing::Joint
                    && !['>', '<', '&', ','].contains(&punct.as_char());
                (punct.to_string(), next)
            }
            other => (other.to_string(), false),
        };
        match words.last_mut() {
            Some(last) if joint => *last += &word.0,
            _ => words.push(word.0),
        }
        joint = word.1;
    }
    words.retain(|word| !word.is_empty());
}

/// `[doc = "..."]`, which follows a `#`.
fn is_documentation(group: &Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket
        && matches!(first, Some(TokenTree::Ident(word)) if word == "doc")
}

/// Words that a parenthesis or bracket follows after a space.
const KEYWORDS: [&str; 8] = ["as", "const", "dyn", "for", "impl", "in", "mut", "where"];

fn is_spaced(before: &str, word: &str) -> bool {
    let is_name = |word: &str| word.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    match (before, word) {
        ("{", _) | (_, "{" | "}") => true,
        ("(" | "[" | "<" | "::" | "&" | "?" | "#" | "*" | "!" | "$", _) => false,
        (_, "," | ";" | ">" | ")" | "]" | ":" | "::") => false,
        (_, "!") => !is_name(before),
        (_, "<") => !is_name(before) && before != "::",
        (_, "(" | "[") => !is_name(before) && before != ">" || KEYWORDS.contains(&before),
        _ => true,
    }
}
