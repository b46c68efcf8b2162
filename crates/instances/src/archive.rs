//! Files between host and guest, through `tar` in the guest.
//!
//! What comes from a guest isn't trusted: it is unpacked into a directory of its own, out of which nothing leads, and
//! moved to its place when it is whole.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use crate::agent::ExecRequest;
use crate::client::{Client, Session};
use crate::directory::Directory;
use crate::error::{Context, Error, Result};
use crate::protocol::Frame;

/// Seconds to wait for a guest that is still starting.
const PATIENCE: f64 = 60.0;
/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;

fn session(directory: &Directory, words: &[&str]) -> Result<Session> {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Client::new(directory).exec(ExecRequest { patience: PATIENCE, ..ExecRequest::new(words, []) })
}

/// Waits for a command's end; its standard output goes to `output`. An error says what the command did.
fn finish(directory: &Directory, session: &mut Session, output: &mut dyn Write) -> Result<u8> {
    let broken = |source| Error::Io { action: "copy with", path: directory.name().into(), source };
    let mut complaint = Vec::new();
    let mut ended = None;
    while let Some(frame) = session.receive().map_err(broken)? {
        match frame {
            Frame::Stdout(bytes) => output.write_all(&bytes).map_err(broken)?,
            Frame::Stderr(bytes) if complaint.len() < 4096 => complaint.extend(bytes),
            Frame::Exit(code) => ended = Some(code),
            Frame::Failed(_, reason) => return Err(Error::Refused(format!("tar in the guest: {reason}"))),
            _ => {}
        }
    }
    let complaint = String::from_utf8_lossy(&complaint);
    match (ended, complaint.lines().next()) {
        (Some(code), None) => Ok(code),
        (Some(0), Some(_)) => Ok(0),
        (Some(_), Some(line)) => Err(Error::Refused(format!("the guest says: {line}"))),
        (None, _) => Err(Error::Refused(format!("machine {} has ended", directory.name()))),
    }
}

/// Whether a path in the guest is a directory.
fn is_directory(directory: &Directory, path: &str) -> Result<bool> {
    let mut session = session(directory, &["test", "-d", path])?;
    Ok(finish(directory, &mut session, &mut io::sink())? == 0)
}

/// Folder and name of a path in the guest; `None` as the name where the path ends in `.`, `..` or `/`.
fn split(path: &str) -> (String, Option<String>) {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
    let folder = if folder.is_empty() { "/" } else { folder };
    let is_name = !matches!(name, "" | "." | "..") && trimmed == path;
    (folder.to_owned(), is_name.then(|| name.to_owned()))
}

/// Copies a file or directory into the guest, as docker does: into `to` where that is a directory, else as `to`.
/// What is copied belongs to root, or with `keep_owners` to who owns it here.
///
/// # Errors
/// If there is nothing to copy or no place for it; or the machine doesn't run.
pub fn copy_to_guest(directory: &Directory, from: &Path, to: &str, keep_owners: bool) -> Result<()> {
    let metadata = fs::symlink_metadata(from).context("copy", from)?;
    let only_content = from.as_os_str().as_encoded_bytes().ends_with(b"/.");
    let (folder, name) = if is_directory(directory, to)? {
        let name = from.canonicalize().ok().and_then(|path| path.file_name().map(OsStr::to_owned));
        let name = if from.file_name().is_some() && !only_content {
            from.file_name().map(OsStr::to_owned)
        } else {
            name
        };
        (to.to_owned(), if only_content { ".".into() } else { name.unwrap_or_else(|| ".".into()) })
    } else {
        let path = if metadata.is_dir() { to.trim_end_matches('/') } else { to };
        let (folder, name) = split(path);
        let name = name.ok_or_else(|| Error::Refused(format!("{to} isn't a directory in the guest")))?;
        (folder, name.into())
    };
    let mut session = session(directory, &["tar", "-x", "-p", "-f", "-", "-C", &folder])?;
    let sender = session.try_clone().context("copy", from)?;
    let from = from.to_owned();
    let packer = thread::spawn(move || {
        let mut sink = Sink(sender);
        pack(&from, Path::new(&name), keep_owners, io::BufWriter::with_capacity(CHUNK, &mut sink))
            .context("copy", &from)?;
        sink.0.send(&Frame::InputEnd).context("copy", &from)
    });
    let code = finish(directory, &mut session, &mut io::sink());
    session.close();
    let packed = packer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    match code? {
        0 => packed,
        code => Err(Error::Refused(format!("tar in the guest ended with {code}"))),
    }
}

/// Unpacks a tar archive into a directory of the guest. What is unpacked belongs to root, or with `keep_owners` to whom
/// the archive says.
///
/// # Errors
/// If there is no such directory, or it isn't an archive; or the machine doesn't run.
pub fn unpack_to_guest(
    directory: &Directory,
    mut archive: impl Read + Send + 'static,
    to: &str,
    keep_owners: bool,
) -> Result<()> {
    let owners = if keep_owners { "-p" } else { "-po" };
    let mut session = session(directory, &["tar", "-x", owners, "-f", "-", "-C", to])?;
    let sender = session.try_clone().context("copy to", Path::new(to))?;
    // Not waited for: where tar ends early, more input may never come.
    thread::spawn(move || {
        let mut sink = Sink(sender);
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = archive.read(&mut buffer) {
            if sink.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        let _ = sink.0.send(&Frame::InputEnd);
    });
    let code = finish(directory, &mut session, &mut io::sink());
    session.close();
    match code? {
        0 => Ok(()),
        code => Err(Error::Refused(format!("tar in the guest ended with {code}"))),
    }
}

/// Packs a file or directory of the guest into a tar archive, under its name.
///
/// # Errors
/// If there is none; or the machine doesn't run.
pub fn pack_from_guest(directory: &Directory, from: &str, output: &mut dyn Write) -> Result<()> {
    let (folder, word) = match split(if from == "/" { from } else { from.trim_end_matches('/') }) {
        (folder, Some(name)) => (folder, format!("./{name}")),
        _ => (from.to_owned(), ".".into()),
    };
    let mut session = session(directory, &["tar", "-c", "-f", "-", "-C", &folder, &word])?;
    match finish(directory, &mut session, output)? {
        0 => Ok(()),
        _ => Err(Error::Refused(format!("there is no {from} in the guest"))),
    }
}

/// Writes a file or a directory with all that is in it as `name`.
fn pack(from: &Path, name: &Path, keep_owners: bool, output: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(output);
    tar.follow_symlinks(false);
    let mut pending = vec![(from.to_owned(), name.to_owned())];
    while let Some((path, name)) = pending.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        if !keep_owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        if metadata.is_dir() {
            header.set_size(0);
            tar.append_data(&mut header, &name, io::empty())?;
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                pending.push((entry.path(), name.join(entry.file_name())));
            }
        } else if metadata.is_symlink() {
            header.set_size(0);
            tar.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else if metadata.is_file() {
            // What a file that grows meanwhile gains isn't copied.
            let content = File::open(&path)?.take(metadata.len());
            tar.append_data(&mut header, &name, content)?;
        } else {
            log::warn!("{} is neither file nor directory nor link; it isn't copied", path.display());
        }
    }
    tar.into_inner()?.flush()
}

/// Sends what is written as input.
struct Sink(Session);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(CHUNK)];
        self.0.send(&Frame::Input(piece.to_vec()))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies a file or directory out of the guest: into `to` where that is a directory, else as `to`. What is copied
/// belongs to the user.
///
/// # Errors
/// As for [`copy_to_guest`].
pub fn copy_from_guest(directory: &Directory, from: &str, to: &Path) -> Result<()> {
    let copy = CopyOut::new(from, to)?;
    let mut session = session(directory, &["tar", "-c", "-f", "-", "-C", &copy.folder, &copy.word()])?;
    let (reader, writer) = io::pipe().context("copy to", to)?;
    let draft = copy.draft.0.clone();
    let unpacker = thread::spawn(move || unpack(io::BufReader::new(reader), &draft));
    let code = finish(directory, &mut session, &mut { writer });
    let unpacked = unpacker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    match code? {
        0 => unpacked.context("copy to", to)?,
        _ => return Err(Error::Refused(format!("there is no {from} in the guest"))),
    }
    copy.settle()
}

/// What [`copy_from_guest`] does with an archive that the guest's `tar` has made of `from`: for fuzzing.
///
/// # Errors
/// If it isn't an archive, or leads out of where it is unpacked.
pub fn take_archive(archive: impl Read, from: &str, to: &Path) -> Result<()> {
    let copy = CopyOut::new(from, to)?;
    unpack(archive, &copy.draft.0).context("copy to", to)?;
    copy.settle()
}

/// A file or directory of a guest that is to come to the host.
struct CopyOut<'a> {
    /// Where it is in the guest, and its name there.
    folder: String,
    name: String,
    only_content: bool,
    to: &'a Path,
    draft: Draft,
}

impl<'a> CopyOut<'a> {
    fn new(from: &str, to: &'a Path) -> Result<Self> {
        let only_content = from.ends_with("/.");
        let path = if only_content { from.trim_end_matches("/.") } else { from.trim_end_matches('/') };
        let (folder, name) = split(if path.is_empty() { "/" } else { path });
        let (folder, name) = match name {
            Some(name) => (folder, name),
            None => (from.to_owned(), ".".into()),
        };
        let parent = match to.parent() {
            _ if to.is_dir() => to,
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self { folder, name, only_content, to, draft: Draft::new(parent)? })
    }

    /// What the guest's `tar` is to pack.
    fn word(&self) -> String {
        if self.name == "." { self.name.clone() } else { format!("./{}", self.name) }
    }

    /// Moves what was unpacked to its place.
    fn settle(self) -> Result<()> {
        let source = self.draft.0.join(&self.name);
        fs::symlink_metadata(&source).context("copy", &source)?;
        // A link is followed where the user has written it, and nowhere else: an earlier copy may have brought it.
        let target = match self.to.is_dir() {
            true if !self.only_content && self.name != "." => self.to.join(&self.name),
            true => self.to.canonicalize().context("copy to", self.to)?,
            false => self.to.to_owned(),
        };
        merge(&source, &target)
    }
}

/// Unpacks an archive into a directory that nothing else is in, and out of which nothing in the archive leads.
fn unpack(archive: impl Read, into: &Path) -> io::Result<()> {
    /// Bytes that may stand before an entry's content: headers, and the long names in them.
    const HEADERS: u64 = 1 << 20;
    let left = Cell::new(HEADERS);
    let mut archive = tar::Archive::new(Bounded { reader: archive, left: &left });
    archive.set_overwrite(false);
    let result = (|| {
        let leads_out = || io::Error::other("the guest's archive leads out of where it is unpacked");
        let mut directories = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            left.set(u64::MAX);
            if entry.header().entry_type().is_dir() {
                // Last: they may be read-only.
                directories.push(entry);
            } else if !entry.unpack_in(into)? {
                return Err(leads_out());
            }
            left.set(HEADERS);
        }
        // What is inside comes before what it is in.
        directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
        for mut directory in directories {
            if !directory.unpack_in(into)? {
                return Err(leads_out());
            }
        }
        Ok(())
    })();
    // The end of an archive is followed by zeros that somebody has to take.
    left.set(u64::MAX);
    let _ = io::copy(&mut archive.into_inner(), &mut io::sink());
    result
}

/// A reader that fails where more is read than is left.
struct Bounded<'a, R> {
    reader: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("the guest's archive has a header that doesn't end"));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = self.reader.read(&mut buffer[..most])?;
        self.left.set(left - length as u64);
        Ok(length)
    }
}

/// A directory beside the place where something is to be. Dropping it removes it.
struct Draft(PathBuf);

impl Draft {
    fn new(parent: &Path) -> Result<Self> {
        for number in 0.. {
            let path = parent.join(format!(".rvisor-cp-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path)).context("copy to", parent),
            }
        }
        unreachable!("the numbers don't end")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Moves a file or directory to its place; what is in a directory that exists stays unless something takes its place.
/// Links are never followed.
fn merge(from: &Path, to: &Path) -> Result<()> {
    let kind = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.file_type());
    let is_directory = kind(from).context("copy", from)?.is_dir();
    match kind(to) {
        Ok(there) if is_directory && there.is_dir() => {
            for entry in fs::read_dir(from).context("copy", from)? {
                let entry = entry.context("copy", from)?;
                merge(&entry.path(), &to.join(entry.file_name()))?;
            }
            Ok(())
        }
        Ok(there) if is_directory => {
            let what = if there.is_symlink() { "link" } else { "file" };
            let text = format!("{} is a {what}; a directory can't take its place", to.display());
            Err(Error::Refused(text))
        }
        _ => fs::rename(from, to).context("copy to", to),
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;

    #[test]
    fn paths_in_the_guest_are_taken_apart() {
        assert_eq!(split("/etc/hosts"), ("/etc".into(), Some("hosts".into())));
        assert_eq!(split("/etc"), ("/".into(), Some("etc".into())));
        assert_eq!(split("file"), (".".into(), Some("file".into())));
        assert_eq!(split("/etc/").1, None);
        assert_eq!(split("/").1, None);
        assert_eq!(split("/a/..").1, None);
    }

    #[test]
    fn packed_tree_comes_out_as_it_was_and_merges() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "new").unwrap();
        std::os::unix::fs::symlink("file", from.join("sub/link")).unwrap();
        let mut bytes = Vec::new();
        pack(&from, Path::new("x"), false, &mut bytes).unwrap();
        let draft = Draft::new(directory.path()).unwrap();
        tar::Archive::new(bytes.as_slice()).unpack(&draft.0).unwrap();
        fs::create_dir_all(to.join("sub")).unwrap();
        fs::write(to.join("sub/file"), "old").unwrap();
        fs::write(to.join("sub/other"), "stays").unwrap();
        merge(&draft.0.join("x"), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/link")).unwrap(), "new");
        assert_eq!(fs::read_to_string(to.join("sub/other")).unwrap(), "stays");
        let path = draft.0.clone();
        drop(draft);
        assert!(!path.exists());
    }

    /// An archive of such entries: kind, name, link or content.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (kind, name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            // As it is: the crate would refuse what leads out.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let is_file = *kind == EntryType::Regular;
            if !is_file {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            let content = if is_file { text.as_bytes() } else { b"" };
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn second_copy_does_not_follow_a_link_that_the_first_has_brought() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, to) = (directory.path().join("outside"), directory.path().join("to"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&to).unwrap();
        let link = outside.to_str().unwrap();
        let first = archive(&[
            (EntryType::Directory, "./x", ""),
            (EntryType::Symlink, "./x/sub", link),
            (EntryType::Symlink, "./y", link),
        ]);
        take_archive(first.as_slice(), "/x", &to).unwrap();
        take_archive(first.as_slice(), "/y", &to).unwrap();
        let second = archive(&[
            (EntryType::Directory, "./x", ""),
            (EntryType::Directory, "./x/sub", ""),
            (EntryType::Regular, "./x/sub/file", "bad"),
            (EntryType::Directory, "./y", ""),
            (EntryType::Regular, "./y/file", "bad"),
        ]);
        for from in ["/x", "/y"] {
            let error = take_archive(second.as_slice(), from, &to).unwrap_err().to_string();
            assert!(error.contains("is a link; a directory can't take its place"), "{error}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // One that the user names is followed.
        let named = directory.path().join("named");
        std::os::unix::fs::symlink(&outside, &named).unwrap();
        take_archive(second.as_slice(), "/y/.", &named).unwrap();
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "bad");
    }

    #[test]
    fn archive_that_leads_out_or_has_an_endless_name_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("to");
        fs::create_dir(&to).unwrap();
        let mut endless = tar::Header::new_gnu();
        endless.set_entry_type(EntryType::GNULongName);
        endless.set_size(1 << 40);
        endless.set_cksum();
        let endless = endless.as_bytes().chain(io::repeat(b'x').take(2 << 20));
        let error = take_archive(endless, "/x", &to).unwrap_err().to_string();
        assert!(error.contains("a header that doesn't end"), "{error}");
        let out = archive(&[(EntryType::Regular, "../x", "bad")]);
        let error = take_archive(out.as_slice(), "/x", &to).unwrap_err().to_string();
        assert!(error.contains("leads out"), "{error}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
