use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::file::tests::IDENTITY;
use super::*;
use crate::backend::x64::lower::Patch;
use crate::backend::x64::placement::Placement;

fn open(directory: &TempDir, limit: u64) -> Store {
    Store::with(Directory::open(directory.path()).unwrap(), IDENTITY, limit)
}

fn path(directory: &TempDir) -> PathBuf {
    directory.path().join("0123456789abcdef-5.code")
}

/// A page with some guest code at `entry`.
fn page(entry: usize, guest: &[u8]) -> PageBytes {
    let mut page = PageBytes([0; PAGE_SIZE as usize]);
    page.0[entry..][..guest.len()].copy_from_slice(guest);
    page
}

/// Code whose cold part stands behind the other.
const TOGETHER: Placement = Placement { hot: 0, cold: 24, split: 24 };

/// Keeps a block of `guest` at `entry`, with `bytes` of code.
fn keep(store: &mut Store, entry: u16, guest: &[u8], reaches_over: Option<bool>, bytes: usize) {
    store.keep(&Parts {
        origin: Origin { entry: entry.into(), is_across: false, reaches_over, nodes: 1 },
        pieces: &[(entry..entry + guest.len() as u16, guest)],
        start: 8,
        thunks: &[],
        patches: &[],
        placement: TOGETHER,
        crossings: &[],
        code: &vec![0x90; bytes],
    });
}

fn has(store: &mut Store, entry: u16, page: &PageBytes) -> bool {
    store.take(Wanted::InPage(entry.into(), page)).is_some()
}

#[test]
fn block_is_taken_in_the_same_run_and_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory, LIMIT);
    let wanted = page(0x10, &[1; 20]);
    assert!(!has(&mut store, 0x10, &wanted));
    keep(&mut store, 0x10, &[1; 20], None, LEAST as usize - 64);
    keep(&mut store, 0x80, &[2, 3], None, 64);
    assert!(has(&mut store, 0x10, &wanted));
    store.save();
    let mut next = open(&directory, LIMIT);
    assert!(has(&mut next, 0x10, &wanted) && has(&mut next, 0x80, &page(0x80, &[2, 3, 4, 5])));
    // The same elsewhere in the page, and other code at the same place.
    assert!(!has(&mut next, 0x12, &page(0x12, &[1; 20])));
    assert!(!has(&mut next, 0x10, &page(0x10, &[1; 19])));
    assert_eq!(next.taken, 2);
}

#[test]
fn last_halfword_counts_where_a_jump_leads_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory, LIMIT);
    keep(&mut store, 0x10, &[1; 4], Some(true), 64);
    keep(&mut store, 0x20, &[2; 4], Some(false), 64);
    let (mut first, mut second) = (page(0x10, &[1; 4]), page(0x20, &[2; 4]));
    assert!(!has(&mut store, 0x10, &first) && has(&mut store, 0x20, &second));
    first.0[LAST as usize] = 3;
    second.0[LAST as usize] = 3;
    assert!(has(&mut store, 0x10, &first) && !has(&mut store, 0x20, &second));
}

#[test]
fn instruction_across_pages_is_not_mixed_up_with_one_in_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory, LIMIT);
    let (low, high) = ([0x13, 0x05], [0x10, 0x00]);
    store.keep(&Parts {
        origin: Origin { entry: LAST, is_across: true, reaches_over: None, nodes: 1 },
        pieces: &[(0xffe..0x1000, &low), (0..2, &high)],
        start: 8,
        thunks: &[],
        patches: &[Patch { jump: 16, mappings: Some(20), target: 0x1002, stub: 24, number: 28 }],
        placement: TOGETHER,
        crossings: &[],
        code: &[0x90; 32],
    });
    assert!(store.take(Wanted::Across([0x13, 0x05, 0x10, 0x00])).is_some());
    assert!(store.take(Wanted::Across([0x13, 0x05, 0x20, 0x00])).is_none());
    assert!(!has(&mut store, 0xffe, &page(0xffe, &low)));
}

#[test]
fn few_new_blocks_are_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory, LIMIT);
    keep(&mut store, 0x10, &[1; 4], None, 64);
    store.save();
    assert!(!path(&directory).exists());
}

#[test]
fn wrong_file_is_ignored_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(path(&directory), b"RVISORTC and nothing of use").unwrap();
    let mut store = open(&directory, LIMIT);
    keep(&mut store, 0x10, &[1; 4], None, 64);
    store.save();
    assert!(has(&mut open(&directory, LIMIT), 0x10, &page(0x10, &[1; 4])));
}

#[test]
fn wrong_chunk_is_ignored_and_its_file_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory, LIMIT);
    keep(&mut store, 0x10, &[1; 4], None, LEAST as usize);
    store.save();
    let mut bytes = fs::read(path(&directory)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path(&directory), &bytes).unwrap();
    let mut store = open(&directory, LIMIT);
    assert!(!has(&mut store, 0x10, &page(0x10, &[1; 4])));
    keep(&mut store, 0x20, &[2; 4], None, 64);
    store.save();
    let mut store = open(&directory, LIMIT);
    assert!(!has(&mut store, 0x10, &page(0x10, &[1; 4])) && has(&mut store, 0x20, &page(0x20, &[2; 4])));
    assert!(!store.is_wrong);
}

#[test]
fn two_runs_at_once_both_keep_their_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let (mut first, mut second) = (open(&directory, LIMIT), open(&directory, LIMIT));
    for (store, own) in [(&mut first, 0x20), (&mut second, 0x30)] {
        keep(store, 0x10, &[1; 4], None, LEAST as usize - 64);
        keep(store, own, &[2; 4], None, LEAST as usize - 64);
        store.save();
    }
    let mut third = open(&directory, LIMIT);
    for (entry, guest) in [(0x10, [1; 4]), (0x20, [2; 4]), (0x30, [2; 4])] {
        assert!(has(&mut third, entry, &page(entry.into(), &guest)), "{entry:#x}");
    }
    let kept: u64 = third.kept.as_ref().map_or(0, |kept| kept.chunks().iter().map(Chunk::length).sum());
    assert!(kept < 4 * LEAST, "the block that both have is there once, in {kept} bytes");
}

#[test]
fn unused_blocks_make_room_first() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 5 * LEAST / 2;
    let mut store = open(&directory, limit);
    for entry in [0x10, 0x20] {
        keep(&mut store, entry, &[1; 4], None, LEAST as usize);
    }
    store.save();
    let mut store = open(&directory, limit);
    assert!(has(&mut store, 0x10, &page(0x10, &[1; 4])));
    keep(&mut store, 0x30, &[1; 4], None, LEAST as usize);
    store.save();
    let mut store = open(&directory, limit);
    let is_left = [0x10, 0x20, 0x30].map(|entry| has(&mut store, entry, &page(entry.into(), &[1; 4])));
    assert_eq!(is_left, [true, false, true]);
}

#[test]
fn directory_that_others_may_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Store::open(directory.path(), 0).is_none());
}

#[test]
fn directory_that_is_full_or_gone_costs_the_new_blocks_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory, LIMIT);
    keep(&mut store, 0x10, &[1; 4], None, LEAST as usize);
    fs::remove_dir_all(directory.path()).unwrap();
    store.save();
    assert!(has(&mut store, 0x10, &page(0x10, &[1; 4])));
}
