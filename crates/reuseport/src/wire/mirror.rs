//! For tests: the C side of this folder, read from the BTF of the compiled objects.

use test_support::btf::{Btf, MapDefinition};

/// The objects by name. All select objects have the same types and maps; this is one of them.
pub(super) fn object(name: &str) -> Btf {
    Btf::of(match name {
        "select" => include_bytes!("../../bpf/select.bpf.o"),
        "host" => include_bytes!("../../bpf/host.bpf.o"),
        "recount" => include_bytes!("../../bpf/recount.bpf.o"),
        "observe" => include_bytes!("../../bpf/observe.bpf.o"),
        "watch" => include_bytes!("../../bpf/watch.bpf.o"),
        _ => panic!("no object {name}"),
    })
}

/// The value of an enumerator.
pub(super) fn value(btf: &Btf, enumeration: &str, name: &str) -> i64 {
    let values = btf.enumeration(enumeration).unwrap_or_else(|| panic!("no enum {enumeration}"));
    let found = values.iter().find(|(other, _)| other == name);
    found.unwrap_or_else(|| panic!("no {name} in enum {enumeration}")).1
}

/// The definition of a map.
pub(super) fn map(btf: &Btf, name: &str) -> MapDefinition {
    let found = btf.maps().into_iter().find(|(other, _)| other == name);
    found.unwrap_or_else(|| panic!("no map {name}")).1
}

/// The size of a field, from a function that returns it.
pub(super) fn field_size<T, F>(_: impl Fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Asserts that a C structure has the size of a Rust one, and the same fields, at the same offsets and of
/// the same sizes.
macro_rules! assert_mirrors {
    ($btf:expr, $c:literal, $rust:ty { $($field:ident),+ $(,)? }) => {{
        let structure = $btf.structure($c).unwrap_or_else(|| panic!("no struct {}", $c));
        let theirs: Vec<(&str, usize, usize)> =
            structure.fields.iter().map(|f| (f.name.as_str(), f.offset, f.size)).collect();
        let ours = [$((
            stringify!($field),
            std::mem::offset_of!($rust, $field),
            $crate::wire::mirror::field_size(|value: &$rust| &value.$field),
        )),+];
        assert_eq!(theirs, ours, "struct {}", $c);
        assert_eq!(structure.size, size_of::<$rust>(), "struct {}", $c);
    }};
}
pub(super) use assert_mirrors;
