use alloc::sync::Arc;

use super::*;
use crate::testing::{Buffer, Driver, RAM, Submission, TestDisk};
use crate::transport::{register, status as device_status};
use rvisor_waist::Width;

use Buffer::{Readable, Writable};

const SECTORS: usize = 64;

fn with_features(features: u64, prepare: impl FnOnce(&TestDisk)) -> (Driver<Blk>, TestDisk) {
    let disk = TestDisk::new(SECTORS);
    prepare(&disk);
    let mut driver = Driver::new(Blk::new(Box::new(disk.clone())));
    disk.attach(&driver.memory);
    driver.start(features);
    (driver, disk)
}

fn started() -> (Driver<Blk>, TestDisk) {
    with_features(F_FLUSH | F_DISCARD | F_WRITE_ZEROES, |_| {})
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

/// Submits a request whose last buffer is the status byte alone; returns it with the bytes written and the
/// status.
fn request(driver: &mut Driver<Blk>, parts: &[Buffer<'_>]) -> (Submission, u32, u8) {
    let submission = driver.submit(0, parts);
    driver.transport.front_end().assert_idle();
    let (id, written) = driver.used(0).expect("request used");
    assert_eq!(id, submission.id);
    let status = driver.bytes(&submission, parts.len() - 1)[0];
    (submission, written, status)
}

impl Blk {
    fn assert_idle(&self) {
        assert!(self.pending.is_empty());
    }
}

fn result(driver: &mut Driver<Blk>, parts: &[Buffer<'_>]) -> u8 {
    request(driver, parts).2
}

#[test]
fn written_data_reads_back_across_segments() {
    let (mut driver, disk) = started();
    let write = [Readable(&header(request::OUT, 3)), Readable(&[7; 512]), Readable(&[8; 1024]), Writable(1)];
    assert_eq!(result(&mut driver, &write), status::OK);
    assert_eq!(disk.state.lock().bytes[3 * 512..4 * 512], [7; 512]);

    let read = [Readable(&header(request::IN, 3)), Writable(100), Writable(924), Writable(1)];
    let (submission, written, status) = request(&mut driver, &read);
    assert_eq!((written, status), (1025, status::OK));
    assert_eq!(driver.bytes(&submission, 1), [7; 100]);
    let rest = driver.bytes(&submission, 2);
    assert_eq!((&rest[..412], &rest[412..]), (&[7; 412][..], &[8; 512][..]));
}

#[test]
fn header_and_status_may_lie_anywhere_in_the_buffers() {
    let (mut driver, disk) = started();
    disk.state.lock().bytes[..512].fill(9);
    let header = header(request::IN, 0);
    let submission = driver.submit(0, &[Readable(&header[..5]), Readable(&header[5..]), Writable(513)]);
    assert_eq!(driver.used(0), Some((submission.id, 513)));
    let bytes = driver.bytes(&submission, 2);
    assert_eq!((&bytes[..512], bytes[512]), (&[9; 512][..], status::OK));
}

#[test]
fn header_cut_short_is_an_error() {
    let (mut driver, _) = started();
    assert_eq!(result(&mut driver, &[Readable(&[0; 15]), Writable(1)]), status::IOERR);
}

#[test]
fn request_without_status_byte_needs_a_reset() {
    let (mut driver, _) = started();
    driver.submit(0, &[Readable(&header(request::FLUSH, 0))]);
    assert!(driver.needs_reset());
    assert_eq!(driver.used(0), None);
}

#[test]
fn sectors_past_the_end_are_an_error() {
    let (mut driver, disk) = started();
    for sector in [SECTORS as u64, SECTORS as u64 - 1, u64::MAX, u64::MAX - 1] {
        let read = [Readable(&header(request::IN, sector)), Writable(1024), Writable(1)];
        assert_eq!(result(&mut driver, &read), status::IOERR);
        let discard = [Readable(&header(request::DISCARD, 0)), Readable(&range(sector, 2, 0)), Writable(1)];
        assert_eq!(result(&mut driver, &discard), status::IOERR);
    }
    assert!(disk.state.lock().log.is_empty());
}

#[test]
fn length_that_is_no_multiple_of_a_sector_is_an_error() {
    let (mut driver, disk) = started();
    let write = [Readable(&header(request::OUT, 0)), Readable(&[1; 511]), Writable(1)];
    assert_eq!(result(&mut driver, &write), status::IOERR);
    let read = [Readable(&header(request::IN, 0)), Writable(513), Writable(1)];
    assert_eq!(result(&mut driver, &read), status::IOERR);
    assert!(disk.state.lock().log.is_empty());
}

#[test]
fn flush_discard_and_write_zeroes_reach_the_back_end() {
    let (mut driver, disk) = started();
    assert_eq!(result(&mut driver, &[Readable(&header(request::FLUSH, 0)), Writable(1)]), status::OK);
    let discard = [Readable(&header(request::DISCARD, 0)), Readable(&range(1, 2, 0)), Writable(1)];
    assert_eq!(result(&mut driver, &discard), status::OK);
    let zero = [Readable(&header(request::WRITE_ZEROES, 0)), Readable(&range(3, 4, 1)), Writable(1)];
    assert_eq!(result(&mut driver, &zero), status::OK);
    assert_eq!(
        disk.state.lock().log,
        [
            BlockOperation::Flush,
            BlockOperation::Discard { sector: 1, sectors: 2 },
            BlockOperation::WriteZeroes { sector: 3, sectors: 4, unmap: true },
        ]
    );
}

#[test]
fn range_flags_not_defined_are_unsupported() {
    let (mut driver, _) = started();
    let discard = [Readable(&header(request::DISCARD, 0)), Readable(&range(1, 2, 1)), Writable(1)];
    assert_eq!(result(&mut driver, &discard), status::UNSUPP);
    let zero = [Readable(&header(request::WRITE_ZEROES, 0)), Readable(&range(3, 4, 2)), Writable(1)];
    assert_eq!(result(&mut driver, &zero), status::UNSUPP);
}

#[test]
fn more_than_one_range_is_an_error() {
    let (mut driver, _) = started();
    let discard = [Readable(&header(request::DISCARD, 0)), Readable(&[0; 32]), Writable(1)];
    assert_eq!(result(&mut driver, &discard), status::IOERR);
}

#[test]
fn unknown_and_unnegotiated_requests_are_unsupported() {
    let (mut driver, _) = with_features(F_FLUSH, |_| {});
    for kind in [request::DISCARD, request::WRITE_ZEROES, 2, 99] {
        let parts = [Readable(&header(kind, 0)), Readable(&range(0, 1, 0)), Writable(1)];
        assert_eq!(result(&mut driver, &parts), status::UNSUPP);
    }
}

#[test]
fn identity_is_padded_with_zeros() {
    let (mut driver, _) = started();
    let (submission, written, status) =
        request(&mut driver, &[Readable(&header(request::GET_ID, 0)), Writable(20), Writable(1)]);
    assert_eq!((written, status), (21, status::OK));
    assert_eq!(&driver.bytes(&submission, 1)[..12], b"test disk\0\0\0");
}

#[test]
fn read_only_disk_refuses_to_change() {
    let (mut driver, disk) = with_features(F_RO, |disk| disk.state.lock().read_only = true);
    assert_eq!(driver.transport.front_end().features() & (F_RO | F_DISCARD), F_RO);
    let write = [Readable(&header(request::OUT, 0)), Readable(&[1; 512]), Writable(1)];
    assert_eq!(result(&mut driver, &write), status::IOERR);
    let read = [Readable(&header(request::IN, 0)), Writable(512), Writable(1)];
    assert_eq!(result(&mut driver, &read), status::OK);
    assert_eq!(disk.state.lock().log.len(), 1);
}

#[test]
fn back_end_errors_become_a_status() {
    let (mut driver, disk) = started();
    for (error, expected) in [(BlockError::Io, status::IOERR), (BlockError::Unsupported, status::UNSUPP)] {
        disk.state.lock().fail = Some(error);
        let read = [Readable(&header(request::IN, 0)), Writable(512), Writable(1)];
        assert_eq!(result(&mut driver, &read), expected);
    }
}

#[test]
fn write_is_flushed_for_a_driver_that_cannot_flush() {
    let (mut driver, disk) = with_features(0, |_| {});
    let write = [Readable(&header(request::OUT, 0)), Readable(&[1; 512]), Writable(1)];
    assert_eq!(result(&mut driver, &write), status::OK);
    let log = &disk.state.lock().log;
    assert!(matches!(log[..], [BlockOperation::Write { .. }, BlockOperation::Flush]));
}

#[test]
fn request_ends_when_the_back_end_is_polled() {
    let (mut driver, disk) = with_features(F_FLUSH, |disk| disk.state.lock().manual = true);
    let read = [Readable(&header(request::IN, 0)), Writable(512), Writable(1)];
    let submission = driver.submit(0, &read);
    assert_eq!(driver.used(0), None);
    assert!(!driver.line.level());
    disk.step();
    rvisor_waist::Device::poll(&mut driver.transport);
    assert_eq!(driver.used(0), Some((submission.id, 513)));
    assert!(driver.line.level());
}

#[test]
fn reset_leaves_no_request_behind() {
    let (mut driver, disk) = with_features(F_FLUSH, |disk| disk.state.lock().manual = true);
    driver.submit(0, &[Readable(&header(request::IN, 0)), Writable(512), Writable(1)]);
    driver.set_register(register::STATUS, 0);
    assert!(disk.state.lock().submitted.is_empty());
    driver.start(F_FLUSH);
    rvisor_waist::Device::poll(&mut driver.transport);
    assert_eq!(driver.used(0), None);
    assert_eq!(driver.register(register::STATUS) & device_status::DEVICE_NEEDS_RESET, 0);
}

#[test]
fn stopped_queue_leaves_no_request_behind() {
    let (mut driver, disk) = with_features(F_FLUSH, |disk| disk.state.lock().manual = true);
    driver.submit(0, &[Readable(&header(request::IN, 0)), Writable(512), Writable(1)]);
    driver.set_register(register::QUEUE_SELECT, 0);
    driver.set_register(register::QUEUE_READY, 0);
    assert!(disk.state.lock().submitted.is_empty());
    assert_eq!(driver.register(register::QUEUE_READY), 0);
}

#[test]
fn configuration_tells_capacity_and_limits() {
    let (mut driver, _) = started();
    assert_eq!(driver.config(0, Width::Double), SECTORS as u64);
    assert_eq!(driver.config(12, Width::Word), 254);
    assert_eq!(driver.config(20, Width::Word), 512);
    assert_eq!(driver.config(40, Width::Word), 1);
    assert_eq!(driver.config(56, Width::Byte), 1);
    assert_eq!(driver.config(1000, Width::Double), 0);
}

#[test]
fn buffers_in_flight_are_bounded_by_the_queue() {
    let (mut driver, disk) = with_features(F_FLUSH, |disk| disk.state.lock().manual = true);
    driver.submit(0, &[Readable(&header(request::FLUSH, 0)), Writable(1)]);
    // The same chain again and again, without waiting for it.
    let layout = driver.layout(0, 256);
    let memory = Arc::clone(&driver.memory);
    for index in (0..=1024_u16).step_by(256) {
        memory.store(layout.driver.offset(2), index).unwrap();
        driver.notify(0);
    }
    assert!(driver.needs_reset());
    assert!(disk.state.lock().submitted.len() <= 257);
    assert!(memory.load::<u8>(RAM).is_ok());
}
