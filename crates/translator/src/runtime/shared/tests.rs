use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rvisor_waist::{GuestPhysical, PAGE_SIZE};

use super::*;

const PAGE: u64 = 0x8000_3000;
/// `jal zero, 0x1000`
const JUMP_FAR: u32 = 0x0000_106f;

fn shared() -> Shared {
    let helpers = Helpers {
        slice: 0,
        lookup: 0,
        link: 0,
        system: 0,
        step: 0,
        load: 0,
        store: 0,
        atomic: 0,
        interpret: 0,
        pause: 0,
    };
    Shared::new(2, 1 << 20, &helpers, Options::default()).expect("the host has a mebibyte")
}

fn pages() -> CodePages {
    CodePages::new(GuestPhysical(PAGE & !0xffff), 0x1_0000)
}

fn code() -> PageBytes {
    let mut bytes = PageBytes([0; PAGE_SIZE as usize]);
    bytes.0[..4].copy_from_slice(&JUMP_FAR.to_le_bytes());
    bytes
}

/// Pages that a hart is to protect when it goes into code.
fn asked(shared: &Shared, hart: usize) -> Vec<u64> {
    let mut pages = Vec::new();
    shared.enter(hart, |page| pages.push(page));
    pages
}

#[test]
fn hart_protects_what_others_asked_for_once() {
    let shared = shared();
    shared.protect_elsewhere(0, PAGE);
    assert_eq!(asked(&shared, 0), []);
    assert_eq!(asked(&shared, 1), [PAGE]);
    assert_eq!(asked(&shared, 1), []);
}

#[test]
fn fence_removes_the_code_of_pages_written_to() {
    let (shared, pages) = (shared(), pages());
    shared.cache().translate(PAGE, 0, &code());
    pages.watch(GuestPhysical(PAGE));
    pages.note_write(GuestPhysical(PAGE + 8), 8);
    let mut protected = Vec::new();
    shared.fence_instructions(0, &pages, |page| protected.push(page), |_| PageBytes([0; PAGE_SIZE as usize]));
    assert_eq!((shared.cache().find(PAGE), protected), (None, vec![PAGE]));
    assert_eq!(asked(&shared, 1), [PAGE]);
    assert!(!pages.is_clean(GuestPhysical(PAGE)));
}

#[test]
fn fence_after_a_write_that_changed_no_code_watches_again() {
    let (shared, pages) = (shared(), pages());
    let block = shared.cache().translate(PAGE, 0, &code());
    pages.watch(GuestPhysical(PAGE));
    pages.note_write(GuestPhysical(PAGE + 8), 8);
    shared.fence_instructions(0, &pages, |_| {}, |_| code());
    assert_eq!(shared.cache().find(PAGE), Some(block));
    assert!(pages.is_clean(GuestPhysical(PAGE)));
}

#[test]
fn fence_without_writes_reads_nothing() {
    let (shared, pages) = (shared(), pages());
    shared.cache().translate(PAGE, 0, &code());
    pages.watch(GuestPhysical(PAGE));
    shared.fence_instructions(0, &pages, |_| panic!("protected"), |_| panic!("read"));
}

#[test]
fn page_that_a_hart_in_code_may_still_store_to_is_compared_at_each_fence() {
    let (shared, pages) = (shared(), pages());
    shared.cache().translate(PAGE, 0, &code());
    shared.enter(1, |_| {});
    shared.protect_elsewhere(0, PAGE);
    shared.fence_instructions(0, &pages, |_| {}, |_| code());
    assert!(shared.cache().find(PAGE).is_some());
    // The other hart's store isn't noted.
    shared.fence_instructions(0, &pages, |_| {}, |_| PageBytes([0; PAGE_SIZE as usize]));
    assert_eq!(shared.cache().find(PAGE), None);
    // It has left, so that the next fence is the last that must look.
    shared.leave(1);
    shared.fence_instructions(0, &pages, |_| {}, |_| code());
    shared.fence_instructions(0, &pages, |_| {}, |_| panic!("read"));
}

#[test]
fn cache_with_room_is_kept() {
    let (shared, pages) = (shared(), pages());
    let block = shared.cache().translate(PAGE, 0, &code());
    shared.clear(&pages);
    assert_eq!(shared.cache().find(PAGE), Some(block));
}

#[test]
fn full_cache_is_thrown_away_once_no_hart_is_in_code() {
    let (shared, pages) = (shared(), pages());
    pages.watch(GuestPhysical(PAGE));
    while shared.cache().has_room() {
        shared.cache().translate(PAGE, 0, &code());
    }
    let generation = shared.enter(1, |_| {});
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            shared.clear(&pages);
            sender.send(()).expect("somebody listens");
        });
        assert_eq!(receiver.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        shared.leave(1);
        assert_eq!(receiver.recv(), Ok(()));
    });
    assert_eq!(shared.cache().find(PAGE), None);
    assert!(!pages.is_clean(GuestPhysical(PAGE)));
    assert_ne!(shared.enter(1, |_| {}), generation);
}
