//! Finding the programs that tests start.

/// The path of a program: in PATH, or in the directories that Debian omits from the PATH of users.
///
/// # Panics
///
/// If it is not installed: `cargo xtask test` installs the programs that tests need.
pub fn program(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask test` installs it"))
}
