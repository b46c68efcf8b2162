use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rvisor_waist::{GuestPhysical, Segment};

use super::*;
use crate::disk::DiskOptions;
use crate::disk::test_memory::{BASE, TestMemory};
use crate::pool::THREADS;

/// A disk with its guest's memory and the home's ear.
struct Bench {
    disk: Disk,
    memory: Arc<TestMemory>,
    woken: Receiver<()>,
    /// Errors that were told.
    told: Arc<Mutex<Vec<String>>>,
    next: u64,
}

impl Bench {
    fn new(image: Arc<dyn Image>) -> Self {
        let memory = Arc::new(TestMemory::new(4 << 20));
        let (sender, woken) = channel();
        let sender = Mutex::new(sender);
        let wake = Arc::new(move || {
            let _ = sender.lock().unwrap().send(());
        });
        let told = Arc::<Mutex<Vec<_>>>::default();
        let failures = Arc::clone(&told);
        let failed = move |error: &io::Error| failures.lock().unwrap().push(error.to_string());
        let disk = Disk::new(image, "test".into(), Arc::clone(&memory), wake, failed).unwrap();
        Self { disk, memory, woken, told, next: 0 }
    }

    fn on_file(path: &Path, bytes: u64) -> Self {
        File::create(path).unwrap().set_len(bytes).unwrap();
        Self::new(DiskOptions::new(path).open().unwrap())
    }

    fn submit(&mut self, operation: BlockOperation) -> u64 {
        self.next += 1;
        self.disk.submit(BlockRequest { id: self.next, operation });
        self.next
    }

    fn run(&mut self, operation: BlockOperation) -> Result<(), BlockError> {
        let id = self.submit(operation);
        loop {
            if let Some(completion) = self.disk.complete() {
                assert_eq!(completion.id, id);
                return completion.result;
            }
            self.woken.recv_timeout(Duration::from_secs(100)).expect("no completion");
        }
    }
}

fn segments(pieces: &[(u64, u32)]) -> Vec<Segment> {
    pieces.iter().map(|&(at, length)| Segment { address: GuestPhysical(BASE + at), length }).collect()
}

fn write(sector: u64, pieces: &[(u64, u32)]) -> BlockOperation {
    BlockOperation::Write { sector, segments: segments(pieces) }
}

fn read(sector: u64, pieces: &[(u64, u32)]) -> BlockOperation {
    BlockOperation::Read { sector, segments: segments(pieces) }
}

#[test]
fn scattered_write_reads_back_gathered() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::on_file(&directory.path().join("d"), 2 << 20);
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i * 7 / 3) as u8).collect();
    bench.memory.write(GuestPhysical(BASE), &data).unwrap();
    bench.run(write(9, &[(0, 100), (100, 300_000), (300_100, (1 << 20) - 300_100)])).unwrap();
    bench.run(BlockOperation::Flush).unwrap();
    bench.run(read(9, &[(1 << 20, 1 << 19), (3 << 19, 1 << 19)])).unwrap();
    let mut found = vec![0; 1 << 20];
    bench.memory.read(GuestPhysical(BASE + (1 << 20)), &mut found).unwrap();
    assert!(found == data);
}

#[test]
fn requests_behind_the_end_fail() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::on_file(&directory.path().join("d"), 4096);
    assert_eq!(bench.disk.capacity(), 8);
    assert_eq!(bench.run(read(8, &[(0, 512)])), Err(BlockError::Io));
    assert_eq!(bench.run(write(7, &[(0, 1024)])), Err(BlockError::Io));
    assert_eq!(bench.run(write(u64::MAX, &[(0, 512)])), Err(BlockError::Io));
    assert_eq!(bench.run(BlockOperation::Discard { sector: 1, sectors: u64::MAX }), Err(BlockError::Io));
    assert_eq!(bench.run(read(7, &[(0, 512)])), Ok(()));
}

#[test]
fn odd_lengths_and_memory_outside_ram_fail() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::on_file(&directory.path().join("d"), 4096);
    assert_eq!(bench.run(read(0, &[(0, 100)])), Err(BlockError::Io));
    assert_eq!(bench.run(read(0, &[(4 << 20, 512)])), Err(BlockError::Io));
    assert_eq!(bench.run(write(0, &[(u64::MAX - BASE, 512)])), Err(BlockError::Io));
}

#[test]
fn read_only_disk_refuses_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d");
    std::fs::write(&path, [7; 4096]).unwrap();
    let options = DiskOptions { read_only: true, ..DiskOptions::new(&path) };
    let mut bench = Bench::new(options.open().unwrap());
    assert!(bench.disk.is_read_only() && !bench.disk.can_discard());
    assert_eq!(bench.run(write(0, &[(0, 512)])), Err(BlockError::Io));
    assert_eq!(bench.run(BlockOperation::Discard { sector: 0, sectors: 1 }), Err(BlockError::Io));
    assert_eq!(bench.run(BlockOperation::Flush), Ok(()));
    assert_eq!(bench.run(read(0, &[(0, 512)])), Ok(()));
    assert_eq!(std::fs::read(&path).unwrap(), [7; 4096]);
}

#[test]
fn drain_leaves_nothing_running_and_drops_completions() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::on_file(&directory.path().join("d"), 2 << 20);
    for _ in 0..64 {
        bench.submit(write(0, &[(0, 1 << 20)]));
    }
    bench.disk.drain();
    assert_eq!(bench.disk.complete(), None);
    assert!(bench.disk.pool.is_idle());
}

#[test]
fn drop_finishes_submitted_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d");
    let mut bench = Bench::on_file(&path, 64 << 9);
    bench.memory.write(GuestPhysical(BASE), &[0x5a; 512]).unwrap();
    for sector in 0..64 {
        bench.submit(write(sector, &[(0, 512)]));
    }
    drop(bench);
    assert!(std::fs::read(&path).unwrap() == [0x5a; 64 << 9]);
}

#[test]
fn panic_of_an_image_fails_the_request_alone() {
    struct Broken;
    impl Image for Broken {
        fn size(&self) -> u64 {
            512
        }
        fn is_read_only(&self) -> bool {
            false
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            panic!("damaged")
        }
        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn discard(&self, _: std::ops::Range<u64>) -> io::Result<()> {
            Ok(())
        }
        fn write_zeroes(&self, _: std::ops::Range<u64>, _: bool) -> io::Result<()> {
            Ok(())
        }
    }
    let mut bench = Bench::new(Arc::new(Broken));
    for _ in 0..2 * THREADS {
        assert_eq!(bench.run(read(0, &[(0, 512)])), Err(BlockError::Io));
    }
    assert_eq!(bench.run(write(0, &[(0, 512)])), Ok(()));
    assert_eq!(bench.run(BlockOperation::Flush), Err(BlockError::Unsupported));
}

/// Set in the process that runs under a file size limit: the disk's path.
const LIMITED: &str = "RVISOR_TEST_LIMITED_DISK";

#[test]
fn write_past_the_file_size_limit_returns_error() {
    if let Some(path) = std::env::var_os(LIMITED) {
        return write_under_limit(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d");
    let file = File::create(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let name = thread::current().name().unwrap().to_owned();
    // The limit is in units of 512 or 1024 bytes, as the shell likes.
    let limited = Command::new("sh")
        .args(["-c", "ulimit -f 64 && exec \"$0\" --exact \"$1\" --test-threads 1 >&2"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(LIMITED, &path)
        .output()
        .unwrap();
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stderr));
    let mut start = [0; 512];
    File::open(&path).unwrap().read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, [0x77; 512]);
}

fn write_under_limit(path: &Path) {
    let mut bench = Bench::new(DiskOptions::new(path).open().unwrap());
    bench.memory.write(GuestPhysical(BASE), &[0x77; 4096]).unwrap();
    bench.run(write(0, &[(0, 512)])).unwrap();
    // What the guest does wrong is nobody's business but its own.
    assert_eq!(bench.run(write(1 << 20, &[(0, 4096)])), Err(BlockError::Io));
    assert!(bench.told.lock().unwrap().is_empty());
    for _ in 0..2 {
        assert_eq!(bench.run(write(1024, &[(0, 4096)])), Err(BlockError::Io));
    }
    assert_eq!(*bench.told.lock().unwrap(), ["File too large (os error 27)"]);
    // The disk still works.
    bench.run(write(1, &[(0, 512)])).unwrap();
}
