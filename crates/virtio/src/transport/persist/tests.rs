use alloc::boxed::Box;
use alloc::vec::Vec;

use rvisor_waist::{Device, StateError, StateWriter};

use crate::blk::{self, Blk, request};
use crate::console::{Console, F_MULTIPORT};
use crate::features;
use crate::net::{Net, RECEIVE, TRANSMIT};
use crate::testing::{Buffer, Driver, TestConsole, TestDisk, TestNet};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FORMATS: [u64; 3] = [0, features::RING_PACKED, features::RING_PACKED | features::EVENT_IDX];

#[test]
fn card_goes_on_with_the_buffers_it_had_taken() {
    for format in FORMATS {
        let (first, second) = (TestNet::default(), TestNet::default());
        let mut driver = Driver::started(Net::new(MAC, Box::new(first)), format);
        // The device takes a buffer in advance; the second waits in the ring.
        let buffers: Vec<_> = (0..2).map(|_| driver.submit(RECEIVE, &[Buffer::Writable(100)])).collect();
        driver.transport.poll();
        driver.replace(Net::new([2, 0, 0, 0, 0, 9], Box::new(second.clone()))).unwrap();
        assert_eq!(driver.config(0, rvisor_waist::Width::Word), 2, "the address is the saved one");
        assert_eq!(driver.config(5, rvisor_waist::Width::Byte), 1);
        for number in 0..2 {
            second.0.lock().incoming.push_back(alloc::vec![number; 20]);
        }
        driver.transport.poll();
        for buffer in buffers {
            assert_eq!(driver.used(RECEIVE), Some((buffer.id, 32)), "{format:#x}");
        }
        assert!(driver.line.level());
        driver.submit(TRANSMIT, &[Buffer::Readable(&[0; 12]), Buffer::Readable(b"frame of the guest")]);
        assert_eq!(second.0.lock().sent.len(), 1);
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

#[test]
fn requests_are_finished_before_the_disk_is_saved() {
    for features in [0, blk::F_FLUSH] {
        let disk = TestDisk::new(8);
        let mut driver = Driver::started(Blk::new(Box::new(disk.clone())), features);
        disk.attach(&driver.memory);
        disk.state.lock().manual = true;
        let write = header(request::OUT, 1);
        let data = [7; 512];
        let buffers =
            driver.submit(0, &[Buffer::Readable(&write), Buffer::Readable(&data), Buffer::Writable(1)]);
        assert_eq!(driver.used(0), None);
        driver.replace(Blk::new(Box::new(disk.clone()))).unwrap();
        assert_eq!(driver.used(0), Some((buffers.id, 1)));
        assert!(driver.line.level());
        assert_eq!(disk.state.lock().bytes[512..1024], data);
        disk.state.lock().manual = false;
        let next = driver.submit(
            0,
            &[Buffer::Readable(&header(request::IN, 1)), Buffer::Writable(512), Buffer::Writable(1)],
        );
        assert_eq!(driver.used(0), Some((next.id, 513)));
        let other = TestDisk::new(9);
        assert_eq!(driver.replace(Blk::new(Box::new(other))), Err(StateError::Mismatch("size of a disk")));
    }
}

fn console(backend: &TestConsole, port: &TestConsole, name: &str) -> Console {
    Console::new(Box::new(backend.clone())).with_port(name, Box::new(port.clone()))
}

#[test]
fn open_port_stays_open_and_its_buffer_is_filled_later() {
    const INPUT: usize = 4;
    for format in FORMATS {
        let (one, other, last) = (TestConsole::new(), TestConsole::new(), TestConsole::new());
        let mut driver = Driver::started(console(&one, &other, "x"), F_MULTIPORT | format);
        let message = |id: u32, event: u16| {
            [&id.to_le_bytes()[..], &event.to_le_bytes(), &1_u16.to_le_bytes()].concat()
        };
        // Ready, then open; messages of the device wait for buffers.
        for (id, event) in [(0, 0), (1, 3), (1, 6)] {
            driver.submit(3, &[Buffer::Readable(&message(id, event))]);
            driver.used(3);
        }
        let buffer = driver.submit(INPUT, &[Buffer::Writable(16)]);
        driver.replace(console(&one, &last, "x")).unwrap();
        assert!(last.0.lock().guest_open, "the back end hears of it");
        last.0.lock().input.extend(b"hello");
        driver.transport.poll();
        assert_eq!(driver.used(INPUT), Some((buffer.id, 5)));
        assert_eq!(driver.bytes(&buffer, 0)[..5], *b"hello");
        let reply = driver.submit(2, &[Buffer::Writable(64)]);
        assert_eq!(driver.used(2), Some((reply.id, 8)), "PORT_ADD was kept");
        let wrong = driver.replace(console(&one, &last, "y"));
        assert_eq!(wrong, Err(StateError::Mismatch("set of console ports")));
    }
}

#[test]
fn forged_state_never_panics() {
    let net = TestNet::default();
    let mut driver = Driver::started(Net::new(MAC, Box::new(net.clone())), features::RING_PACKED);
    driver.submit(RECEIVE, &[Buffer::Writable(100)]);
    driver.transport.poll();
    let mut writer = StateWriter::new();
    driver.transport.save(&mut writer).unwrap();
    let good = writer.finish();
    for at in 0..good.len() {
        for value in [0, 1, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if driver.restore(Net::new(MAC, Box::new(net.clone())), &bytes).is_ok() {
                net.0.lock().incoming.push_back(alloc::vec![1; 20]);
                driver.transport.poll();
                driver.notify(TRANSMIT);
            }
        }
        assert!(driver.restore(Net::new(MAC, Box::new(net.clone())), &good[..at]).is_err());
    }
}
