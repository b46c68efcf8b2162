//! A file as a piece of a stream: its name, its size, its pages that aren't zero as the snapshot format has memory, and a
//! checksum over them. Exported machines consist of these; the memory of a snapshot may be one by itself.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rvisor_machine::persist::{MemoryRuns, MemoryWriter};
use rvisor_waist::{PAGE_SIZE, StateError};

use crate::directory::LOCK;
use crate::error::{Context, Error, Result};

/// Longest name.
const LONGEST_NAME: usize = 128;
/// No file is larger: what would be is damage.
const LARGEST: u64 = 1 << 50;
const PAGE: usize = PAGE_SIZE as usize;

/// Makes a durable file `to` with a file that is to be called `name` again.
pub(crate) fn pack(from: &Path, name: &str, to: &Path) -> Result<()> {
    let file = File::open(from).context("open", from)?;
    let packed = File::create_new(to).context("create", to)?;
    let mut output = BufWriter::new(&packed);
    write_file(&file, name, &mut output)
        .and_then(|()| output.flush())
        .and_then(|()| packed.sync_all())
        .context("write", to)
}

/// Makes the file `name` of what [`pack`] has made, in `directory`.
pub(crate) fn unpack(from: &Path, name: &str, directory: &Path) -> Result<()> {
    let mut input = BufReader::new(File::open(from).context("open", from)?);
    match read_file(directory, &mut input) {
        Ok(Some(found)) if found == name => Ok(()),
        Ok(_) => Err(damaged(from, &StateError::Malformed.into())),
        Err(Wrong::Host(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(error).context("unpack", from)
        }
        Err(error) => Err(damaged(from, &error)),
    }
}

/// Checks that a file is what [`pack`] has made, without making anything of it.
pub(crate) fn check(path: &Path) -> Result<()> {
    let mut sum = crc32fast::Hasher::new();
    let mut told = [0; 4];
    let checked = File::open(path).and_then(|file| {
        let length = file.metadata()?.len().saturating_sub(told.len() as u64);
        let mut input = BufReader::new(&file);
        let mut rest = (&mut input).take(length);
        loop {
            let bytes = rest.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            sum.update(bytes);
            let count = bytes.len();
            rest.consume(count);
        }
        input.read_exact(&mut told)
    });
    match checked {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error).context("read", path),
        Ok(()) if sum.finalize() == u32::from_le_bytes(told) => Ok(()),
        _ => Err(damaged(path, &StateError::Malformed.into())),
    }
}

/// The pages of what [`pack`] has made, as runs.
pub(crate) fn runs(from: &Path, name: &str) -> Result<Vec<u8>> {
    let bytes = fs::read(from).context("read", from)?;
    let runs = bytes.split_last_chunk::<4>().and_then(|(bytes, sum)| {
        let is_sound = crc32fast::hash(bytes) == u32::from_le_bytes(*sum);
        let rest = bytes.strip_prefix(&(name.len() as u16).to_le_bytes())?.strip_prefix(name.as_bytes())?;
        rest.get(8..).filter(|_| is_sound)
    });
    runs.map(<[u8]>::to_vec).ok_or_else(|| damaged(from, &StateError::Malformed.into()))
}

fn damaged(path: &Path, error: &Wrong) -> Error {
    Error::Refused(format!("{} is damaged: {error}", path.display()))
}

/// Writes a file and its name.
pub(crate) fn write_file(file: &File, name: &str, output: &mut dyn Write) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut sum = crc32fast::Hasher::new();
    let mut put = |bytes: &[u8]| {
        sum.update(bytes);
        output.write_all(bytes)
    };
    put(&(name.len() as u16).to_le_bytes())?;
    put(name.as_bytes())?;
    put(&size.to_le_bytes())?;
    write_pages(file, size, &mut put)?;
    output.write_all(&sum.finalize().to_le_bytes())
}

/// Writes a file's pages that aren't zero as runs.
pub(crate) fn write_pages(
    file: &File,
    size: u64,
    put: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut runs = MemoryWriter::new(true, put);
    let mut offset = 0;
    while let Ok(start) = seek(file, SeekFrom::Data(offset)) {
        let mut page = start / PAGE_SIZE;
        let end = seek(file, SeekFrom::Hole(start))?;
        while page * PAGE_SIZE < end {
            let mut bytes = [0; PAGE];
            let length = (size - page * PAGE_SIZE).min(PAGE_SIZE) as usize;
            file.read_exact_at(&mut bytes[..length], page * PAGE_SIZE)?;
            runs.page(page, &bytes)?;
            page += 1;
        }
        offset = page * PAGE_SIZE;
        if offset >= size {
            break;
        }
    }
    runs.finish()
}

/// An error of the file that is being read.
pub(crate) enum Wrong {
    Host(io::Error),
    State(StateError),
}

impl From<StateError> for Wrong {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("it ends too early")
            }
            Self::Host(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
        }
    }
}

/// Reads one file into a directory; `None` at the end.
pub(crate) fn read_file(directory: &Path, input: &mut dyn Read) -> Result<Option<String>, Wrong> {
    let mut sum = crc32fast::Hasher::new();
    let mut get = |buffer: &mut [u8]| -> Result<(), Wrong> {
        input.read_exact(buffer)?;
        sum.update(buffer);
        Ok(())
    };
    let mut length = [0; 2];
    get(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length == 0 {
        return Ok(None);
    }
    if length > LONGEST_NAME {
        return Err(StateError::Malformed.into());
    }
    let (mut name, mut size) = (vec![0; length], [0; 8]);
    get(&mut name)?;
    get(&mut size)?;
    let size = u64::from_le_bytes(size);
    // Nothing that leads out of the directory.
    let is_harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let name = String::from_utf8(name).ok().filter(|name| name.bytes().all(|byte| is_harmless(&byte)));
    let name = name
        .filter(|name| !name.starts_with('.') && name != LOCK && size <= LARGEST)
        .ok_or(StateError::Malformed)?;
    let file = File::options().write(true).create_new(true).open(directory.join(&name))?;
    file.set_len(size)?;
    let mut runs = MemoryRuns::new(size.div_ceil(PAGE_SIZE), &mut get);
    while let Some(run) = runs.next_run()? {
        let offset = run.first * PAGE_SIZE;
        let length = (size - offset).min(run.bytes.len() as u64) as usize;
        file.write_all_at(&run.bytes[..length], offset)?;
    }
    let mut told = [0; 4];
    input.read_exact(&mut told)?;
    if u32::from_le_bytes(told) != sum.finalize() {
        return Err(StateError::Malformed.into());
    }
    file.sync_all()?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_comes_back_as_it_was_and_damage_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut content = vec![0; 3 << 20];
        content[1 << 20..][..5000].fill(7);
        content.extend(b"end");
        fs::write(at("memory"), &content).unwrap();
        pack(&at("memory"), "memory", &at("packed")).unwrap();
        assert!(fs::metadata(at("packed")).unwrap().len() < 10_000);
        let to = at("to");
        fs::create_dir(&to).unwrap();
        unpack(&at("packed"), "memory", &to).unwrap();
        assert!(fs::read(to.join("memory")).unwrap() == content);
        let mut stream = &runs(&at("packed"), "memory").unwrap()[..];
        let mut read =
            MemoryRuns::new(1 << 20, |buffer: &mut [u8]| Ok::<_, Wrong>(stream.read_exact(buffer)?));
        let run = |read: &mut MemoryRuns<_>| read.next_run().ok().flatten().map(|run| run.first);
        assert_eq!([run(&mut read), run(&mut read), run(&mut read)], [Some(256), Some(768), None]);

        check(&at("packed")).unwrap();
        assert!(check(&at("to")).is_err() && check(&at("nothing")).is_err());
        let bytes = fs::read(at("packed")).unwrap();
        for (number, wrong) in
            [&bytes[..bytes.len() - 1], &[&bytes[..60], &[!bytes[60]], &bytes[61..]].concat()]
                .into_iter()
                .enumerate()
        {
            let (path, to) = (at(&format!("wrong-{number}")), at(&format!("to-{number}")));
            fs::create_dir(&to).unwrap();
            fs::write(&path, wrong).unwrap();
            assert!(unpack(&path, "memory", &to).unwrap_err().to_string().contains("damaged"));
            assert!(runs(&path, "memory").is_err());
            assert!(check(&path).unwrap_err().to_string().contains("damaged"));
        }
        assert!(unpack(&at("packed"), "state", &at("")).is_err(), "it is another file");
    }
}
