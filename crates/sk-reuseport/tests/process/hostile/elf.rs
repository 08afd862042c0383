//! Builds objects, including ones that no compiler would write.

/// A little-endian 64-bit ELF file for BPF, section by section.
pub(crate) struct Elf {
    sections: Vec<Section>,
    symbols: Vec<Symbol>,
}

struct Section {
    name: Vec<u8>,
    kind: u32,
    flags: u64,
    data: Vec<u8>,
    /// The size in the header, if it is not the length of `data`.
    size: Option<u64>,
    info: u32,
}

struct Symbol {
    name: Vec<u8>,
    info: u8,
    section: u16,
    value: u64,
    size: u64,
}

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const NOBITS: u32 = 8;
const REL: u32 = 9;
const ALLOC_WRITE: u64 = 3;
const ALLOC_EXEC: u64 = 6;
const GLOBAL_OBJECT: u8 = 0x11;
const GLOBAL_FUNCTION: u8 = 0x12;

/// `call`, followed by the distance of the target from the next instruction.
const CALL: [u8; 4] = [0x85, 0x10, 0, 0];
/// `r0 = 1; exit`: SK_PASS.
pub(crate) const PASS: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

impl Elf {
    /// An object without sections.
    pub(crate) fn empty() -> Self {
        Self { sections: Vec::new(), symbols: Vec::new() }
    }

    /// An object with a licence and a program that returns SK_PASS.
    pub(crate) fn passing() -> Self {
        let mut elf = Self::empty();
        elf.data(b"license", b"GPL\0");
        elf.program(b"sk_reuseport", b"pass", &PASS);
        elf
    }

    fn section(&mut self, name: &[u8], kind: u32, flags: u64, data: &[u8]) -> u16 {
        let (name, data) = (name.to_vec(), data.to_vec());
        self.sections.push(Section { name, kind, flags, data, size: None, info: 0 });
        self.sections.len() as u16
    }

    pub(crate) fn data(&mut self, name: &[u8], data: &[u8]) -> u16 {
        self.section(name, PROGBITS, ALLOC_WRITE, data)
    }

    /// A section of `size` zeros, which take no room in the file.
    pub(crate) fn zeros(&mut self, name: &[u8], size: u64) {
        let index = self.section(name, NOBITS, ALLOC_WRITE, &[]);
        self.sections[usize::from(index) - 1].size = Some(size);
    }

    pub(crate) fn program(&mut self, section: &[u8], name: &[u8], code: &[u8]) -> u16 {
        let section = self.section(section, PROGBITS, ALLOC_EXEC, code);
        self.symbol(name, GLOBAL_FUNCTION, section, 0, code.len());
        section
    }

    fn symbol(&mut self, name: &[u8], info: u8, section: u16, value: usize, size: usize) {
        let (name, value, size) = (name.to_vec(), value as u64, size as u64);
        self.symbols.push(Symbol { name, info, section, value, size });
    }

    /// A map in aya's older style: type, key size, value size, elements, flags, id, pinning.
    pub(crate) fn map(mut self, name: &[u8], definition: [u32; 7]) -> Self {
        let bytes: Vec<u8> = definition.iter().flat_map(|word| word.to_le_bytes()).collect();
        let section = self.data(b"maps", &bytes);
        self.symbol(name, GLOBAL_OBJECT, section, 0, bytes.len());
        self
    }

    /// A program that calls a function that calls a function, and so on.
    pub(crate) fn calling(depth: usize) -> Self {
        let mut elf = Self::empty();
        elf.data(b"license", b"GPL\0");
        let mut text = Vec::new();
        for _ in 1..depth {
            text.extend(CALL.iter().chain(&1i32.to_le_bytes()).chain(&EXIT));
        }
        text.extend(PASS);
        let section = elf.section(b".text", PROGBITS, ALLOC_EXEC, &text);
        for index in 0..depth {
            elf.symbol(format!("f{index}").as_bytes(), GLOBAL_FUNCTION, section, index * 16, 16);
        }
        let code: Vec<u8> =
            CALL.iter().chain(&(-1i32).to_le_bytes()).chain(&EXIT).copied().collect();
        let program = elf.program(b"sk_reuseport", b"start", &code);
        // r_offset, then symbol and type: R_BPF_64_32, a call.
        let relocation = [0u64.to_le_bytes(), ((1u64 << 32) | 10).to_le_bytes()].concat();
        let index = elf.section(b".relsk_reuseport", REL, 0, &relocation);
        elf.sections[usize::from(index) - 1].info = program.into();
        elf
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        let symbols = std::mem::take(&mut self.symbols);
        let mut names = vec![0];
        let mut table = vec![0; 24];
        for symbol in &symbols {
            table.extend((names.len() as u32).to_le_bytes());
            table.extend([symbol.info, 0]);
            table.extend(symbol.section.to_le_bytes());
            table.extend(symbol.value.to_le_bytes());
            table.extend(symbol.size.to_le_bytes());
            names.extend(symbol.name.iter().chain(&[0]));
        }
        let strings = self.section(b".strtab", STRTAB, 0, &[]);
        let symtab = self.section(b".symtab", SYMTAB, 0, &table);
        self.sections[usize::from(symtab) - 1].info = 1;
        for section in &mut self.sections {
            // Sections and symbols share a string table.
            let name = names.len() as u32;
            names.extend(section.name.iter().chain(&[0]));
            section.name = name.to_le_bytes().to_vec();
        }
        self.sections[usize::from(strings) - 1].data = names;
        self.file(strings, symtab)
    }

    /// The file header, the content of the sections, and the section headers.
    fn file(&self, strings: u16, symtab: u16) -> Vec<u8> {
        let mut file = vec![0; 64];
        let mut headers = vec![0; 64];
        for section in &self.sections {
            let (link, entry_size) = match section.kind {
                SYMTAB => (strings, 24u64),
                REL => (symtab, 16),
                _ => (0, 0),
            };
            let size = section.size.unwrap_or(section.data.len() as u64);
            headers.extend(&section.name);
            headers.extend(section.kind.to_le_bytes());
            for word in [section.flags, 0, file.len() as u64, size] {
                headers.extend(word.to_le_bytes());
            }
            headers.extend(u32::from(link).to_le_bytes());
            headers.extend(section.info.to_le_bytes());
            headers.extend(8u64.to_le_bytes());
            headers.extend(entry_size.to_le_bytes());
            file.extend(&section.data);
            file.resize(file.len().next_multiple_of(8), 0);
        }
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &1u16.to_le_bytes()); // e_type: ET_REL
        put(18, &247u16.to_le_bytes()); // e_machine: EM_BPF
        put(20, &1u32.to_le_bytes()); // e_version
        put(52, &64u16.to_le_bytes()); // e_ehsize
        put(58, &64u16.to_le_bytes()); // e_shentsize
        put(60, &(self.sections.len() as u16 + 1).to_le_bytes()); // e_shnum
        put(62, &strings.to_le_bytes()); // e_shstrndx
        let at = (file.len() as u64).to_le_bytes();
        file[40..48].copy_from_slice(&at); // e_shoff
        file.extend(headers);
        file
    }
}
