#![no_main]
//! The virtio block device.

use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::{Script, run};
use rvisor_virtio::blk::{Blk, request};
use rvisor_virtio::testing::{Buffer, Driver, TestDisk};
use rvisor_waist::{BlockError, BlockOperation};

const SECTORS: u64 = 64;

/// What the front end promises of each operation.
fn check(operation: &BlockOperation, read_only: bool) {
    let within = |sector: u64, sectors: u64| {
        assert!(sectors != 0 && sector.checked_add(sectors).is_some_and(|end| end <= SECTORS));
    };
    match operation {
        BlockOperation::Read { sector, segments } | BlockOperation::Write { sector, segments } => {
            let length: u64 = segments.iter().map(|segment| u64::from(segment.length)).sum();
            assert!(length.is_multiple_of(512));
            within(*sector, length / 512);
        }
        BlockOperation::Flush => {}
        BlockOperation::Discard { sector, sectors } | BlockOperation::WriteZeroes { sector, sectors, .. } => {
            within(*sector, *sectors);
        }
    }
    let changes = !matches!(operation, BlockOperation::Read { .. } | BlockOperation::Flush);
    assert!(!(read_only && changes), "a read-only disk is never written");
}

fuzz_target!(|input: (bool, bool, Script)| {
    let (read_only, manual, script) = input;
    let disk = TestDisk::new(SECTORS as usize);
    disk.state.lock().read_only = read_only;
    disk.state.lock().manual = manual;
    let mut driver = Driver::new(Blk::new(Box::new(disk.clone())));
    disk.attach(&driver.memory);
    run(&mut driver, script, |event| {
        if event % 4 == 1 {
            disk.step();
        } else if event % 4 == 2 {
            disk.state.lock().fail = Some(BlockError::Io);
        }
        for operation in disk.state.lock().log.drain(..) {
            check(&operation, read_only);
        }
    });
    disk.state.lock().manual = false;
    disk.state.lock().fail = None;
    let mut header = [0; 16];
    header[0] = request::GET_ID as u8;
    let identify = driver.submit(0, &[Buffer::Readable(&header), Buffer::Writable(20), Buffer::Writable(1)]);
    assert_eq!(driver.used(0), Some((identify.id, 21)));
    assert!(driver.bytes(&identify, 1).starts_with(b"test disk"));
});
