//! Writes initial RAM disks: cpio archives in the "newc" format (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst).

use std::collections::BTreeSet;

/// Kinds of files, as the top bits of a mode (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written. Missing parent directories are added; everything belongs to root.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    next_inode: u32,
}

impl Cpio {
    /// Adds a directory and those above it. `path` has no slash at its start.
    pub fn directory(&mut self, path: &str) {
        if !path.is_empty() && !self.directories.contains(path) {
            self.parents_of(path);
            self.directories.insert(path.to_owned());
            self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
        }
    }

    /// Adds a file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents_of(path);
        self.entry(path, REGULAR | mode, (0, 0), content);
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents_of(path);
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parents_of(path);
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn parents_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.next_inode += 1;
        let links = if mode & DIRECTORY != 0 && mode & REGULAR == 0 { 2 } else { 1 };
        // Inode, mode, user, group, links, time, size, device of the file system, device, name's size, checksum.
        let (size, name_size) = (content.len() as u32, path.len() as u32 + 1);
        let fields = [self.next_inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_the_documented_bytes() {
        let mut cpio = Cpio::default();
        cpio.file("a/b", 0o755, b"hello");
        let expected = concat!(
            "070701000000010000",
            "41ED0000000000000000000000020000000000000000000000000000000000000000000000000000000200000000",
            "a\0",
            "070701000000020000",
            "81ED0000000000000000000000010000000000000005000000000000000000000000000000000000000400000000",
            "a/b\0\0\0hello\0\0\0",
            "0707010000000300000000000000000000000000000001000000000000000000000000000000000000000000000000",
            "0000000B00000000TRAILER!!!\0",
        );
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.trim_end_matches('\0'), expected.trim_end_matches('\0'));
    }

    #[test]
    fn directories_are_added_once_and_before_their_files() {
        let mut cpio = Cpio::default();
        cpio.symlink("bin/sh", "busybox");
        cpio.file("bin/busybox", 0o755, b"");
        cpio.character_device("dev/console", 0o600, 5, 1);
        let text = String::from_utf8(cpio.finish()).unwrap();
        assert_eq!(text.matches("bin\0").count(), 1);
        assert!(text.find("dev\0") < text.find("dev/console\0"));
        assert!(text.contains("00000005000000010000000C00000000dev/console\0"));
    }
}
