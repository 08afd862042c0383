//! The kernel's version, the number of CPUs, the page size.

use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;

use thiserror::Error;

/// A kernel version, for comparing: `KernelVersion::new(5, 14, 0)`.
///
/// Distributions backport features, so prefer trying a feature to comparing versions.
///
/// ```
/// use sk_reuseport::util::KernelVersion;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// if KernelVersion::current()? < KernelVersion::new(5, 14, 0) {
///     println!("no migration of connections");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Copy, Clone, Eq, Ord, PartialEq, PartialOrd)]
pub struct KernelVersion {
    major: u8,
    minor: u8,
    patch: u16,
}

/// The kernel's version could not be parsed.
#[derive(Debug, Error)]
#[error("cannot understand the kernel release `{release}`")]
pub struct CurrentKernelVersionError {
    release: String,
}

impl KernelVersion {
    /// A version from its parts.
    pub const fn new(major: u8, minor: u8, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// The version of the running kernel.
    ///
    /// # Errors
    ///
    /// If uname(2) reports a release that does not begin with numbers.
    pub fn current() -> Result<Self, CurrentKernelVersionError> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        Self::parse(&release)
            .ok_or_else(|| CurrentKernelVersionError { release: release.into_owned() })
    }

    /// Whether the running kernel is of at least this version; true if its version is unknown.
    pub fn at_least(major: u8, minor: u8, patch: u16) -> bool {
        Self::current().map_or(true, |current| current >= Self::new(major, minor, patch))
    }

    /// The version as the kernel's `LINUX_VERSION_CODE` has it.
    pub fn code(self) -> u32 {
        (u32::from(self.major) << 16)
            + (u32::from(self.minor) << 8)
            + u32::from(self.patch.min(255))
    }

    fn parse(release: &str) -> Option<Self> {
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u16>().ok());
        let major = u8::try_from(numbers.next()?).ok()?;
        let minor = u8::try_from(numbers.next()?).ok()?;
        // "6.1-rc2" has no patch level: the 2 is part of the suffix.
        let dotted = release.split(['-', '+', ' ']).next()?.split('.').count() > 2;
        let patch = if dotted { numbers.next().unwrap_or(0) } else { 0 };
        Some(Self::new(major, minor, patch))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The number of possible CPUs: per-CPU maps hold a value for each.
///
/// # Errors
///
/// The file that could not be read, and why.
pub fn nr_cpus() -> Result<usize, (&'static str, io::Error)> {
    // A hot-plugged CPU changes "online" and "present", never "possible".
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    static CPUS: OnceLock<usize> = OnceLock::new();
    if let Some(cpus) = CPUS.get() {
        return Ok(*cpus);
    }
    let list = fs::read_to_string(POSSIBLE).map_err(|error| (POSSIBLE, error))?;
    let cpus = parse_cpu_ranges(list.trim())
        .ok_or_else(|| (POSSIBLE, io::Error::other(format!("cannot understand `{list}`"))))?;
    Ok(*CPUS.get_or_init(|| cpus))
}

/// Counts the CPUs of a list such as `0-3,8`.
fn parse_cpu_ranges(list: &str) -> Option<usize> {
    list.split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            last.checked_sub(first).map(|span| span + 1)
        })
        .sum()
}

/// An object's bytes as a constant of the program, aligned to 8 bytes.
///
/// [`Ebpf::load`](crate::Ebpf::load) takes bytes of any alignment, so `include_bytes!` works too.
/// This is here for programs written for aya.
#[macro_export]
macro_rules! include_bytes_aligned {
    ($path:expr $(,)?) => {{
        #[repr(C, align(8))]
        struct Aligned<Bytes: ?Sized>(Bytes);

        static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &OBJECT.0
    }};
}

/// The size of a page of memory, in bytes.
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_as_distributions_write_them() {
        for (release, version) in [
            ("6.18.44-fc-v669", Some((6, 18, 44))),
            ("6.1.0-40-cloud-amd64", Some((6, 1, 0))),
            ("5.15.0-1051-aws", Some((5, 15, 0))),
            ("6.1-rc2", Some((6, 1, 0))),
            ("4.19.300+", Some((4, 19, 300))),
            ("6", None),
            ("", None),
            ("unknown", None),
        ] {
            let expected =
                version.map(|(major, minor, patch)| KernelVersion::new(major, minor, patch));
            assert_eq!(KernelVersion::parse(release), expected, "{release}");
        }
    }

    #[test]
    fn versions_compare_part_by_part() {
        assert!(KernelVersion::new(5, 14, 0) > KernelVersion::new(5, 9, 200));
        assert!(KernelVersion::at_least(4, 19, 0));
        assert_eq!(KernelVersion::new(4, 19, 300).code(), (4 << 16) + (19 << 8) + 255);
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_cpu_ranges("0"), Some(1));
        assert_eq!(parse_cpu_ranges("0-3"), Some(4));
        assert_eq!(parse_cpu_ranges("0-1,4,6-7"), Some(5));
        assert_eq!(parse_cpu_ranges("3-1"), None);
        assert_eq!(parse_cpu_ranges(""), None);
        assert!(nr_cpus().unwrap() >= 1);
    }
}
