//! Reads Debian binary packages: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`
//! (deb(5), Debian Policy appendix B).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use crate::error::{Error, IoContext, Result};

const AR_MAGIC: &[u8] = b"!<arch>\n";
const HEADER_SIZE: usize = 60;
/// The largest file of a control archive that is read, in bytes.
const CONTROL_LIMIT: u64 = 16 << 20;
/// Memory that unpacking may take, in KiB: what the strongest preset of xz needs, and some more.
const XZ_MEMORY: u32 = 128 << 10;
const ZSTD_WINDOW: u64 = 128 << 20;

/// A member of an `ar` archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    offset: u64,
    size: u64,
}

/// An open package.
#[derive(Debug)]
pub struct Deb<R> {
    reader: R,
    what: String,
    control: Member,
    data: Member,
}

/// A file of the control archive: the maintainer scripts, `md5sums`, `triggers` and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

impl Deb<BufReader<File>> {
    /// Opens a package's file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).context("read", path)?;
        Self::new(BufReader::new(file), &path.display().to_string())
    }
}

impl<R: Read + Seek> Deb<R> {
    /// Opens a package called `what` in errors.
    pub fn new(mut reader: R, what: &str) -> Result<Self> {
        let members = members(&mut reader).map_err(|error| Error::malformed(what, error))?;
        let find = |prefix: &str| {
            let member = members.iter().find(|member| member.name.starts_with(prefix)).cloned();
            member.ok_or_else(|| Error::malformed(what, format!("it has no {prefix}*: not a Debian package")))
        };
        let (control, data) = (find("control.tar")?, find("data.tar")?);
        Ok(Self { reader, what: what.to_owned(), control, data })
    }

    /// The files of the control archive by name.
    pub fn control(&mut self) -> Result<BTreeMap<String, ControlFile>> {
        let what = self.what.clone();
        let member = self.control.clone();
        let mut read = || {
            let mut files = BTreeMap::new();
            for entry in tar::Archive::new(self.member(&member)?).entries()? {
                let mut entry = entry?;
                let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
                if entry.header().entry_type().is_file() && !name.contains('/') {
                    let mode = entry.header().mode()? & 0o777;
                    let mut content = Vec::new();
                    entry.by_ref().take(CONTROL_LIMIT).read_to_end(&mut content)?;
                    files.insert(name, ControlFile { mode, content });
                }
            }
            Ok::<_, io::Error>(files)
        };
        read().map_err(|error| Error::malformed(what, error))
    }

    /// The files of the package.
    pub fn data(&mut self) -> Result<tar::Archive<Box<dyn Read + '_>>> {
        let (what, member) = (self.what.clone(), self.data.clone());
        Ok(tar::Archive::new(self.member(&member).map_err(|error| Error::malformed(what, error))?))
    }

    fn member(&mut self, member: &Member) -> io::Result<Box<dyn Read + '_>> {
        self.reader.seek(SeekFrom::Start(member.offset))?;
        let raw = (&mut self.reader).take(member.size);
        Ok(match member.name.rsplit_once('.').map_or("", |(_, extension)| extension) {
            "tar" => Box::new(raw),
            "gz" => Box::new(GzDecoder::new(raw)),
            "xz" => Box::new(XzReader::new_mem_limit(raw, true, XZ_MEMORY)),
            "zst" => {
                let decoder = StreamingDecoder::new_with_max_window_size(raw, ZSTD_WINDOW);
                Box::new(decoder.map_err(io::Error::other)?)
            }
            _ => return Err(io::Error::other(format!("{} is compressed in an unknown way", member.name))),
        })
    }
}

/// Reads the table of contents of an `ar` archive.
fn members(reader: &mut (impl Read + Seek)) -> io::Result<Vec<Member>> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    let end = reader.seek(SeekFrom::End(0))?;
    reader.seek(SeekFrom::Start(0))?;
    let mut magic = [0; AR_MAGIC.len()];
    reader.read_exact(&mut magic)?;
    if magic != AR_MAGIC {
        return Err(bad("it isn't an ar archive"));
    }
    let (mut members, mut offset) = (Vec::new(), AR_MAGIC.len() as u64);
    while offset < end {
        let mut header = [0; HEADER_SIZE];
        reader.read_exact(&mut header)?;
        if header[58..] != *b"`\n" {
            return Err(bad("a member's header is damaged"));
        }
        let field = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim_end);
        let name = field(0..16).map_err(|_| bad("a member's name isn't text"))?.trim_end_matches('/');
        let size: u64 =
            field(48..58).ok().and_then(|size| size.parse().ok()).ok_or_else(|| bad("bad size"))?;
        let start = offset + HEADER_SIZE as u64;
        if start + size > end {
            return Err(bad("it is cut off"));
        }
        members.push(Member { name: name.to_owned(), offset: start, size });
        offset = start + size + size % 2;
        reader.seek(SeekFrom::Start(offset))?;
    }
    Ok(members)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    /// A tar of files: name, mode, content.
    pub(crate) fn tar_of(files: &[(&str, u32, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, mode, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = AR_MAGIC.to_vec();
        for (name, content) in members {
            bytes.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes(),
            );
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        bytes
    }

    fn sample() -> Vec<u8> {
        let control =
            gzip(&tar_of(&[("./control", 0o644, "Package: a\n"), ("./postinst", 0o755, "#!/bin/sh\n")]));
        let data = tar_of(&[("./usr/bin/a", 0o4755, "program")]);
        ar_of(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar", &data)])
    }

    #[test]
    fn control_and_data_are_read() {
        let mut deb = Deb::new(Cursor::new(sample()), "a.deb").unwrap();
        let control = deb.control().unwrap();
        assert_eq!(control["control"].content, b"Package: a\n");
        assert_eq!(control["postinst"].mode, 0o755);
        let mut data = deb.data().unwrap();
        let mut entry = data.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path_bytes().as_ref(), b"usr/bin/a");
        assert_eq!(entry.header().mode().unwrap(), 0o4755);
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        assert_eq!(content, "program");
    }

    #[test]
    fn every_truncation_returns_error() {
        let whole = sample();
        for length in 0..whole.len() {
            let deb = Deb::new(Cursor::new(&whole[..length]), "a.deb");
            assert!(deb.is_err(), "{length} of {} bytes were taken for a package", whole.len());
        }
    }

    #[test]
    fn unknown_compression_and_other_files_return_error() {
        let odd = ar_of(&[("control.tar.br", b"x"), ("data.tar.br", b"x")]);
        assert!(Deb::new(Cursor::new(odd), "odd").unwrap().control().is_err());
        assert!(Deb::new(Cursor::new(b"\x7fELF not a package".to_vec()), "elf").is_err());
    }
}
