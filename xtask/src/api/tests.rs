//! The text of small crates in a temporary directory.

use super::{difference, surface};

/// The text of a crate with these files.
fn api(files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let text = surface("a-b", &directory.path().join("lib.rs")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn fields_variants_functions_and_impls_have_a_line_each() {
    let lib = "
        #[derive(Debug, Clone)] #[non_exhaustive]
        pub struct Attach { pub force: bool, pub slots: Option<u32>, secret: u8, pub(crate) inner: u8 }
        impl Attach {
            #[must_use] pub fn force(mut self, (a, b): (u8, u8)) -> Self { self }
            pub(crate) fn hidden(&self) {}
            #[cfg(test)] pub fn for_tests(&self) {}
            pub const LIMIT: u32 = 3;
        }
        pub enum Change<T = ()> where T: Copy { Gone, Split(Vec<T>), By { id: u32 } }
        impl<T: Copy> Change<T> { pub fn all<'a>(&'a mut self) -> impl Iterator<Item = &'a [T]> + 'a {} }
        impl<T: ?Sized + Into<u8>> From<&T> for Attach { fn from(_: &T) -> Self {} }
        impl std::str::FromStr for Attach { type Err = (); fn from_str(s: &str) -> Result<Self, ()> {} }
        pub trait Next: Sized { type Item; fn next(&mut self) -> Self::Item; fn skip(&mut self) {} }
        pub struct Slot(u16);
        pub const fn zero() -> u32 { 0 }
    ";
    let expected = "
        pub mod a_b
        #[derive(Clone, Debug)] #[non_exhaustive] pub struct a_b::Attach { .. }
        field a_b::Attach::force: bool
        field a_b::Attach::slots: Option<u32>
        #[must_use] pub fn a_b::Attach::force(self, _: (u8, u8)) -> Self
        impl std::str::FromStr for Attach { Err = (); }
        impl<T: ?Sized + Into<u8>> From<&T> for Attach
        pub const a_b::Attach::LIMIT: u32
        pub enum a_b::Change<T = ()> where T: Copy
        variant a_b::Change::Gone
        variant a_b::Change::Split
        field a_b::Change::Split::0: Vec<T>
        variant a_b::Change::By
        field a_b::Change::By::id: u32
        pub fn a_b::Change::all<'a>(&'a mut self) -> impl Iterator<Item = &'a [T]> + 'a in impl<T: Copy> Change<T>
        pub trait a_b::Next: Sized
        type a_b::Next::Item
        fn a_b::Next::next(&mut self) -> Self::Item
        fn a_b::Next::skip(&mut self) { .. }
        pub struct a_b::Slot { .. }
        pub const fn a_b::zero() -> u32
    ";
    let expected: Vec<_> = expected.trim().lines().map(str::trim).collect();
    assert_eq!(api(&[("lib.rs", lib)]), expected);
}

#[test]
fn what_is_re_exported_stands_under_its_shortest_public_path() {
    let lib = "
        mod model; pub mod low; mod hidden { pub struct Never; impl Never { pub fn f() {} } }
        #[cfg(any(test, feature = \"fault\"))] pub mod fault;
        pub use model::id::{self, Slot}; pub use other::net; pub use low::*;
        use hidden::Never;
    ";
    let model = "pub(crate) mod private; pub mod id;";
    let id = "pub struct Slot; pub struct Weight; impl super::super::low::Make for Slot {}";
    let low = "pub use crate::model::id::Slot as Place; pub trait Make {} trait Inner {}
        impl Inner for Place {} #[macro_export] macro_rules! include { () => {} } bits! { /** About A. */ struct A; }
        macro_rules! bits { ($n:ident) => { impl<T> Make for $n<T> { pub fn at(&self, n: u8) -> T { n } } } }
        #[cfg(test)] mod tests;";
    let files = [
        ("lib.rs", lib),
        ("model/mod.rs", model),
        ("model/id.rs", id),
        ("model/private.rs", "pub struct No;"),
        ("low.rs", low),
    ];
    let expected = "
        pub mod a_b
        pub trait a_b::Make
        pub use a_b::Slot as a_b::Place
        pub struct a_b::Slot
        impl super::super::low::Make for Slot
        pub mod a_b::id
        pub use a_b::Slot as a_b::id::Slot
        pub struct a_b::id::Weight
        macro a_b::include!
        pub mod a_b::low
        pub use a_b::Make as a_b::low::Make
        pub use a_b::Slot as a_b::low::Place
        pub use other::net as a_b::net
        macro call: bits! { struct A; }
        macro bits makes: impl<T> Make for $n<T>
        macro bits makes: pub fn at(&self, n: u8) -> T
    ";
    let expected: Vec<_> = expected.trim().lines().map(str::trim).collect();
    assert_eq!(api(&files), expected);
}

#[test]
fn a_change_is_shown_by_its_lines() {
    assert_eq!(difference("a\nb\nc\n", "a\nc\nd\n"), "    - b\n    + d\n");
    assert_eq!(difference("", "a\n"), "    + a\n");
}
