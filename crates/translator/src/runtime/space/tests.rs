//! What fences, address spaces and aliases leave of cached translations.

use super::*;

const PAGE: u64 = 0x40_2000;
const OTHER: u64 = 0x7f_3000;
const PHYSICAL: u64 = 0x8000_5000;

fn context(privilege: Privilege, sum: bool, asid: u16) -> TranslationContext {
    TranslationContext { fetch: privilege, data: privilege, sum, mxr: false, asid: Some(asid), guest: None }
}

fn user(asid: u16) -> TranslationContext {
    context(Privilege::User, false, asid)
}

fn supervisor(asid: u16) -> TranslationContext {
    context(Privilege::Supervisor, false, asid)
}

fn spaces() -> Spaces {
    Spaces::new(Fresh::default())
}

/// Makes a page known for data, in the current space.
fn add(spaces: &mut Spaces, page: u64, large: Option<u64>, global: bool) {
    let entry = TlbEntry { load: page, store: page, addend: 0, physical: PHYSICAL };
    spaces.data().insert(page, entry, large);
    if !global {
        spaces.note_private_data();
    }
}

/// Whether loads and stores of a page are let through in the current space.
fn known(spaces: &mut Spaces, page: u64) -> (bool, bool) {
    let (tlb, index) = (&spaces.data().tlb, tlb_index(page));
    (tlb.loads[index].page == page, tlb.stores[index].page == page)
}

const BOTH: (bool, bool) = (true, true);
const NEITHER: (bool, bool) = (false, false);

#[test]
fn empty_entry_matches_no_address_of_its_index() {
    for index in 0..TLB_ENTRIES {
        assert_ne!(tlb_index(TlbEntry::no_page(index)), index);
    }
}

#[test]
fn switching_address_spaces_forgets_nothing_of_users() {
    let mut spaces = spaces();
    spaces.enter(user(1));
    add(&mut spaces, PAGE, None, false);
    spaces.enter(user(2));
    assert_eq!(known(&mut spaces, PAGE), NEITHER);
    spaces.enter(user(1));
    assert_eq!(known(&mut spaces, PAGE), BOTH);
}

#[test]
fn supervisor_keeps_global_pages_and_forgets_private_ones_of_another_asid() {
    let mut spaces = spaces();
    spaces.enter(supervisor(1));
    add(&mut spaces, PAGE, None, true);
    spaces.enter(supervisor(2));
    assert_eq!(known(&mut spaces, PAGE), BOTH);
    add(&mut spaces, OTHER, None, false);
    spaces.enter(supervisor(1));
    assert_eq!(known(&mut spaces, OTHER), NEITHER);
}

#[test]
fn fence_forgets_what_its_operands_name() {
    for (address, asid, of_one, of_two) in [
        (None, None, (NEITHER, NEITHER), NEITHER),
        (Some(PAGE), None, (NEITHER, BOTH), NEITHER),
        (None, Some(1), (NEITHER, NEITHER), BOTH),
        (Some(PAGE), Some(1), (NEITHER, BOTH), BOTH),
        (Some(PAGE), Some(3), (BOTH, BOTH), BOTH),
    ] {
        let mut spaces = spaces();
        for asid in [1, 2] {
            spaces.enter(user(asid));
            add(&mut spaces, PAGE, None, false);
            add(&mut spaces, OTHER, None, false);
        }
        spaces.fence(address, asid);
        spaces.enter(user(1));
        assert_eq!((known(&mut spaces, PAGE), known(&mut spaces, OTHER)), of_one, "{address:x?} {asid:?}");
        spaces.enter(user(2));
        assert_eq!(known(&mut spaces, PAGE), of_two, "{address:x?} {asid:?}");
    }
}

#[test]
fn fence_of_any_address_in_a_large_page_forgets_all_of_it() {
    const LARGE: u64 = 2 << 20;
    let mut spaces = spaces();
    spaces.enter(user(1));
    add(&mut spaces, PAGE, Some(LARGE), false);
    spaces.fence(Some(PAGE + 0x10_0000), None);
    assert_eq!(known(&mut spaces, PAGE), NEITHER);
}

#[test]
fn large_page_at_the_end_of_addresses_is_forgotten_too() {
    let top = u64::MAX - 0xfff;
    let mut spaces = spaces();
    spaces.enter(supervisor(1));
    add(&mut spaces, top, Some(2 << 20), true);
    spaces.fence(Some(u64::MAX - 0x1f_0000), None);
    assert_eq!(known(&mut spaces, top), NEITHER);
}

#[test]
fn protected_page_is_loaded_from_and_not_stored_to_anywhere() {
    let mut spaces = spaces();
    for asid in [1, 2] {
        spaces.enter(user(asid));
        add(&mut spaces, PAGE, None, false);
    }
    spaces.protect(PHYSICAL);
    for asid in [1, 2] {
        spaces.enter(user(asid));
        assert_eq!(known(&mut spaces, PAGE), (true, false));
    }
}

#[test]
fn all_rights_to_store_are_taken_away_at_once() {
    let mut spaces = spaces();
    for asid in [1, 2] {
        spaces.enter(user(asid));
        add(&mut spaces, PAGE, None, false);
    }
    spaces.protect_all();
    for asid in [1, 2] {
        spaces.enter(user(asid));
        assert_eq!(known(&mut spaces, PAGE), (true, false));
    }
}

#[test]
fn protecting_one_entry_leaves_another_page_in_it_alone() {
    let mut spaces = spaces();
    spaces.enter(user(1));
    add(&mut spaces, PAGE, None, false);
    let number = spaces.data_number();
    spaces.protect_entry(number, tlb_index(PAGE), PHYSICAL + PAGE_SIZE);
    assert_eq!(known(&mut spaces, PAGE), BOTH);
    spaces.protect_entry(number, tlb_index(PAGE), PHYSICAL);
    assert_eq!(known(&mut spaces, PAGE), (true, false));
}

#[test]
fn more_spaces_than_are_kept_forget_the_oldest_only() {
    let mut spaces = spaces();
    for asid in 0..=SPACES as u16 {
        spaces.enter(user(asid));
        add(&mut spaces, PAGE, None, false);
    }
    spaces.enter(user(SPACES as u16));
    assert_eq!(known(&mut spaces, PAGE), BOTH);
    spaces.enter(user(0));
    assert_eq!(known(&mut spaces, PAGE), NEITHER);
}

#[test]
fn both_tables_of_a_supervisor_are_different_ones_when_spaces_run_out() {
    let mut spaces = spaces();
    spaces.enter(supervisor(1));
    for asid in 0..SPACES as u16 - 1 {
        spaces.enter(user(asid));
    }
    spaces.enter(context(Privilege::Supervisor, true, 1));
    let [plain, with_user] = spaces.supervisor_tlbs();
    assert_ne!(plain, with_user);
    assert_eq!(spaces.data().tlb(), with_user);
}

/// A mapping of one page, of one address space.
const SMALL: Mapping = Mapping { physical: PHYSICAL, size: PAGE_SIZE, global: false };

#[test]
fn a_page_of_code_at_two_places_must_not_be_linked_over_page_ends() {
    let mut spaces = spaces();
    spaces.enter(user(1));
    spaces.reach(PAGE, SMALL);
    let before = spaces.code().mappings;
    assert!(spaces.code().may_link());
    spaces.reach(OTHER, SMALL);
    assert!(!spaces.code().may_link());
    assert_ne!(spaces.code().mappings, before);
}

#[test]
fn fenced_code_is_kept_where_it_is_mapped_as_before() {
    const LARGE: u64 = 2 << 20;
    let large = Mapping { physical: 0x8020_0000, size: LARGE, global: true };
    let answers = |changed: bool| {
        move |address| match address {
            PAGE => Some(SMALL),
            0x40_0000 if changed => Some(Mapping { global: false, ..large }),
            0x40_0000 => Some(large),
            _ => None,
        }
    };
    for (address, asid, is_doubtful, changed) in [
        (Some(OTHER), None, false, true),
        (None, Some(2), false, true),
        (Some(PAGE + 8), Some(1), true, false),
        (Some(PAGE + 8), Some(1), true, true),
        // Of another page of the large one.
        (Some(0x5f_f000), None, true, true),
        (None, None, true, false),
        (None, None, true, true),
    ] {
        let mut spaces = spaces();
        spaces.enter(user(1));
        spaces.reach(PAGE, SMALL);
        spaces.reach(0x41_0000, large);
        spaces.code().insert(PAGE, 0x1234);
        let before = spaces.code().mappings;
        let state = |spaces: &mut Spaces| {
            let code = spaces.code();
            (code.mappings, code.find(PAGE), code.physical(0x41_0000))
        };
        assert_eq!(state(&mut spaces), (before, Some(0x1234), Some(0x8021_0000)));
        spaces.fence(address, asid);
        assert_eq!(spaces.is_doubtful(), is_doubtful, "{address:x?} {asid:?}");
        if is_doubtful {
            spaces.settle(answers(changed));
            assert!(!spaces.is_doubtful());
        }
        let is_kept = !is_doubtful || !changed;
        assert_eq!(state(&mut spaces).0 == before, is_kept, "{address:x?} {asid:?}");
        let expected = is_kept.then_some((0x1234, 0x8021_0000));
        assert_eq!(state(&mut spaces).1.zip(state(&mut spaces).2), expected, "{address:x?} {asid:?}");
    }
}

#[test]
fn jump_cache_forgets_one_target_or_all_and_none_matches_what_was_never_set() {
    // Few enough to be listed, and too many.
    for targets in [10, JUMPS as u64] {
        let mut jumps = JumpCache::new(JUMPS);
        let find = |jumps: &JumpCache, target| jumps.entries[jumps.index(target)].target == target;
        assert!((0..=u64::from(u16::MAX)).step_by(2).all(|target| !find(&jumps, target)));
        (0..targets).for_each(|target| jumps.set(2 * target, 7));
        jumps.forget(4);
        assert!((0..targets).all(|target| find(&jumps, 2 * target) == (target != 2)));
        jumps.clear();
        assert!((0..=u64::from(u16::MAX)).step_by(2).all(|target| !find(&jumps, target)));
    }
}

#[test]
fn machine_mode_and_bare_share_nothing_and_no_asid_concerns_them() {
    let bare = |privilege| TranslationContext { asid: None, ..context(privilege, false, 0) };
    let mut spaces = spaces();
    spaces.enter(bare(Privilege::Machine));
    add(&mut spaces, PAGE, None, true);
    spaces.enter(bare(Privilege::Supervisor));
    assert_eq!(known(&mut spaces, PAGE), NEITHER);
    spaces.fence(None, Some(0));
    spaces.enter(bare(Privilege::Machine));
    assert_eq!(known(&mut spaces, PAGE), BOTH);
    spaces.fence(None, None);
    assert_eq!(known(&mut spaces, PAGE), NEITHER);
}
