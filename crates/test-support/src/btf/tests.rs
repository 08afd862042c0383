use super::*;

const TYPES: &[u8] = include_bytes!("../../bpf/types.bpf.o");

fn field(name: &str, offset: usize, size: usize) -> Field {
    Field { name: name.to_owned(), offset, size }
}

#[test]
fn structures_have_the_layout_that_c_gives_them() {
    let btf = Btf::of(TYPES);
    let fields = vec![
        field("number", 0, 8),
        field("inner", 8, 8),
        field("colour", 16, 4),
        field("pointer", 24, 8),
    ];
    assert_eq!(btf.structure("outer"), Some(Struct { size: 32, fields }));
    let fields = vec![field("first", 0, 2), field("rest", 2, 6)];
    assert_eq!(btf.structure("inner"), Some(Struct { size: 8, fields }));
    assert_eq!(btf.structure("colour"), None);
}

#[test]
fn enumerations_have_their_values() {
    let values = [("RED", 1), ("GREEN", 5), ("NO_COLOUR", -1)];
    let values = values.map(|(name, value)| (name.to_owned(), value));
    let btf = Btf::of(TYPES);
    assert_eq!(btf.enumeration("colour"), Some(values.to_vec()));
    assert_eq!(btf.enumeration("outer"), None);
}

#[test]
fn maps_are_read_with_those_inside_them() {
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    const MMAPABLE: u32 = 1 << 10;

    let map = |kind, value_size, max_entries| MapDefinition {
        kind,
        key_size: 4,
        value_size,
        max_entries,
        ..MapDefinition::default()
    };
    let records = MapDefinition { flags: MMAPABLE, ..map(ARRAY, 32, 4) };
    let inner = Some(Box::new(map(ARRAY, 8, 16)));
    let tables = MapDefinition { inner, ..map(ARRAY_OF_MAPS, 4, 1) };
    let expected = vec![("records".to_owned(), records), ("tables".to_owned(), tables)];
    assert_eq!(Btf::of(TYPES).maps(), expected);
}

#[test]
fn variables_are_read_by_section() {
    let variable = |name: &str, size| (name.to_owned(), size);
    let expected = [variable("COLOUR", 4), variable("SEED", 8), variable("ENABLED", 1)];
    let btf = Btf::of(TYPES);
    assert_eq!(btf.variables(".rodata"), expected);
    assert_eq!(btf.variables("license"), [variable("_license", 4)]);
    assert_eq!(btf.variables(".bss"), []);
}

#[test]
#[should_panic(expected = "no section .BTF")]
fn an_object_without_btf_is_refused() {
    let this = std::fs::read("/proc/self/exe").unwrap();
    let _ = Btf::of(&this);
}
