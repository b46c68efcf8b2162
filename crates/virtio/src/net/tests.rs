use rvisor_waist::{Device, Width};

use super::*;
use crate::features;
use crate::testing::{Buffer, Driver, TestNet};

use Buffer::{Readable, Writable};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const HEADER: [u8; header::SIZE] = [0; header::SIZE];

fn started(features: u64) -> (Driver<Net>, TestNet) {
    let net = TestNet::default();
    let front_end = Net::new(MAC, Box::new(net.clone())).with_mtu(1400);
    (Driver::started(front_end, features), net)
}

#[test]
fn frame_is_sent_without_its_header() {
    let (mut driver, net) = started(0);
    let sent = driver.submit(TRANSMIT, &[Readable(&HEADER[..7]), Readable(&HEADER[7..]), Readable(b"frame")]);
    assert_eq!(driver.used(TRANSMIT), Some((sent.id, 0)));
    assert_eq!(net.0.lock().sent, [b"frame"]);
}

#[test]
fn what_is_no_frame_is_lost() {
    let (mut driver, net) = started(0);
    let long = vec![0; MAX_FRAME + 1];
    let mut segmented = HEADER;
    segmented[1] = 1;
    for parts in [
        &[Readable(&HEADER[..])][..],
        &[Readable(&HEADER[..11])],
        &[Writable(100)],
        &[Readable(&HEADER), Readable(&long)],
        &[Readable(&segmented), Readable(b"frame")],
    ] {
        driver.submit(TRANSMIT, parts);
        assert!(driver.used(TRANSMIT).is_some());
    }
    assert!(net.0.lock().sent.is_empty());
    assert!(!driver.needs_reset());
}

#[test]
fn checksum_is_completed_where_negotiated() {
    let mut header = HEADER;
    header[0] = 1;
    for (features, frames) in [(F_CSUM, vec![vec![0xff, 0xfe, 0, 1]]), (0, vec![])] {
        let (mut driver, net) = started(features);
        driver.submit(TRANSMIT, &[Readable(&header), Readable(&[0, 0, 0, 1])]);
        assert_eq!(net.0.lock().sent, frames);
    }
}

#[test]
fn large_segment_is_cut_unless_the_network_takes_it() {
    let (mut driver, net) = started(F_CSUM | F_HOST_TSO4);
    // TCP over IPv4 with 3000 bytes of data, to be cut after each 1448.
    let mut frame = vec![0; 14 + 20 + 20 + 3000];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&3040_u16.to_be_bytes());
    (frame[23], frame[46]) = (6, 0x50);
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    for (is_local, lengths) in [(true, vec![3054]), (false, vec![1502, 1502, 158])] {
        net.0.lock().is_local = is_local;
        driver.submit(TRANSMIT, &[Readable(&header), Readable(&frame)]);
        let sent = core::mem::take(&mut net.0.lock().sent);
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
    }
}

#[test]
fn frames_of_a_local_network_are_right_where_the_driver_wants_to_know() {
    for (features, is_local, flags) in [(F_GUEST_CSUM, true, 2), (F_GUEST_CSUM, false, 0), (0, true, 0)] {
        let (mut driver, net) = started(features);
        net.0.lock().is_local = is_local;
        net.0.lock().incoming.push_back(b"frame".to_vec());
        let buffer = driver.submit(RECEIVE, &[Writable(1526)]);
        assert_eq!(driver.bytes(&buffer, 0)[0], flags);
    }
}

#[test]
fn frame_arrives_in_one_buffer() {
    let (mut driver, net) = started(0);
    let buffer = driver.submit(RECEIVE, &[Writable(12), Writable(1514)]);
    net.0.lock().incoming.push_back(b"frame".to_vec());
    assert_eq!(driver.used(RECEIVE), None);
    driver.transport.poll();
    assert_eq!(driver.used(RECEIVE), Some((buffer.id, 17)));
    assert_eq!(driver.bytes(&buffer, 0), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(&driver.bytes(&buffer, 1)[..5], b"frame");
    assert!(driver.line.level());
}

#[test]
fn frame_is_spread_over_merged_buffers() {
    let (mut driver, net) = started(F_MRG_RXBUF);
    net.0.lock().incoming.push_back(b"0123456789".to_vec());
    let buffers = [(); 3].map(|()| driver.submit(RECEIVE, &[Writable(8)]));
    assert_eq!(driver.used(RECEIVE), Some((buffers[0].id, 8)));
    assert_eq!(driver.used(RECEIVE), Some((buffers[1].id, 8)));
    assert_eq!(driver.used(RECEIVE), Some((buffers[2].id, 6)));
    assert_eq!(driver.bytes(&buffers[1], 0), [0, 0, 3, 0, b'0', b'1', b'2', b'3']);
    assert_eq!(&driver.bytes(&buffers[2], 0)[..6], b"456789");
}

#[test]
fn frames_stay_at_the_back_end_until_there_are_buffers() {
    let (mut driver, net) = started(0);
    net.0.lock().incoming.extend([b"one".to_vec(), b"two".to_vec()]);
    driver.transport.poll();
    assert_eq!(net.0.lock().incoming.len(), 2);
    driver.submit(RECEIVE, &[Writable(1526)]);
    assert!(driver.used(RECEIVE).is_some());
    assert_eq!(net.0.lock().incoming.len(), 1);
}

#[test]
fn frame_larger_than_the_buffer_is_lost() {
    let (mut driver, net) = started(0);
    net.0.lock().incoming.extend([vec![1; 100], vec![2; 50]]);
    let buffer = driver.submit(RECEIVE, &[Writable(62)]);
    assert_eq!(driver.used(RECEIVE), Some((buffer.id, 62)));
    assert_eq!(driver.bytes(&buffer, 0)[12..], [2; 50]);
}

#[test]
fn buffers_are_asked_for_only_when_frames_wait() {
    for packed in [0, features::RING_PACKED] {
        for event_idx in [0, features::EVENT_IDX] {
            let (mut driver, net) = started(packed | event_idx);
            driver.submit(RECEIVE, &[Writable(1526)]);
            driver.add(RECEIVE, &[Writable(1526)]);
            assert!(!driver.wants_notification(RECEIVE, 1));
            net.0.lock().incoming.extend([vec![1], vec![2], vec![3]]);
            driver.transport.poll();
            driver.add(RECEIVE, &[Writable(1526)]);
            assert!(driver.wants_notification(RECEIVE, 1));
        }
    }
}

#[test]
fn reset_forgets_frame_and_buffers() {
    let (mut driver, net) = started(F_MRG_RXBUF);
    driver.submit(RECEIVE, &[Writable(20)]);
    net.0.lock().incoming.push_back(vec![1; 100]);
    driver.transport.poll();
    driver.transport.reset();
    driver.start(0);
    driver.submit(RECEIVE, &[Writable(1526)]);
    assert_eq!(driver.used(RECEIVE), None);
    net.0.lock().incoming.push_back(vec![1; 100]);
    driver.transport.poll();
    assert!(driver.used(RECEIVE).is_some());
}

#[test]
fn configuration_tells_address_link_and_mtu() {
    let (mut driver, _) = started(0);
    assert_eq!(driver.config(0, Width::Double).to_le_bytes(), [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0]);
    assert_eq!(driver.config(10, Width::Half), 1400);
    assert_eq!(driver.config(5, Width::Byte), 0x56);
    let plain = Net::new(MAC, Box::new(TestNet::default()));
    assert_eq!(plain.features() & F_MTU, 0);
}

#[test]
fn busy_network_comes_back_to_the_hart() {
    let (mut driver, net) = started(0);
    net.0.lock().incoming.extend(vec![vec![1; 100]; 1500]);
    driver.submit(RECEIVE, &[Writable(62)]);
    assert_eq!(net.0.lock().incoming.len(), 1500 - FRAME_BUDGET as usize);
    driver.acknowledge();
    assert!(net.0.lock().incoming.is_empty());
}
