//! Writes the archive that a kernel unpacks as its first file system: cpio, "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst). cpio(1) would need the files under
//! their names on the disk, and root for device nodes.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Names are relative to the root, without a leading slash; a directory
/// comes before its contents.
pub(super) struct Archive<W> {
    to: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A file owned by root; `mode` is its permissions, `changed` its time in seconds since 1970.
    pub(super) fn file(
        &mut self,
        name: &str,
        mode: u32,
        changed: u32,
        content: &[u8],
    ) -> io::Result<()> {
        self.timed_entry(name, FILE | mode, changed, (0, 0), content)
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device with its major and minor number.
    pub(super) fn device(&mut self, name: &str, number: (u32, u32)) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, number, &[])
    }

    /// Ends the archive and returns the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        self.timed_entry(name, mode, 0, device, content)
    }

    fn timed_entry(
        &mut self,
        name: &str,
        mode: u32,
        changed: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{name} is larger than cpio allows, 4 GiB")))?;
        let name_size = name.len() as u32 + 1;
        self.inode += 1;
        let links = 1;
        // Inode, mode, uid, gid, links, time, size, device of the file, device number, length of the
        // name with its final zero, checksum (unused in this format).
        let fields =
            [self.inode, mode, 0, 0, links, changed, size, 0, 0, device.0, device.1, name_size, 0];
        let mut head = String::from("070701");
        for field in fields {
            head += &format!("{field:08x}");
        }
        head += name;
        self.padded(head.as_bytes(), 1)?;
        self.padded(content, 0)
    }

    /// Writes `bytes`, then at least `zeros` zeros, up to a multiple of 4.
    fn padded(&mut self, bytes: &[u8], zeros: usize) -> io::Result<()> {
        let length = bytes.len() + zeros;
        let padding = length.next_multiple_of(4) - bytes.len();
        self.to.write_all(bytes)?;
        self.to.write_all(&[0; 4][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_ends_them() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").unwrap();
        archive.device("dev/console", (5, 1)).unwrap();
        archive.file("init", 0o755, 7, b"12345").unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);

        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |n: usize| {
                let hex = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(hex, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&rest[110..110 + name_size - 1]).unwrap().to_owned();
            let start = (110 + name_size).next_multiple_of(4);
            let content = String::from_utf8(rest[start..start + size].to_vec()).unwrap();
            seen.push((name, mode, field(5), (field(9), field(10)), content));
            rest = &rest[(start + size).next_multiple_of(4)..];
        }
        let entry = |name: &str, mode, changed, device, content: &str| {
            (name.to_owned(), mode, changed, device, content.to_owned())
        };
        assert_eq!(
            seen,
            [
                entry("dev", 0o40755, 0, (0, 0), ""),
                entry("dev/console", 0o20600, 0, (5, 1), ""),
                entry("init", 0o100_755, 7, (0, 0), "12345"),
                entry("bin", 0o120_777, 0, (0, 0), "usr/bin"),
                entry(TRAILER, 0, 0, (0, 0), ""),
            ]
        );
    }
}
