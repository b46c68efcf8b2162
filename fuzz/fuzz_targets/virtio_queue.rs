#![no_main]
//! Virtqueues by themselves, split and packed: rings of any contents at any place.

use std::collections::VecDeque;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::Place;
use rvisor_virtio::Segments;
use rvisor_virtio::features::{EVENT_IDX, INDIRECT_DESC, RING_PACKED};
use rvisor_virtio::queue::{Chain, Layout, Queue};
use rvisor_virtio::testing::{RAM, TestMemory};
use rvisor_waist::{GuestMemory, GuestPhysical};

const MAX_SIZE: u16 = 64;
const RAM_SIZE: usize = 0x8000;

#[derive(Arbitrary, Debug)]
enum Step {
    Start { layout: Option<(u16, Place, Place, Place)>, features: u8 },
    Stop,
    Store { offset: u16, bytes: Vec<u8> },
    Descriptor { number: u8, offset: u16, length: u16, flags: u16, link: u16, packed: bool },
    Available { index: u16, heads: Vec<u8> },
    Pop,
    PushOldest { written: u32 },
    PushNewest { written: u32 },
    Interrupt,
}

fn check(memory: &TestMemory, segments: Segments) {
    let length = segments.length();
    let mut sum = 0;
    for segment in segments.into_vec() {
        let end = segment.address.0 + u64::from(segment.length);
        assert!(segment.length != 0 && memory.range().start <= segment.address);
        assert!(end <= memory.range().end.0);
        sum += segment.length;
    }
    assert_eq!(sum, length);
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (mut features, steps) = input;
    let memory = TestMemory::new(RAM_SIZE);
    let mut queue = Queue::new(MAX_SIZE);
    let usual = Layout { size: 16, descriptors: RAM, driver: RAM.offset(0x1000), device: RAM.offset(0x2000) };
    let negotiated = |bits: u8| {
        [RING_PACKED, EVENT_IDX, INDIRECT_DESC]
            .iter()
            .enumerate()
            .fold(0, |all, (bit, feature)| if bits >> bit & 1 != 0 { all | feature } else { all })
    };
    queue.start(usual, negotiated(features), &memory).expect("the usual layout is right");
    let mut taken: VecDeque<Chain> = VecDeque::new();
    for step in steps {
        match step {
            Step::Start { layout, features: chosen } => {
                queue.stop();
                taken.clear();
                features = chosen;
                let layout = layout.map_or(usual, |(size, descriptors, driver, device)| Layout {
                    size,
                    descriptors: descriptors.address(),
                    driver: driver.address(),
                    device: device.address(),
                });
                // Where it isn't possible the queue stays stopped.
                let _ = queue.start(layout, negotiated(features), &memory);
            }
            Step::Stop => {
                queue.stop();
                taken.clear();
            }
            Step::Store { offset, bytes } => {
                let _ = memory.write(RAM.offset(offset.into()), &bytes);
            }
            Step::Descriptor { number, offset, length, flags, link, packed } => {
                let at = RAM.offset(16 * u64::from(number));
                let address = GuestPhysical(RAM.0 + u64::from(offset));
                let (low, high) = if packed { (link, flags) } else { (flags, link) };
                memory.store(at, address.0).expect("table in RAM");
                memory.store(at.offset(8), u32::from(length)).expect("table in RAM");
                memory.store(at.offset(12), low).expect("table in RAM");
                memory.store(at.offset(14), high).expect("table in RAM");
            }
            Step::Available { index, heads } => {
                for (entry, head) in heads.iter().take(MAX_SIZE.into()).enumerate() {
                    let at = usual.driver.offset(4 + 2 * entry as u64);
                    memory.store(at, u16::from(*head)).expect("ring in RAM");
                }
                memory.store(usual.driver.offset(2), index).expect("ring in RAM");
            }
            Step::Pop => {
                if let Ok(Some(chain)) = queue.pop(&memory) {
                    check(&memory, chain.readable.clone());
                    check(&memory, chain.writable.clone());
                    taken.push_back(chain);
                    assert!(taken.len() <= MAX_SIZE.into(), "chains in flight are bounded");
                }
            }
            Step::PushOldest { written } => {
                if let Some(chain) = taken.pop_front() {
                    queue.push_used(&memory, chain, written).expect("rings stay in RAM");
                }
            }
            Step::PushNewest { written } => {
                if let Some(chain) = taken.pop_back() {
                    queue.push_used(&memory, chain, written).expect("rings stay in RAM");
                }
            }
            Step::Interrupt => {
                queue.take_interrupt(&memory).expect("rings stay in RAM");
            }
        }
    }
});
