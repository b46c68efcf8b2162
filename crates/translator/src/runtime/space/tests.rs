//! What fences, address spaces and aliases leave of cached translations.

use super::*;

const PAGE: u64 = 0x40_2000;
const OTHER: u64 = 0x7f_3000;
const PHYSICAL: u64 = 0x8000_5000;

fn context(privilege: Privilege, sum: bool, asid: u16) -> TranslationContext {
    TranslationContext { fetch: privilege, data: privilege, sum, mxr: false, asid: Some(asid) }
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

#[test]
fn a_page_of_code_at_two_places_must_not_be_linked_over_page_ends() {
    let mut spaces = spaces();
    spaces.enter(user(1));
    spaces.reach(PAGE, PHYSICAL, None, false);
    let before = spaces.code().mappings;
    assert!(spaces.code().may_link());
    spaces.reach(OTHER, PHYSICAL, None, false);
    assert!(!spaces.code().may_link());
    assert_ne!(spaces.code().mappings, before);
}

#[test]
fn fenced_code_gets_new_mappings_and_unfenced_code_keeps_them() {
    let mut spaces = spaces();
    spaces.enter(user(1));
    spaces.reach(PAGE, PHYSICAL, None, false);
    spaces.code().insert(PAGE, 0x1234);
    let before = spaces.code().mappings;
    spaces.fence(Some(OTHER), None);
    spaces.fence(None, Some(2));
    assert_eq!((spaces.code().mappings, spaces.code().find(PAGE)), (before, Some(0x1234)));
    spaces.fence(Some(PAGE + 8), Some(1));
    assert_ne!(spaces.code().mappings, before);
    assert_eq!((spaces.code().physical(PAGE), spaces.code().find(PAGE)), (None, None));
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
