//! Both ring formats with a driver that follows the rules, for longer than the indices are wide.

use alloc::boxed::Box;
use alloc::vec::Vec;

use rvisor_waist::Device;

use crate::blk::{Blk, F_FLUSH, request, status};
use crate::features::{EVENT_IDX, INDIRECT_DESC, RING_PACKED};
use crate::rng::Rng;
use crate::testing::{Buffer, Driver, TestDisk, TestEntropy};
use crate::transport::{interrupt, register};

fn combinations() -> impl Iterator<Item = u64> {
    (0..8).map(|bits| {
        [(1, RING_PACKED), (2, EVENT_IDX), (4, INDIRECT_DESC)]
            .iter()
            .filter(|(bit, _)| bits & bit != 0)
            .fold(0, |features, (_, feature)| features | feature)
    })
}

fn driver(features: u64, size: u16) -> Driver<Rng> {
    let mut driver = Driver::new(Rng::new(Box::new(TestEntropy::default())));
    assert!(driver.negotiate(features));
    driver.start_queue(0, size);
    driver.set_register(register::STATUS, 15);
    driver.indirect = features & INDIRECT_DESC != 0;
    driver
}

#[test]
fn chains_come_back_in_every_combination_of_features() {
    for features in combinations() {
        let mut driver = driver(features, 8);
        let mut next_byte = 0_u8;
        for round in 0..40_000_u32 {
            let count = 1 + round % 3;
            let parts = &[Buffer::Writable(1), Buffer::Writable(2)][..1 + (round % 2) as usize];
            let chains: Vec<_> = (0..count).map(|_| driver.add(0, parts)).collect();
            driver.notify(0);
            for chain in &chains {
                let written: u32 = chain.segments.iter().map(|segment| segment.length).sum();
                assert_eq!(driver.used(0), Some((chain.id, written)), "{features:#x}, round {round}");
                next_byte = next_byte.wrapping_add(1);
                assert_eq!(driver.bytes(chain, 0), [next_byte]);
                next_byte = next_byte.wrapping_add(written as u8 - 1);
            }
            assert_eq!(driver.used(0), None);
        }
        assert!(!driver.needs_reset());
    }
}

#[test]
fn device_asks_for_every_notification_once_it_ran_dry() {
    for features in combinations() {
        let mut driver = driver(features, 8);
        for round in 0..70_000_u32 {
            driver.add(0, &[Buffer::Writable(1)]);
            assert!(driver.wants_notification(0, 1), "{features:#x}, round {round}");
            driver.notify(0);
            assert!(driver.used(0).is_some());
        }
    }
}

#[test]
fn interrupt_comes_at_the_chain_asked_for() {
    for features in combinations().filter(|features| features & EVENT_IDX != 0) {
        let mut driver = driver(features, 8);
        for round in 0..30_000_u32 {
            driver.set_used_event(0, 2);
            for chain in 0..3 {
                driver.submit(0, &[Buffer::Writable(1)]);
                let expected = if chain == 2 { interrupt::USED_BUFFER } else { 0 };
                assert_eq!(driver.acknowledge(), expected, "{features:#x}, round {round}, chain {chain}");
            }
            while driver.used(0).is_some() {}
        }
    }
}

#[test]
fn no_interrupt_comes_while_suppressed() {
    for features in combinations().filter(|features| features & EVENT_IDX == 0) {
        let mut driver = driver(features, 8);
        driver.suppress_interrupts(0);
        driver.submit(0, &[Buffer::Writable(1)]);
        assert!(driver.used(0).is_some());
        assert!(!driver.line.level());
    }
}

#[test]
fn requests_finished_in_any_order_come_back_whole() {
    const SECTORS: u64 = 16;
    for features in combinations() {
        let disk = TestDisk::new(SECTORS as usize);
        for (sector, bytes) in disk.state.lock().bytes.chunks_mut(512).enumerate() {
            bytes.fill(sector as u8);
        }
        disk.state.lock().manual = true;
        let mut driver = Driver::new(Blk::new(Box::new(disk.clone())));
        disk.attach(&driver.memory);
        driver.start(features | F_FLUSH);
        driver.indirect = features & INDIRECT_DESC != 0;
        let mut waiting = Vec::new();
        for round in 0..5_000_u64 {
            while waiting.len() < 5 {
                let sector = (round * 7 + waiting.len() as u64) % SECTORS;
                let mut header = [0; 16];
                header[..4].copy_from_slice(&request::IN.to_le_bytes());
                header[8..].copy_from_slice(&sector.to_le_bytes());
                let parts = [Buffer::Readable(&header), Buffer::Writable(512), Buffer::Writable(1)];
                waiting.push((driver.submit(0, &parts), sector as u8));
            }
            disk.state.lock().submitted.rotate_left((round % 5) as usize);
            for _ in 0..1 + round % 4 {
                disk.step();
            }
            driver.transport.poll();
            while let Some((id, written)) = driver.used(0) {
                let at = waiting.iter().position(|(chain, _)| chain.id == id).expect("submitted");
                let (chain, sector) = waiting.swap_remove(at);
                assert_eq!(written, 513, "{features:#x}, round {round}");
                assert_eq!(driver.bytes(&chain, 1), [sector; 512]);
                assert_eq!(driver.bytes(&chain, 2), [status::OK]);
            }
        }
        assert!(waiting.len() < 5, "requests come back");
    }
}
