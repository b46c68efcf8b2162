use super::*;
use crate::address::MachineAddress;
use crate::arch::layout::WINDOW_SLOTS;
use crate::testing::FakeHart;

const WINDOW: Pte = Pte::pointer(MachineAddress(0x8123_4000));
const POOL: MachineAddress = MachineAddress(0x9000_0000);
const USER: Key =
    Key { satp: 8 << 60 | 7 << 44 | 0x80100, view: View { supervisor: false, sum: false, mxr: false } };
const KERNEL: Key = Key { view: View { supervisor: true, ..USER.view }, ..USER };

fn shadow(tables: u32) -> Shadow {
    Shadow::new(Pool::new(tables, |_| POOL), WINDOW, 0)
}

fn page(address: u64) -> Page {
    Page {
        address: GuestVirtual(address),
        machine: MachineAddress(0xa000_0000 | address & 0xff_f000),
        rights: Pte::R,
        guest_size: 4096,
        is_large: false,
    }
}

fn find(shadow: &Shadow, key: Key, address: u64) -> Option<Pte> {
    let space = shadow.spaces.iter().find(|space| space.key == key)?;
    space.find(&shadow.pool, GuestVirtual(address))
}

#[test]
fn views_of_one_address_space_share_nothing() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    shadow.fill(USER, &page(0x1000), &mut hart);
    assert_eq!(find(&shadow, USER, 0x1234).map(Pte::address), Some(MachineAddress(0xa000_1000)));
    assert_eq!(find(&shadow, KERNEL, 0x1234), None);
    let entries = [USER, KERNEL, USER].map(|key| shadow.enter(key, &mut hart));
    assert_eq!(entries[0], entries[2]);
    assert_ne!((entries[0].root, entries[0].asid), (entries[1].root, entries[1].asid));
}

#[test]
fn every_page_is_for_user_mode_and_the_window_is_not() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    shadow.fill(KERNEL, &page(0x1000), &mut hart);
    assert!(find(&shadow, KERNEL, 0x1000).is_some_and(|pte| pte.rights() == Pte::R | Pte::U));
    let space = &shadow.spaces[0];
    let root = shadow.pool.at(space.root(&shadow.pool)).unwrap();
    assert_eq!(shadow.pool.get(root, space.window()), WINDOW);
}

#[test]
fn rights_add_up_until_the_page_changes() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    shadow.fill(USER, &page(0x1000), &mut hart);
    shadow.fill(USER, &Page { rights: Pte::X, ..page(0x1000) }, &mut hart);
    assert_eq!(find(&shadow, USER, 0x1000).map(Pte::rights), Some(Pte::R | Pte::X | Pte::U));
    shadow.fill(USER, &Page { machine: MachineAddress(0xb000_0000), ..page(0x1000) }, &mut hart);
    assert_eq!(find(&shadow, USER, 0x1000).map(Pte::rights), Some(Pte::R | Pte::U));
}

#[test]
fn fence_of_a_page_forgets_it_in_its_address_space_only() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    let other = Key { satp: 8 << 60 | 9 << 44 | 0x80200, ..USER };
    for key in [USER, KERNEL, other] {
        shadow.enter(key, &mut hart);
        shadow.fill(key, &page(0x1000), &mut hart);
        shadow.fill(key, &page(0x2000), &mut hart);
    }
    hart.fences.clear();
    shadow.fence(Some(GuestVirtual(0x1000)), Some(7), &mut hart);
    let known = [USER, KERNEL, other].map(|key| find(&shadow, key, 0x1000).is_some());
    assert_eq!(known, [false, false, true]);
    assert!(find(&shadow, USER, 0x2000).is_some());
    assert_eq!(hart.fences.len(), 2);
    shadow.fence(None, Some(9), &mut hart);
    assert!(find(&shadow, other, 0x1000).is_none() && find(&shadow, USER, 0x2000).is_some());
    shadow.fence(None, None, &mut hart);
    assert!(shadow.spaces.is_empty() && shadow.left() == 64);
}

#[test]
fn fence_inside_a_page_larger_than_the_shadows_forgets_all_of_it() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    shadow.fill(USER, &Page { guest_size: 0x1_0000, ..page(0x1_3000) }, &mut hart);
    shadow.fence(Some(GuestVirtual(0x1_0000)), None, &mut hart);
    assert_eq!(find(&shadow, USER, 0x1_3000), None);
}

#[test]
fn large_page_takes_the_place_of_small_ones_and_back() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    let large = Page { is_large: true, guest_size: 2 << 20, ..page(0x1000) };
    shadow.fill(USER, &page(0x1000), &mut hart);
    shadow.fill(USER, &large, &mut hart);
    assert_eq!(find(&shadow, USER, 0x5000).map(Pte::address), Some(MachineAddress(0xa000_0000)));
    shadow.fill(USER, &page(0x1000), &mut hart);
    assert_eq!(find(&shadow, USER, 0x5000), None);
    assert!(find(&shadow, USER, 0x1000).is_some());
}

#[test]
fn window_moves_out_of_the_guests_way() {
    let (mut shadow, mut hart) = (shadow(2000), FakeHart::default());
    let before = shadow.enter(KERNEL, &mut hart);
    for slot in WINDOW_SLOTS {
        let address = ((slot as u64) << 55) as i64 >> 25;
        shadow.fill(KERNEL, &page(address as u64), &mut hart);
        let entry = shadow.enter(KERNEL, &mut hart);
        assert_ne!(entry.window, slot);
        assert!(find(&shadow, KERNEL, address as u64).is_some());
        let root = shadow.pool.at(shadow.spaces[0].root(&shadow.pool)).unwrap();
        assert_eq!(shadow.pool.get(root, entry.window), WINDOW);
    }
    // The TLB had the window elsewhere.
    assert_ne!(shadow.enter(KERNEL, &mut hart).asid, before.asid);
}

#[test]
fn guest_that_maps_everywhere_gets_by_with_its_tables() {
    let (mut shadow, mut hart) = (shadow(LEAST_TABLES), FakeHart::default());
    for number in 0..10_000u64 {
        let key = Key { satp: (8 << 60) | (number % 70), ..KERNEL };
        let address = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 25) as i64 >> 25;
        shadow.fill(key, &page(address as u64 & !0xfff), &mut hart);
        assert!(find(&shadow, key, address as u64 & !0xfff).is_some());
    }
    assert!(shadow.spaces.len() <= SPACES);
}

#[test]
fn another_physical_hart_has_no_stale_asid() {
    let (mut shadow, mut hart) = (shadow(64), FakeHart::default());
    let first = shadow.enter(USER, &mut hart);
    assert_eq!(shadow.enter(USER, &mut hart), first);
    hart.index = 1;
    assert_ne!(shadow.enter(USER, &mut hart).asid, first.asid);
    hart.index = 0;
    assert_ne!(shadow.enter(USER, &mut hart).asid, first.asid);
    let last = shadow.enter(USER, &mut hart);
    hart.generation += 1;
    assert_ne!(shadow.enter(USER, &mut hart).asid, last.asid);
}
