//! Reading TOML: each error names its line, and an unknown key the known one that is most like it.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use reuseport::group::misspelt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// A byte of it.
    at: usize,
    text: String,
}

impl Problem {
    pub(crate) fn new(at: &Range<usize>, text: impl Into<String>) -> Self {
        Self { at: at.start, text: text.into() }
    }

    /// With the number of its line in `file`.
    pub(crate) fn in_file(&self, file: &str) -> String {
        let before = file.get(..self.at).unwrap_or(file);
        format!("line {}: {}", before.matches('\n').count() + 1, self.text)
    }
}

type Result<T> = std::result::Result<T, Problem>;

/// A table of which keys are taken one after the other.
pub(crate) struct Table<'a> {
    /// What it is, for errors.
    name: String,
    table: DeTable<'a>,
    known: Vec<&'static str>,
}

/// A value with its key, for errors.
pub(crate) struct Value<'a> {
    key: String,
    value: Spanned<DeValue<'a>>,
}

/// Parses a file.
pub(crate) fn parse(text: &str) -> Result<Table<'_>> {
    let parsed = DeTable::parse(text).map_err(|error| {
        let lines: Vec<&str> = error.message().lines().collect();
        Problem::new(&error.span().unwrap_or_default(), lines.join("; "))
    })?;
    Ok(Table { name: "the file".to_owned(), table: parsed.into_inner(), known: Vec::new() })
}

impl<'a> Table<'a> {
    /// The value of a key; `None` if it is not there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        Some(Value { key: key.to_owned(), value })
    }

    /// A value that its type parses from a string.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>> {
        self.take(key).map(|value| value.parsed()).transpose()
    }

    /// All keys with their values, in the order of the file.
    pub(crate) fn entries(mut self) -> Vec<(Spanned<String>, Value<'a>)> {
        let taken = std::mem::take(&mut self.table).into_iter();
        let entry = |(key, value): (Spanned<std::borrow::Cow<'a, str>>, Spanned<DeValue<'a>>)| {
            let span = key.span();
            let key = key.into_inner().into_owned();
            (Spanned::new(span, key.clone()), Value { key, value })
        };
        let mut entries: Vec<_> = taken.map(entry).collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    /// Fails if there are keys that were not taken.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { name, table, known } = self;
        let Some(key) = table.keys().min_by_key(|key| key.span().start) else { return Ok(()) };
        let given = key.get_ref();
        let similar = known.iter().filter_map(|known| Some((misspelt(given, known)?, *known)));
        let meant = match similar.min() {
            Some((_, nearest)) => format!("did you mean `{nearest}`?"),
            None => format!("known are {}", known.join(", ")),
        };
        Err(Problem::new(&key.span(), format!("{name} has no key `{}`; {meant}", safe(given))))
    }
}

impl<'a> Value<'a> {
    pub(super) fn wrong(&self, expected: &str) -> Problem {
        let found = self.value.get_ref().type_str();
        Problem::new(&self.value.span(), format!("`{}` is {found}, not {expected}", self.key))
    }

    pub(crate) fn text(&self) -> Result<&str> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self) -> Result<T> {
        self.text()?.parse().map_err(|error: T::Err| {
            Problem::new(&self.value.span(), format!("`{}`: {error}", self.key))
        })
    }

    pub(crate) fn flag(&self) -> Result<bool> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A number, or a string, as its type parses it.
    pub(crate) fn number<T: FromStr<Err: Display>>(&self) -> Result<T> {
        let text = match self.value.get_ref() {
            DeValue::Integer(number) => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return Err(self.wrong("a number")),
        };
        text.parse().map_err(|error: T::Err| {
            Problem::new(&self.value.span(), format!("`{}`: {error}", self.key))
        })
    }

    pub(crate) fn list<T: FromStr<Err: Display>>(self) -> Result<Vec<T>> {
        if !self.value.get_ref().is_array() {
            return Err(self.wrong("a list of strings"));
        }
        let DeValue::Array(values) = self.value.into_inner() else { return Ok(Vec::new()) };
        let value = |value| Value { key: self.key.clone(), value };
        values.into_iter().map(|each| value(each).parsed()).collect()
    }

    /// The table that it is; `name` is what it is called in errors.
    pub(crate) fn table(self, name: String) -> Result<Table<'a>> {
        if !self.value.get_ref().is_table() {
            return Err(self.wrong("a table"));
        }
        let DeValue::Table(table) = self.value.into_inner() else {
            return Ok(Table { name, table: DeTable::new(), known: Vec::new() });
        };
        Ok(Table { name, table, known: Vec::new() })
    }

    pub(crate) fn span(&self) -> Range<usize> {
        self.value.span()
    }
}

fn safe(text: &str) -> String {
    text.escape_debug().to_string()
}
