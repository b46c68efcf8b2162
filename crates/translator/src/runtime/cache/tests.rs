use std::path::PathBuf;

use super::*;
use crate::runtime::optimizer::at_once;

const PAGE: u64 = 0x8000_3000;
/// `addi a0, a0, 1`
const ADD: u32 = 0x0015_0513;
/// `jal zero, 0x1000`
const JUMP_FAR: u32 = 0x0000_106f;

/// A cache whose code isn't executed: its helpers are nowhere.
fn cache(is_shared: bool) -> CodeCache {
    cache_with(is_shared, Options::default())
}

fn cache_with(is_shared: bool, options: Options) -> CodeCache {
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
    CodeCache::new(1 << 20, &helpers, is_shared, options).expect("the host has a mebibyte")
}

/// A page with these instructions from its start on, and another block in its middle.
fn page(words: &[u32]) -> PageBytes {
    let mut bytes = PageBytes([0; PAGE_SIZE as usize]);
    for (place, word) in words.iter().enumerate() {
        bytes.0[4 * place..][..4].copy_from_slice(&word.to_le_bytes());
    }
    bytes.0[0x800..0x804].copy_from_slice(&ADD.to_le_bytes());
    bytes.0[0x804..0x808].copy_from_slice(&JUMP_FAR.to_le_bytes());
    bytes
}

#[test]
fn block_is_found_at_its_address_only() {
    let mut cache = cache(false);
    assert!(cache.is_empty(PAGE));
    let block = cache.translate(PAGE, 0x800, &page(&[]));
    assert_eq!(cache.find(PAGE + 0x800), Some(block));
    assert_eq!(cache.find(PAGE + 0x804), None);
    assert!(!cache.is_empty(PAGE));
    assert_eq!(cache.pages().collect::<Vec<_>>(), [PAGE]);
}

#[test]
fn block_whose_bytes_changed_is_removed_and_others_stay() {
    let mut cache = cache(false);
    let code = page(&[ADD, JUMP_FAR]);
    let (first, second) = (cache.translate(PAGE, 0, &code), cache.translate(PAGE, 0x800, &code));
    assert_ne!(first, second);
    let changed = page(&[ADD, ADD, JUMP_FAR]);
    assert!(cache.validate(PAGE, &changed));
    assert_eq!((cache.find(PAGE), cache.find(PAGE + 0x800)), (None, Some(second)));
    assert!(!cache.validate(PAGE, &PageBytes([0; PAGE_SIZE as usize])));
    assert!(cache.is_empty(PAGE));
    assert_eq!(cache.counts.removed, 2);
}

#[test]
fn bytes_that_no_block_was_made_from_may_change() {
    let mut cache = cache(false);
    let mut code = page(&[ADD, JUMP_FAR]);
    let block = cache.translate(PAGE, 0, &code);
    code.0[8] ^= 1;
    assert!(cache.validate(PAGE, &code));
    assert_eq!(cache.find(PAGE), Some(block));
}

#[test]
fn instruction_across_pages_goes_with_either_page() {
    for changed in [PAGE, PAGE + 0x5000] {
        let mut cache = cache(false);
        let (low, high) = (ADD as u16, (ADD >> 16) as u16);
        let block = cache.translate_across(PAGE, PAGE + 0x5000, low, high);
        assert!(block.is_some() && cache.find_across(PAGE, PAGE + 0x5000) == block);
        assert_eq!(cache.find_across(PAGE, PAGE + 0x1000), None);
        assert!(!cache.validate(changed, &PageBytes([0; PAGE_SIZE as usize])));
        assert_eq!(cache.find_across(PAGE, PAGE + 0x5000), None);
    }
}

#[test]
fn full_cache_has_room_again_once_it_is_cleared() {
    let mut cache = cache(false);
    let code = page(&[ADD; 512]);
    let mut pages = 0;
    while cache.has_room() {
        cache.translate(PAGE + pages * PAGE_SIZE, 0, &code);
        pages += 1;
    }
    assert!(pages > 10);
    let epoch = cache.epoch(PAGE);
    cache.clear();
    assert!(cache.has_room() && cache.is_empty(PAGE));
    assert_eq!((cache.find(PAGE), cache.counts.flushes), (None, 1));
    assert_ne!(cache.epoch(PAGE), epoch);
}

/// A cache with a block that jumps to another page, its link, and two blocks that may be there.
fn linked(is_shared: bool) -> (CodeCache, u32, BlockId, BlockId) {
    let mut cache = cache(is_shared);
    let code = page(&[ADD, JUMP_FAR]);
    cache.translate(PAGE, 0, &code);
    let link = cache.links.iter().position(|link| link.mappings.is_some()).expect("a far jump") as u32;
    let one = cache.translate(PAGE + 0x1000, 0, &code);
    let other = cache.translate(PAGE + 0x7000, 0, &code);
    (cache, link, one, other)
}

#[test]
fn far_jump_is_linked_to_one_target_ever_where_harts_share_code() {
    let (mut cache, link, one, other) = linked(true);
    cache.link(link, one, 1);
    cache.link(link, other, 2);
    assert_eq!(cache.links[link as usize].target, Some(one));
}

#[test]
fn far_jump_of_one_hart_is_linked_anew() {
    let (mut cache, link, one, other) = linked(false);
    cache.link(link, one, 1);
    cache.link(link, other, 2);
    assert_eq!(cache.links[link as usize].target, Some(other));
}

#[test]
fn jump_isn_t_linked_to_a_removed_block() {
    let (mut cache, link, one, _) = linked(false);
    cache.validate(PAGE + 0x1000, &PageBytes([0; PAGE_SIZE as usize]));
    cache.link(link, one, 1);
    assert_eq!(cache.links[link as usize].target, None);
}

#[test]
fn jump_that_is_linked_anew_for_ever_takes_no_more_memory() {
    let (mut cache, link, one, other) = linked(false);
    for mappings in 0..1000 {
        cache.link(link, one, 2 * mappings);
        cache.link(link, other, 2 * mappings + 1);
    }
    for target in [one, other] {
        assert!(cache.blocks[target as usize].incoming.len() < 10);
    }
    // The link is still known where it leads.
    assert!(cache.blocks[other as usize].incoming.contains(&link));
}

#[test]
fn second_tier_s_code_goes_with_the_first_tier_s() {
    let mut cache = cache(false);
    let code = page(&[ADD, ADD, JUMP_FAR]);
    let first = cache.translate(PAGE, 0, &code);
    at_once(&mut cache, PAGE, 0, &code);
    assert_eq!(cache.counts.traces, 1);
    let second = cache.find(PAGE).expect("there is code");
    assert_ne!(second, first);
    let start = cache.code(first);
    assert_eq!(cache.memory.read(start, 5), to(JMP, start, cache.code(second)));
    assert!(!cache.validate(PAGE, &PageBytes([0; PAGE_SIZE as usize])));
    assert_eq!((cache.find(PAGE), cache.counts.removed), (None, 2));
    for block in [first, second] {
        let start = cache.code(block);
        assert_eq!(cache.memory.read(start, 5), to(CALL, start, cache.thunks.dead));
    }
}

#[test]
fn kept_code_is_taken_for_the_same_bytes_elsewhere_and_links_as_translated_code_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options { store: Some(directory.path().to_owned()), ..Options::default() };
    let mut cache = cache_with(false, options);
    let code = page(&[ADD, JUMP_FAR]);
    let first = cache.translate(PAGE, 0, &code);
    let other = cache.translate(PAGE + 0x5000, 0, &code);
    assert_eq!((cache.counts.blocks, cache.store.as_ref().map(|store| store.taken)), (1, Some(1)));
    assert!(first != other && cache.find(PAGE + 0x5000) == Some(other));
    assert!(cache.is_far(0) && cache.is_far(1));
    cache.link(1, first, 7);
    assert_eq!((cache.links[1].target, cache.links[0].target), (Some(first), None));
    assert!(!cache.validate(PAGE + 0x5000, &PageBytes([0; PAGE_SIZE as usize])));
    assert!(!cache.is_empty(PAGE));
}

/// Both parts of the code that was added last, and where its jumps lead.
fn latest(cache: &CodeCache, before: [u64; 2]) -> [Vec<u8>; 2] {
    [Part::Hot, Part::Cold].map(|part| {
        let start = before[part as usize];
        cache.memory.read(start, (cache.memory.next(part) - start) as usize)
    })
}

#[test]
fn kept_code_is_what_a_translation_at_its_place_would_be() {
    let directory = tempfile::tempdir().expect("a directory");
    // Loads, a taken branch and a jump to another page: code in both parts, with jumps between them.
    let code = page(&[0x0005_3583, 0x00b5_0463, ADD, JUMP_FAR]);
    let translated = |store: Option<PathBuf>, others: usize| {
        let mut cache = cache_with(false, Options { store, ..Options::default() });
        for other in 0..others {
            let before = [Part::Hot, Part::Cold].map(|part| cache.memory.next(part));
            cache.translate(PAGE + other as u64 * PAGE_SIZE, 0, &code);
            if other + 1 == others {
                let taken = cache.store.as_ref().map_or(0, |store| store.taken);
                let base = cache.thunks.enter;
                return (latest(&cache, before), before.map(|at| at - base), taken);
            }
        }
        unreachable!("there is a last one")
    };
    let (fresh, places, _) = translated(None, 7);
    let (kept, same_places, taken) = translated(Some(directory.path().to_owned()), 7);
    assert_eq!((places, taken), (same_places, 6));
    assert_eq!(kept, fresh);
}
