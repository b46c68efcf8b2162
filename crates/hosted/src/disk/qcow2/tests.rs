use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::disk::{DiskOptions, create_empty};
use crate::pool::block_file_size_signal;

const CLUSTER: u64 = 65536;
const SIZE: u64 = 64 * CLUSTER;

/// A raw base full of `0xba` and an overlay on it.
struct Bench {
    directory: tempfile::TempDir,
    overlay: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        fs::write(&base, vec![0xba; SIZE as usize]).unwrap();
        let overlay = directory.path().join("overlay");
        create_overlay(&overlay, &base, Some(Format::Raw)).unwrap();
        Self { directory, overlay }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self) -> Arc<dyn Image> {
        open_disk(&self.overlay)
    }
}

fn open_disk(path: &Path) -> Arc<dyn Image> {
    DiskOptions::new(path).open().unwrap_or_else(|error| panic!("{error}"))
}

fn error_of(path: &Path) -> String {
    DiskOptions::new(path).open().err().expect("the disk opened").to_string()
}

fn sector(image: &dyn Image, offset: u64) -> u8 {
    let mut buffer = [0; 512];
    image.read_at(offset, &mut buffer).unwrap();
    assert!(buffer.iter().all(|byte| *byte == buffer[0]), "sector at {offset} is mixed");
    buffer[0]
}

#[test]
fn overlay_shows_its_base_and_keeps_changes_to_itself() {
    let bench = Bench::new();
    {
        let image = bench.open();
        assert_eq!(image.size(), SIZE);
        assert_eq!(sector(&*image, SIZE - 512), 0xba);
        image.write_at(CLUSTER - 512, &[0x11; 1024]).unwrap();
        image.write_zeroes(3 * CLUSTER..5 * CLUSTER, false).unwrap();
        image.write_zeroes(6 * CLUSTER + 512..8 * CLUSTER, true).unwrap();
        image.flush().unwrap();
    }
    let image = bench.open();
    assert_eq!(sector(&*image, CLUSTER - 1024), 0xba);
    assert_eq!((sector(&*image, CLUSTER - 512), sector(&*image, CLUSTER)), (0x11, 0x11));
    assert_eq!(sector(&*image, CLUSTER + 512), 0xba);
    assert_eq!((sector(&*image, 3 * CLUSTER), sector(&*image, 5 * CLUSTER - 512)), (0, 0));
    assert_eq!((sector(&*image, 6 * CLUSTER), sector(&*image, 6 * CLUSTER + 512)), (0xba, 0));
    assert!(fs::read(bench.path("base")).unwrap().iter().all(|byte| *byte == 0xba));
}

#[test]
fn overlay_of_overlay_and_of_qcow2_base_read_through() {
    let bench = Bench::new();
    bench.open().write_at(0, &[0x22; 512]).unwrap();
    let second = bench.path("second");
    create_overlay(&second, &bench.overlay, None).unwrap();
    let image = open_disk(&second);
    assert_eq!((sector(&*image, 0), sector(&*image, 512)), (0x22, 0xba));
    // The layers behind are in use: they can be shared, not written.
    assert!(error_of(&bench.overlay).contains("in use"));
    let third = bench.path("third");
    create_overlay(&third, &bench.overlay, Some(Format::Qcow2)).unwrap();
    assert_eq!(sector(&*open_disk(&third), 0), 0x22);
}

#[test]
fn discarded_space_is_given_back() {
    let bench = Bench::new();
    let image = bench.open();
    image.write_at(0, &vec![0x33; 32 * CLUSTER as usize]).unwrap();
    image.flush().unwrap();
    let before = fs::metadata(&bench.overlay).unwrap().blocks();
    image.discard(0..32 * CLUSTER).unwrap();
    image.flush().unwrap();
    assert!(fs::metadata(&bench.overlay).unwrap().blocks() < before / 2);
    assert_eq!(sector(&*image, 32 * CLUSTER), 0xba);
}

#[test]
fn several_threads_write_and_read() {
    let bench = Bench::new();
    let image = bench.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let image = &image;
            scope.spawn(move || {
                for round in 0..64 {
                    let offset = (round * 4 + thread) * (CLUSTER / 4);
                    image.write_at(offset, &[thread as u8 + 1; 8192]).unwrap();
                    assert_eq!(sector(&**image, offset + 7680), thread as u8 + 1);
                    if round % 16 == 0 {
                        image.flush().unwrap();
                    }
                }
            });
        }
    });
    for step in 0..256 {
        assert_eq!(sector(&*image, step * CLUSTER / 4), (step % 4) as u8 + 1);
        assert_eq!(sector(&*image, step * CLUSTER / 4 + 8192), 0xba);
    }
}

/// What a sector may hold: what the last flush made durable, or anything written since.
struct Expected {
    durable: Vec<u8>,
    since: Vec<Vec<u8>>,
}

impl Expected {
    fn new() -> Self {
        let sectors = (SIZE / 512) as usize;
        Self { durable: vec![0xba; sectors], since: vec![Vec::new(); sectors] }
    }

    fn wrote(&mut self, offset: u64, length: u64, value: u8) {
        for sector in offset / 512..(offset + length) / 512 {
            self.since[sector as usize].push(value);
        }
    }

    fn flushed(&mut self) {
        for (durable, since) in self.durable.iter_mut().zip(&mut self.since) {
            *durable = since.last().copied().unwrap_or(*durable);
            since.clear();
        }
    }

    fn check(&self, image: &dyn Image) {
        for (i, (durable, since)) in self.durable.iter().zip(&self.since).enumerate() {
            let found = sector(image, i as u64 * 512);
            assert!(found == *durable || since.contains(&found), "sector {i} holds {found:#x}");
        }
    }
}

/// The file as it is between two operations is what a killed process leaves behind.
#[test]
fn overlay_copied_between_any_two_operations_keeps_what_was_flushed() {
    let bench = Bench::new();
    let image = bench.open();
    let mut expected = Expected::new();
    let mut random = 12345u64;
    for step in 0..120u64 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let offset = (random >> 33) % (SIZE / 512 - 300) * 512;
        let length = ((random >> 20) % 300 + 1) * 512;
        let value = step as u8 + 1;
        match step % 7 {
            0..=3 => {
                image.write_at(offset, &vec![value; length as usize]).unwrap();
                expected.wrote(offset, length, value);
            }
            4 | 5 => {
                image.write_zeroes(offset..offset + length, step % 4 == 0).unwrap();
                expected.wrote(offset, length, 0);
            }
            _ => {
                image.flush().unwrap();
                expected.flushed();
            }
        }
        let copy = bench.path("copy");
        fs::copy(&bench.overlay, &copy).unwrap();
        expected.check(&*open_disk(&copy));
    }
    // A clean end keeps everything.
    drop(image);
    expected.flushed();
    expected.check(&*bench.open());
}

/// Set in the process that runs under a file size limit: the overlay's path.
const LIMITED: &str = "RVISOR_TEST_LIMITED_OVERLAY";

#[test]
fn full_host_disk_fails_writes_and_spares_what_was_flushed() {
    if let Some(path) = std::env::var_os(LIMITED) {
        return write_until_full(Path::new(&path));
    }
    let bench = Bench::new();
    let name = std::thread::current().name().unwrap().to_owned();
    let limited = Command::new("sh")
        .args(["-c", "ulimit -f 1600 && exec \"$0\" --exact \"$1\" --test-threads 1 >&2"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(LIMITED, &bench.overlay)
        .output()
        .unwrap();
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stderr));
    let image = bench.open();
    assert_eq!((sector(&*image, 0), sector(&*image, CLUSTER - 512)), (0x44, 0x44));
    assert_eq!(sector(&*image, SIZE - 512), 0xba);
}

fn write_until_full(path: &Path) {
    block_file_size_signal();
    let image = open_disk(path);
    image.write_at(0, &[0x44; CLUSTER as usize]).unwrap();
    image.flush().unwrap();
    let mut written = (1..SIZE / CLUSTER).map(|i| image.write_at(i * CLUSTER, &[0x55; CLUSTER as usize]));
    assert!(written.any(|result| result.is_err()));
    assert_eq!(sector(&*image, 0), 0x44);
}

#[test]
fn truncated_file_is_refused() {
    let bench = Bench::new();
    {
        let image = bench.open();
        image.write_at(0, &vec![0x66; 8 * CLUSTER as usize]).unwrap();
        image.flush().unwrap();
    }
    let whole = fs::read(&bench.overlay).unwrap();
    let cut = bench.path("cut");
    for length in [4, 71, 90, 512, 70_000, 3 * CLUSTER as usize, whole.len() - CLUSTER as usize] {
        fs::write(&cut, &whole[..length]).unwrap();
        let error = error_of(&cut);
        assert!(error.contains("truncated"), "{length}: {error}");
    }
    fs::write(&cut, &whole).unwrap();
    open_disk(&cut);
}

#[test]
fn unsupported_features_are_named() {
    let bench = Bench::new();
    let change = |offset: u64, bytes: &[u8]| {
        let path = bench.path("changed");
        fs::copy(&bench.overlay, &path).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(bytes, offset).unwrap();
        error_of(&path)
    };
    assert!(change(4, &[0, 0, 0, 1]).contains("qcow version 1"));
    assert!(change(20, &[0, 0, 0, 40]).contains("cluster size"));
    assert!(change(24, &[0, 0, 0, 0, 0, 0, 0, 1]).contains("multiple of 512"));
    assert!(change(32, &[0, 0, 0, 2]).contains("encrypted"));
    assert!(change(36, &[0, 0, 0, 0]).contains("damaged"));
    assert!(change(40, &[0xff; 8]).contains("damaged"));
    // The header's length, and with it where extensions are looked for.
    assert!(change(100, &[0, 1, 0, 0]).contains("extensions"));
    assert!(change(104, &[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 49]).contains("extensions"));
    assert!(change(72, &[0, 0, 0, 0, 0, 0, 0, 4]).contains("external file"));
    assert!(change(72, &[0x80, 0, 0, 0, 0, 0, 0, 0]).contains("feature 63"));
}

#[test]
fn missing_base_is_refused() {
    let bench = Bench::new();
    fs::remove_file(bench.path("base")).unwrap();
    let error = error_of(&bench.overlay);
    assert!(error.contains("base: no such file"), "{error}");
    let second = bench.path("second");
    assert!(create_overlay(&second, &bench.overlay, None).is_err());
    assert!(!second.exists());
}

#[test]
fn chain_that_bites_its_tail_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    create_empty(&first, Format::Qcow2, SIZE).unwrap();
    create_overlay(&second, &first, None).unwrap();
    fs::remove_file(&first).unwrap();
    fs::copy(&second, &first).unwrap();
    let options = DiskOptions { read_only: true, ..DiskOptions::new(&second) };
    let error = options.open().err().unwrap().to_string();
    assert!(error.contains("backing files behind each other"), "{error}");
}
