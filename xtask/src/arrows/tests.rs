//! Small crates in a temporary directory, and what is wrong with each.

use super::{check, parse, picture, stale};

/// The problems of a crate with these files and these floors.
fn problems(floors: &[&[&str]], files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let floors: Vec<_> =
        floors.iter().map(|floor| floor.iter().map(|&name| name.to_owned()).collect()).collect();
    let tree = parse::read(&directory.path().join("lib.rs")).unwrap();
    check::problems(&tree, &floors)
}

const NONE: [&str; 0] = [];

#[test]
fn imports_that_point_down_are_fine_also_through_re_exports() {
    let lib = "mod top; mod low; pub use low::Error; pub use top::*;";
    let low = "mod part; pub struct Error; pub use part::{Part as Piece};";
    let top = "use crate::{Error, low::{self, Piece}}; use std::fmt; pub fn f(_: low::Error) {}";
    let files = [("lib.rs", lib), ("low/mod.rs", low), ("low/part.rs", "pub struct Part;")];
    let files = [files.as_slice(), &[("top.rs", top)]].concat();
    assert_eq!(problems(&[&["top"], &["low"]], &files), NONE);
    let up = [
        "imports that point up:",
        "    top.rs → low/mod.rs: Error",
        "    top.rs → low/part.rs: Piece",
    ];
    assert_eq!(problems(&[&["low"], &["top"]], &files), up);
}

#[test]
fn paths_in_code_macros_and_attributes_are_imports() {
    for low in [
        "fn f() { crate::a::g(); }",
        "fn f() -> Option<super::a::G> { None }",
        "use super::*; fn f() { a::g() }",
        "fn f() { println!(\"{}\", crate::a::g()); }",
        "#[error(\"x\", crate::a::g())] struct E;",
        "use crate::a as other; mod inner { fn f() { super::other::g() } }",
        "pub(crate) use crate::a::g;",
    ] {
        let files =
            [("lib.rs", "mod a; mod low;"), ("a.rs", "fn g() {} struct G;"), ("low.rs", low)];
        let found = problems(&[&["a"], &["low"]], &files);
        assert_eq!(found.len(), 2, "{low}: {found:?}");
        assert!(found[1].starts_with("    low.rs → a.rs: "), "{low}: {found:?}");
    }
}

#[test]
fn tests_documentation_and_other_crates_are_left_out() {
    let low = "//! [`crate::a::g`]
        #[cfg(doc)] use crate::a::G;
        #[cfg(test)] mod tests;
        #[cfg(test)] impl X { fn f() { crate::a::g() } }
        impl X { #[cfg(test)] fn g() { crate::a::g() } }
        use other::a::G; use ::a::G as H;
        /// [`crate::a`]
        fn f<a>(a: H) { a }";
    let files = [
        ("lib.rs", "mod a; mod low; pub use other::net; fn own() {}"),
        ("a.rs", "fn g() {} struct G; use crate::net::Port;"),
        ("low.rs", low),
    ];
    assert_eq!(problems(&[&["a"], &["low"]], &files), NONE);
}

#[test]
fn what_the_root_defines_is_above_all_floors() {
    let files = [("lib.rs", "mod a; fn own() {}"), ("a.rs", "fn f() { crate::own() }")];
    assert_eq!(problems(&[&["a"]], &files), ["imports that point up:", "    a.rs → lib.rs: own"]);
}

#[test]
fn circles_of_files_and_of_folders_are_found() {
    let lib = ("lib.rs", "mod a; mod b;");
    let files = [
        lib,
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::a::A; pub struct B;"),
    ];
    let circle = ["a circle of a, b:", "    a.rs → b.rs: B", "    b.rs → a.rs: A"];
    assert_eq!(problems(&[&["a", "b"]], &files), circle);

    // No two of these files use each other.
    let files = [
        lib,
        ("a/mod.rs", "mod x; mod y;"),
        ("a/x.rs", "use crate::b::B;"),
        ("a/y.rs", "pub struct Y;"),
        ("b.rs", "pub struct B(crate::a::y::Y);"),
    ];
    let circle = ["a circle of a, b:", "    a/x.rs → b.rs: B", "    b.rs → a/y.rs: Y"];
    assert_eq!(problems(&[&["a", "b"]], &files), circle);
}

#[test]
fn a_folders_own_file_may_re_export_its_children_but_not_use_them_if_they_use_it() {
    let of = |a: &str| {
        let child = ("elsewhere/x.rs", "pub struct X(super::A);");
        problems(&[&["a"]], &[("lib.rs", "mod a;"), ("a.rs", a), child])
    };
    let module = "#[path = \"elsewhere/x.rs\"] mod x;";
    assert_eq!(of(&format!("{module} pub use x::X; pub struct A;")), NONE);
    let used = of(&format!("{module} pub use x::X; pub struct A; fn f(_: X) {{}}"));
    assert_eq!(
        used,
        ["a circle of a.rs, x:", "    a.rs → elsewhere/x.rs: X", "    elsewhere/x.rs → a.rs: A"]
    );
}

#[test]
fn floors_list_each_module_and_no_other() {
    let files = [("lib.rs", "mod a; mod b;"), ("a.rs", ""), ("b.rs", "")];
    assert_eq!(
        problems(&[&["a", "old"]], &files),
        ["b: on no floor", "old: on a floor, but there is no such module"]
    );
}

#[test]
fn the_picture_has_a_line_for_each_floor() {
    let floors = [vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]];
    assert_eq!(picture("t", &floors, |name| name.to_uppercase()), "t\n    A  B\n    C\n");
}

#[test]
fn a_documented_picture_has_to_be_the_printed_one() {
    let picture = "reuseport\n    a\n    b\n";
    assert_eq!(stale("reuseport", picture, "text\nreuseport\n    a\n    b\ntext"), 0);
    assert_eq!(stale("reuseport", picture, "reuseport\n    b\n    a\n"), 1);
    assert_eq!(stale("benches", picture, ""), 0);
}
