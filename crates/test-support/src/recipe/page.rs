//! A recipe as the test reads it: the sections of `docs/recipes/NAME.md` with their fenced blocks.
//!
//! A block whose info string has a second word is a file of that name. A block `sh` is a script. Other
//! blocks are for readers alone.

use std::path::PathBuf;

/// The sections of every recipe, in this order.
pub const SECTIONS: [&str; 6] =
    ["Configure", "Attach", "Which policy", "Restart", "Drain a worker", "Pitfalls"];

/// A page.
#[derive(Debug)]
pub struct Page {
    /// Its heading.
    pub title: String,
    /// In their order.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Debug)]
pub struct Section {
    /// Its heading.
    pub title: String,
    blocks: Vec<Block>,
}

#[derive(Debug, PartialEq)]
struct Block {
    language: String,
    file: Option<String>,
    text: String,
}

/// The directory of the recipes.
pub fn directory() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recipes").into()
}

impl Page {
    /// Reads `docs/recipes/NAME.md`.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    pub fn read(name: &str) -> Self {
        let path = directory().join(format!("{name}.md"));
        let text = std::fs::read_to_string(&path);
        Self::parse(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn parse(text: &str) -> Self {
        let mut page = Self { title: String::new(), sections: Vec::new() };
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                page.sections.push(Section { title: title.to_owned(), blocks: Vec::new() });
            } else if let Some(title) = line.strip_prefix("# ") {
                page.title = title.to_owned();
            } else if let Some(info) = line.strip_prefix("```") {
                let mut words = info.split(' ').map(str::to_owned);
                let language = words.next().unwrap_or_default();
                let text = lines.by_ref().take_while(|line| *line != "```");
                let text = text.map(|line| format!("{line}\n")).collect();
                let section = page.sections.last_mut().expect("a block before the first section");
                section.blocks.push(Block { language, file: words.next(), text });
            }
        }
        page
    }

    /// The files of the page, with their contents.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let blocks = self.sections.iter().flat_map(|section| &section.blocks);
        blocks.filter_map(|block| Some((block.file.as_deref()?, block.text.as_str())))
    }

    /// The scripts of a section.
    ///
    /// # Panics
    ///
    /// If there is no such section.
    pub fn scripts(&self, section: &str) -> Vec<&str> {
        let found = self.sections.iter().find(|found| found.title == section);
        let blocks = &found.unwrap_or_else(|| panic!("no section {section:?}")).blocks;
        let scripts = blocks.iter().filter(|block| block.language == "sh" && block.file.is_none());
        scripts.map(|block| block.text.as_str()).collect()
    }

    /// The only script of a section.
    ///
    /// # Panics
    ///
    /// If there is none, or another one.
    pub fn script(&self, section: &str) -> &str {
        let scripts = self.scripts(section);
        let [only] = scripts[..] else { panic!("{section:?} has {} scripts", scripts.len()) };
        only
    }

    /// The group that is looked at: the first one to which the page attaches.
    ///
    /// # Panics
    ///
    /// If it attaches to none.
    pub fn group(&self) -> &str {
        self.groups().next().expect("the section \"Attach\" names a group")
    }

    /// The other groups to which the page attaches.
    pub fn other_groups(&self) -> impl Iterator<Item = &str> {
        self.groups().skip(1)
    }

    /// All of them.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        let words = self.script("Attach").split_whitespace();
        words.filter(|word| word.starts_with("tcp:") || word.starts_with("udp:"))
    }
}

#[test]
fn files_and_scripts_are_told_from_other_blocks() {
    let page = "# one\n\n## Attach\n\n```ini a.conf\n[x]\n\ny\n```\n\n```sh\nreuseport attach \
                tcp:127.0.0.1:80 udp:[::]:80 --watch\n```\n\n```console\n$ ls\n```\n\n## Restart\n\n```sh\ntrue\n```\n";
    let page = Page::parse(page);
    assert_eq!(page.title, "one");
    assert_eq!(page.files().collect::<Vec<_>>(), [("a.conf", "[x]\n\ny\n")]);
    assert_eq!(page.scripts("Attach").len(), 1);
    assert_eq!(page.script("Restart"), "true\n");
    assert_eq!(page.group(), "tcp:127.0.0.1:80");
    assert_eq!(page.other_groups().collect::<Vec<_>>(), ["udp:[::]:80"]);
}
