//! What a machine has said: records of its console and its command's streams, in a file of bounded size.
//!
//! A record is its source (a byte), milliseconds since 1970 (64 bits), its length (32 bits), all little-endian, and
//! its bytes. A process that was killed may have left the last one half; it is cut off when the machine is started
//! again.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Context, Result};

/// Bytes in a file before it is put aside, in place of the one that was put aside before.
const LIMIT: u64 = 8 << 20;
const HEADER: usize = 13;
/// Longest record that is read.
const LONGEST: usize = 1 << 20;

/// Who said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The serial console.
    Console = 0,
    /// The command, on standard output.
    Stdout = 1,
    /// The command, on standard error.
    Stderr = 2,
}

/// One piece of what was said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Who said it.
    pub source: Source,
    /// When: milliseconds since 1970.
    pub time: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// The log of a machine that runs.
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    failed: bool,
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("old")
}

impl LogWriter {
    /// Goes on with the log in a file, or starts it.
    pub fn open(path: PathBuf) -> Result<Self> {
        let size = whole_records(&path).context("read", &path)?;
        let options = File::options().create(true).append(true).clone();
        let file = options.open(&path).context("open", &path)?;
        file.set_len(size).context("write", &path)?;
        Ok(Self { path, file, size, failed: false })
    }

    /// Adds a record. A host that has no room for it loses it, and is told once.
    pub fn write(&mut self, source: Source, bytes: &[u8]) {
        if let Err(error) = self.try_write(source, bytes)
            && !std::mem::replace(&mut self.failed, true)
        {
            log::warn!("the machine's log can't be written: {error} (further errors are not logged)");
        }
    }

    fn try_write(&mut self, source: Source, bytes: &[u8]) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        for bytes in bytes.chunks(LONGEST) {
            if self.size >= LIMIT {
                fs::rename(&self.path, older(&self.path))?;
                self.file = File::options().create(true).append(true).open(&self.path)?;
                self.size = 0;
            }
            let mut record = vec![source as u8];
            record.extend(time.to_le_bytes());
            record.extend((bytes.len() as u32).to_le_bytes());
            record.extend(bytes);
            if let Err(error) = self.file.write_all(&record) {
                // What was written of it must not be taken for the next one's beginning.
                let _ = self.file.set_len(self.size);
                return Err(error);
            }
            self.size += record.len() as u64;
        }
        Ok(())
    }
}

/// Bytes of the whole records at the start of a file.
fn whole_records(path: &Path) -> io::Result<u64> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut reader = BufReader::new(file);
    let mut size = 0;
    while let Some(record) = read_record(&mut reader)? {
        size += (HEADER + record.bytes.len()) as u64;
    }
    Ok(size)
}

/// The next record; `None` where there is no whole one.
fn read_record(reader: &mut impl Read) -> io::Result<Option<Record>> {
    let mut header = [0; HEADER];
    if !fill(reader, &mut header)? {
        return Ok(None);
    }
    let (time, length) = (&header[1..9], &header[9..]);
    let source = match header[0] {
        0 => Source::Console,
        1 => Source::Stdout,
        2 => Source::Stderr,
        _ => return Ok(None),
    };
    let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
    let time = u64::from_le_bytes(time.try_into().unwrap_or_default());
    let mut bytes = vec![0; length.min(LONGEST)];
    let is_whole = length <= LONGEST && fill(reader, &mut bytes)?;
    Ok(is_whole.then_some(Record { source, time, bytes }))
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

/// Reads a machine's log, while it grows too.
pub struct LogReader {
    path: PathBuf,
    file: Option<File>,
    /// Where the next record begins.
    position: u64,
}

impl LogReader {
    /// The log of a machine from its beginning, as far as it is kept.
    #[must_use]
    pub fn new(directory: &crate::Directory) -> Self {
        Self::at(directory.log())
    }

    fn at(path: PathBuf) -> Self {
        let file = File::open(older(&path)).ok();
        Self { path, file, position: 0 }
    }

    /// The next record, if there is one by now.
    pub fn next_record(&mut self) -> Option<Record> {
        loop {
            if self.file.is_none() {
                self.file = File::open(&self.path).ok();
                self.position = 0;
            }
            let file = self.file.as_ref()?;
            if let Ok(Some(record)) = read_record(&mut At(file, self.position)) {
                self.position += (HEADER + record.bytes.len()) as u64;
                return Some(record);
            }
            // At the end. If it is the newest file, that is all there is.
            let is_newest = is_same(file, &self.path);
            if is_newest {
                return None;
            }
            self.file = None;
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => ours.ino() == theirs.ino(),
        // There is no newer one.
        (_, theirs) => theirs.is_err(),
    }
}

/// A file from a position on.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let length = self.0.read_at(buffer, self.1)?;
        self.1 += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> Vec<(Source, Vec<u8>)> {
        let mut reader = LogReader::at(path.to_owned());
        std::iter::from_fn(|| reader.next_record()).map(|record| (record.source, record.bytes)).collect()
    }

    #[test]
    fn records_are_read_back_and_half_ones_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LogWriter::open(path.clone()).unwrap();
        log.write(Source::Console, b"boot");
        log.write(Source::Stderr, b"oops");
        drop(log);
        let size = fs::metadata(&path).unwrap().len();
        File::options().append(true).open(&path).unwrap().write_all(b"\x01half").unwrap();
        assert_eq!(records(&path).len(), 2);
        let mut log = LogWriter::open(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        log.write(Source::Stdout, b"again");
        let expected =
            [(Source::Console, &b"boot"[..]), (Source::Stderr, b"oops"), (Source::Stdout, b"again")];
        assert_eq!(records(&path), expected.map(|(source, bytes)| (source, bytes.to_vec())));
    }

    #[test]
    fn long_log_forgets_its_beginning_and_a_reader_follows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LogWriter::open(path.clone()).unwrap();
        let mut reader = LogReader::at(path.clone());
        let piece = vec![b'x'; 1 << 20];
        let mut seen = 0;
        for _ in 0..12 {
            log.write(Source::Console, &piece);
            seen += std::iter::from_fn(|| reader.next_record()).count();
        }
        assert_eq!(seen, 12);
        (0..12).for_each(|_| log.write(Source::Console, &piece));
        let kept = fs::metadata(&path).unwrap().len() + fs::metadata(older(&path)).unwrap().len();
        assert!(kept <= 2 * (LIMIT + (1 << 20) + 100), "{kept}");
        assert!(records(&path).len() >= 8);
    }
}
