use alloc::vec;

use super::*;
use crate::arch::Partition;
use crate::arch::partition::tests::{BASE, partition};

const SECTORS: u64 = 4096;

/// A drive in memory that finishes requests when it is told to, and remembers them.
struct Fake {
    content: Vec<u8>,
    waiting: VecDeque<(u64, Operation)>,
    log: Vec<Operation>,
    room: usize,
    is_stuck: bool,
    fails: bool,
}

impl Drive for Fake {
    fn geometry(&self) -> Geometry {
        Geometry { capacity: SECTORS, is_read_only: false, has_flush: true, discard: 100, write_zeroes: 64 }
    }

    fn submit(&mut self, tag: u64, operation: Operation) -> bool {
        let fits = self.waiting.len() < self.room;
        if fits {
            self.log.push(operation.clone());
            self.waiting.push_back((tag, operation));
        }
        fits
    }

    fn finished(&mut self) -> Option<Finished> {
        if self.is_stuck {
            return None;
        }
        let (tag, operation) = self.waiting.pop_front()?;
        let at = |sector: u64| (sector * SECTOR_SIZE) as usize;
        let mut data = Vec::new();
        match operation {
            _ if self.fails => return Some(Finished { tag, result: Err(BlockError::Io) }),
            Operation::Read { sector, length } => data.extend(&self.content[at(sector)..][..length]),
            Operation::Write { sector, data } => {
                self.content[at(sector)..][..data.len()].copy_from_slice(&data)
            }
            Operation::WriteZeroes { sector, sectors, .. } => {
                self.content[at(sector)..at(sector + u64::from(sectors))].fill(0);
            }
            Operation::Flush | Operation::Discard { .. } => {}
        }
        Some(Finished { tag, result: Ok(data) })
    }
}

fn shared(is_stuck: bool, room: usize) -> Arc<Shared<Fake>> {
    let content = (0..SECTORS).flat_map(|sector| [sector as u8; 512]).collect();
    let drive = Fake { content, waiting: VecDeque::new(), log: Vec::new(), room, is_stuck, fails: false };
    Shared::new(drive, |_, _| {})
}

const RANGE: DiskRange = DiskRange { start: 1000, sectors: 1000, read_only: false };

fn attach(
    shared: &Arc<Shared<Fake>>,
    guest: usize,
    range: DiskRange,
) -> (Box<dyn BlockBackend>, Arc<Partition>) {
    let memory = Arc::new(partition(4 << 20));
    (shared.attach(guest, range, Arc::clone(&memory), "guest"), memory)
}

fn segment(offset: u64, length: u32) -> Segment {
    Segment { address: BASE.offset(offset), length }
}

fn read(id: u64, sector: u64, segments: Vec<Segment>) -> BlockRequest {
    BlockRequest { id, operation: BlockOperation::Read { sector, segments } }
}

fn write(id: u64, sector: u64, segments: Vec<Segment>) -> BlockRequest {
    BlockRequest { id, operation: BlockOperation::Write { sector, segments } }
}

#[test]
fn sectors_are_counted_from_the_ranges_start() {
    let shared = shared(false, 8);
    let (mut disk, memory) = attach(&shared, 0, RANGE);
    disk.submit(read(5, 3, vec![segment(0x1001, 100), segment(0x3000, 412)]));
    assert_eq!(disk.complete(), Some(BlockCompletion { id: 5, result: Ok(()) }));
    let sample = [0x1000, 0x1001, 0x1064, 0x1065, 0x3000, 0x319b, 0x319c];
    let bytes = sample.map(|offset| memory.load::<u8>(BASE.offset(offset)).unwrap());
    let sector = 1003u64 as u8;
    assert_eq!(bytes, [0, sector, sector, 0, sector, sector, 0]);
    assert_eq!((disk.capacity(), shared.moved(0)), (1000, [512, 0]));
}

#[test]
fn large_requests_go_in_pieces_and_complete_once() {
    let shared = shared(false, 2);
    let (mut disk, memory) = attach(&shared, 0, RANGE);
    memory.write(BASE, &[0xaa; 300 << 10]).unwrap();
    disk.submit(write(1, 0, vec![segment(0, 100 << 10), segment(100 << 10, 200 << 10)]));
    assert_eq!(disk.complete(), Some(BlockCompletion { id: 1, result: Ok(()) }));
    assert_eq!(disk.complete(), None);
    let state = shared.state.lock();
    let bytes = &state.drive.content;
    let written = 1000 * 512..(1000 * 512) + (300 << 10);
    assert!(bytes[written.clone()].iter().all(|byte| *byte == 0xaa));
    assert!(bytes[written.start - 1] != 0xaa && bytes[written.end] != 0xaa && state.drive.log.len() == 5);
}

#[test]
fn no_request_leaves_its_range() {
    let shared = shared(false, 8);
    let (mut disk, _memory) = attach(&shared, 0, RANGE);
    let zeroes = |sector, sectors| BlockOperation::WriteZeroes { sector, sectors, unmap: true };
    for operation in [
        BlockOperation::Read { sector: 999, segments: vec![segment(0, 1024)] },
        BlockOperation::Write { sector: u64::MAX, segments: vec![segment(0, 512)] },
        BlockOperation::Write { sector: 1000, segments: vec![segment(0, 512)] },
        BlockOperation::Discard { sector: 0, sectors: 1001 },
        zeroes(u64::MAX, 2),
        zeroes(5, u64::MAX),
    ] {
        disk.submit(BlockRequest { id: 1, operation });
        assert_eq!(disk.complete(), Some(BlockCompletion { id: 1, result: Err(BlockError::Io) }));
    }
    assert_eq!(shared.state.lock().drive.log, []);
}

#[test]
fn discards_and_zeros_are_cut_to_what_the_drive_takes() {
    let shared = shared(false, 8);
    let (mut disk, _memory) = attach(&shared, 0, RANGE);
    let operation = BlockOperation::Discard { sector: 10, sectors: 250 };
    disk.submit(BlockRequest { id: 1, operation });
    disk.submit(BlockRequest { id: 2, operation: BlockOperation::Flush });
    assert!((0..2).all(|_| disk.complete().is_some_and(|completion| completion.result.is_ok())));
    let discard = |sector, sectors| Operation::Discard { sector, sectors };
    let log = &shared.state.lock().drive.log;
    assert_eq!(log[..], [discard(1010, 100), discard(1110, 100), discard(1210, 50), Operation::Flush]);
}

#[test]
fn busy_guest_does_not_keep_others_from_the_drive() {
    let shared = shared(true, 8);
    let (mut busy, _one) = attach(&shared, 0, RANGE);
    let (mut modest, _two) = attach(&shared, 1, DiskRange { start: 3000, ..RANGE });
    (0..50).for_each(|id| busy.submit(read(id, 0, vec![segment(0, 256 << 10)])));
    modest.submit(read(0, 0, vec![segment(0, 512)]));
    let state = shared.state.lock();
    assert_eq!(state.drive.waiting.len(), ON_THE_WAY + 1);
    drop(state);
    shared.work(|drive| drive.is_stuck = false);
    assert!(modest.complete().is_some() && (0..50).all(|_| busy.complete().is_some()));
}

#[test]
fn failure_is_the_requests_own() {
    let shared = shared(true, 8);
    let (mut disk, _memory) = attach(&shared, 0, RANGE);
    disk.submit(read(1, 0, vec![segment(0, 128 << 10)]));
    shared.work(|drive| (drive.is_stuck, drive.fails) = (false, true));
    assert_eq!(disk.complete(), Some(BlockCompletion { id: 1, result: Err(BlockError::Io) }));
    shared.work(|drive| drive.fails = false);
    disk.submit(read(2, 0, vec![segment(0, 512)]));
    assert_eq!(disk.complete(), Some(BlockCompletion { id: 2, result: Ok(()) }));
    assert!(shared.state.lock().pieces.is_empty());
}

#[test]
fn drained_disk_has_nothing_left() {
    let shared = shared(false, 8);
    let (mut disk, _memory) = attach(&shared, 0, RANGE);
    disk.submit(read(1, 0, vec![segment(0, 512)]));
    disk.drain();
    assert_eq!(disk.complete(), None);
}

#[test]
fn whoever_resets_a_disk_waits_for_what_is_on_the_way_and_no_more() {
    let shared = shared(true, 8);
    let (mut disk, _memory) = attach(&shared, 0, RANGE);
    (0..50).for_each(|id| disk.submit(read(id, 0, vec![segment(0, 256 << 10)])));
    shared.work(|drive| {
        // Other guests' drive goes on.
        drive.is_stuck = false;
        drive.room = 0;
    });
    shared.state.lock().drive.room = 8;
    let log = || shared.state.lock().drive.log.len();
    let before = log();
    disk.drain();
    assert_eq!((before, disk.complete()), (log(), None));
    // It can be used again.
    disk.submit(read(1, 0, vec![segment(0, 512)]));
    assert_eq!(disk.complete(), Some(BlockCompletion { id: 1, result: Ok(()) }));
}

#[test]
fn ranges_are_checked_against_the_drive() {
    let shared = shared(false, 8);
    let range = |start, sectors| shared.check(DiskRange { start, sectors, read_only: false });
    assert_eq!(range(96, 4000).map(|range| range.sectors), Ok(4000));
    assert_eq!(range(96, 0).map(|range| range.sectors), Ok(4000));
    assert_eq!(range(97, 4000), Err(RangeError::TooLong { end: 4097, capacity: 4096 }));
    assert!(range(4096, 0).is_err() && range(u64::MAX, 0).is_err());
}
