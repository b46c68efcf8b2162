#![no_main]
//! The 9P device on a directory of the host: whatever the guest asks, nothing beside the directory is read or changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::{Script, run};
use rvisor_hosted::share::{ShareOptions, Shares};
use rvisor_virtio::p9::{F_MOUNT_TAG, P9};
use rvisor_virtio::testing::{Buffer, Driver, Submission, TestMemory, TestShare};
use rvisor_waist::{Device, GuestMemory, GuestPhysical, OutOfRange};

/// What lies beside the directory.
const SECRET: &str = "what no guest may read";

/// A name, mostly one that means something.
#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Other(Vec<u8>),
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        const KNOWN: [&str; 10] =
            ["file", "sub", "out", "secret", "..", "../secret", ".", "fifo", "new", "/etc/passwd"];
        match self {
            Self::Known(number) => KNOWN[usize::from(*number) % KNOWN.len()].into(),
            Self::Other(bytes) => bytes.clone(),
        }
    }
}

/// One part of a message.
#[derive(Arbitrary, Debug)]
enum Part {
    Fid(u8),
    Byte(u8),
    Half(u16),
    Word(u32),
    Double(u64),
    Name(Name),
}

/// A message: its type among those that there are, what is in it, and the room for its answer.
#[derive(Arbitrary, Debug)]
struct Message {
    kind: u8,
    parts: Vec<Part>,
    room: u16,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        const KINDS: [u8; 26] = [
            8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 40, 50, 52, 54, 70, 72, 74, 76, 100, 104, 108, 110, 116,
            118, 120, 122,
        ];
        let mut bytes = vec![0, 0, 0, 0, KINDS[usize::from(self.kind) % KINDS.len()], 1, 0];
        for part in &self.parts {
            match part {
                Part::Fid(fid) => bytes.extend(u32::from(fid % 6).to_le_bytes()),
                Part::Byte(byte) => bytes.push(*byte),
                Part::Half(half) => bytes.extend(half.to_le_bytes()),
                Part::Word(word) => bytes.extend(word.to_le_bytes()),
                Part::Double(double) => bytes.extend(double.to_le_bytes()),
                Part::Name(name) => {
                    let name = name.bytes();
                    bytes.extend((name.len() as u16).to_le_bytes());
                    bytes.extend(name);
                }
            }
        }
        let size = (bytes.len() as u32).to_le_bytes();
        bytes[..4].copy_from_slice(&size);
        bytes
    }
}

/// The driver's memory, which is there once the driver is.
#[derive(Default)]
struct Lent(Mutex<Option<Arc<TestMemory>>>);

impl Lent {
    fn with<T>(&self, work: impl FnOnce(&TestMemory) -> T) -> T {
        work(self.0.lock().unwrap().as_ref().expect("a driver"))
    }
}

impl GuestMemory for Lent {
    fn range(&self) -> std::ops::Range<GuestPhysical> {
        self.with(GuestMemory::range)
    }
    fn load<T: rvisor_waist::Word>(&self, address: GuestPhysical) -> Result<T, OutOfRange> {
        self.with(|memory| memory.load(address))
    }
    fn store<T: rvisor_waist::Word>(&self, address: GuestPhysical, value: T) -> Result<(), OutOfRange> {
        self.with(|memory| memory.store(address, value))
    }
    fn compare_exchange(
        &self,
        address: GuestPhysical,
        width: rvisor_waist::AtomicWidth,
        expected: u64,
        new: u64,
    ) -> Result<u64, OutOfRange> {
        self.with(|memory| memory.compare_exchange(address, width, expected, new))
    }
    fn compare_exchange_quad(
        &self,
        address: GuestPhysical,
        old: u128,
        new: u128,
    ) -> Result<u128, OutOfRange> {
        self.with(|memory| memory.compare_exchange_quad(address, old, new))
    }
    fn read(&self, address: GuestPhysical, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        self.with(|memory| memory.read(address, buffer))
    }
    fn write(&self, address: GuestPhysical, buffer: &[u8]) -> Result<(), OutOfRange> {
        self.with(|memory| memory.write(address, buffer))
    }
    fn zero(&self, address: GuestPhysical, length: u64) -> Result<(), OutOfRange> {
        self.with(|memory| memory.zero(address, length))
    }
}

/// Sends a message and waits for its answer.
fn ask(driver: &mut Driver<P9>, bytes: &[u8], room: u32, woken: &dyn Fn()) -> (Submission, Vec<u8>) {
    let submission = driver.submit(0, &[Buffer::Readable(bytes), Buffer::Writable(room)]);
    loop {
        if let Some((id, written)) = driver.used(0) {
            assert_eq!(id, submission.id);
            let mut answer = driver.bytes(&submission, 1);
            answer.truncate(written as usize);
            return (submission, answer);
        }
        woken();
        driver.transport.poll();
    }
}

fn tree(directory: &Path) {
    let shared = directory.join("shared");
    fs::create_dir_all(shared.join("sub")).unwrap();
    fs::write(directory.join("secret"), SECRET).unwrap();
    fs::write(shared.join("file"), "a file").unwrap();
    symlink(directory, shared.join("out")).unwrap();
    symlink("../secret", shared.join("secret")).unwrap();
}

fuzz_target!(|input: (Script, Vec<Message>)| {
    let (script, messages) = input;
    // The transport and the parser, without a host.
    let mut driver = Driver::new(P9::new(Box::new(TestShare::default())));
    run(&mut driver, script, |_| {});

    let directory = tempfile::tempdir().unwrap();
    tree(directory.path());
    let options = ShareOptions {
        host: directory.path().join("shared"),
        guest: "x".into(),
        read_only: false,
        user: 0,
        group: 0,
    };
    let (memory, (sender, receiver)) = (Arc::new(Lent::default()), channel());
    let wake = Arc::new(move || sender.send(()).unwrap_or(()));
    let shares = Shares::single(&options, Arc::clone(&memory), wake).unwrap();
    let mut driver = Driver::new(P9::new(Box::new(shares)));
    *memory.0.lock().unwrap() = Some(Arc::clone(&driver.memory));
    driver.start(F_MOUNT_TAG);
    let woken = || _ = receiver.recv_timeout(Duration::from_millis(20));
    let attach = Message {
        kind: 19,
        parts: vec![Part::Fid(0), Part::Word(!0), Part::Half(0), Part::Half(0), Part::Word(0)],
        room: 64,
    };
    ask(&mut driver, &attach.bytes(), 64, &woken);
    for message in messages.iter().take(64) {
        let (_, answer) = ask(&mut driver, &message.bytes(), message.room.into(), &woken);
        let secret = SECRET.as_bytes();
        assert!(!answer.windows(secret.len()).any(|bytes| bytes == secret));
    }
    assert_eq!(fs::read_to_string(directory.path().join("secret")).unwrap(), SECRET);
    let mut beside: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["secret", "shared"]);
});
