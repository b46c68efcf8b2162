#![no_main]
//! Disk images with any metadata: opening them and using them gives data or errors, nothing else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_hosted::disk::{DiskOptions, Format, create_empty};

const CLUSTER: u64 = 65536;
const SIZE: u64 = 64 * CLUSTER;

#[derive(Arbitrary, Debug)]
struct Image {
    start: Option<Vec<u8>>,
    changes: Vec<Change>,
    length: Option<u32>,
    read_only: bool,
    steps: Vec<Step>,
}

/// A field of the metadata that is overwritten.
#[derive(Arbitrary, Debug)]
struct Change {
    place: Place,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Place {
    Header(u8),
    Table { cluster: u8, entry: u8 },
    Anywhere(u32),
}

#[derive(Arbitrary, Debug)]
enum Value {
    Byte(u8),
    Word(u32),
    Entry { cluster: u8, flags: u8, copied: bool },
    Double(u64),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Read(u16, u8),
    Write(u16, u8),
    Flush,
    Discard(u16, u16),
    Zero(u16, u16, bool),
}

impl Change {
    fn apply(&self, file: &File) {
        let offset = match self.place {
            Place::Header(offset) => u64::from(offset),
            Place::Table { cluster, entry } => u64::from(cluster % 8) * CLUSTER + u64::from(entry) * 8,
            Place::Anywhere(offset) => u64::from(offset) % (8 * CLUSTER),
        };
        let bytes = match self.value {
            Value::Byte(byte) => vec![byte],
            Value::Word(word) => word.to_be_bytes().to_vec(),
            Value::Entry { cluster, flags, copied } => {
                let entry = u64::from(cluster) * CLUSTER | u64::from(flags) | u64::from(copied) << 63;
                entry.to_be_bytes().to_vec()
            }
            Value::Double(double) => double.to_be_bytes().to_vec(),
        };
        file.write_all_at(&bytes, offset).expect("a change");
    }
}

fn range(sector: u16, sectors: u16, size: u64) -> Option<std::ops::Range<u64>> {
    let start = u64::from(sector) * 512;
    let end = start + u64::from(sectors) * 512;
    (end <= size).then_some(start..end)
}

/// A disk with some data, so that there is an L2 table.
fn template(path: &Path) -> Vec<u8> {
    let _ = fs::remove_file(path);
    create_empty(path, Format::Qcow2, SIZE).expect("a disk");
    let disk = DiskOptions::new(path).open().expect("a disk");
    disk.write_at(0, &[1; 4096]).expect("a write");
    drop(disk);
    fs::read(path).expect("a file")
}

fn make(path: &Path, image: &Image) {
    static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
    fs::write(path, TEMPLATE.get_or_init(|| template(path))).expect("a file");
    let file = File::options().write(true).open(path).expect("a file");
    if let Some(start) = &image.start {
        file.write_all_at(&start[..start.len().min(512)], 0).expect("a start");
    }
    image.changes.iter().for_each(|change| change.apply(&file));
    if let Some(length) = image.length {
        file.set_len(u64::from(length) % (8 * CLUSTER)).expect("a length");
    }
}

fuzz_target!(|image: Image| {
    let path = PathBuf::from(format!("/dev/shm/rvisor-fuzz-{}", std::process::id()));
    make(&path, &image);
    let options = DiskOptions { read_only: image.read_only, ..DiskOptions::new(&path) };
    let disk = match options.open() {
        Ok(disk) => disk,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    let mut buffer = vec![7; 256 * 512];
    for step in &image.steps {
        let _ = match *step {
            Step::Read(sector, sectors) => match range(sector, sectors.into(), disk.size()) {
                Some(range) => disk.read_at(range.start, &mut buffer[..(range.end - range.start) as usize]),
                None => Ok(()),
            },
            _ if image.read_only => Ok(()),
            Step::Write(sector, sectors) => match range(sector, sectors.into(), disk.size()) {
                Some(range) => disk.write_at(range.start, &buffer[..(range.end - range.start) as usize]),
                None => Ok(()),
            },
            Step::Flush => disk.flush(),
            Step::Discard(sector, sectors) => match range(sector, sectors, disk.size()) {
                Some(range) => disk.discard(range),
                None => Ok(()),
            },
            Step::Zero(sector, sectors, unmap) => match range(sector, sectors, disk.size()) {
                Some(range) => disk.write_zeroes(range, unmap),
                None => Ok(()),
            },
        };
    }
});
