use rvisor_waist::GuestPhysical;

use super::*;
use crate::address::MachineAddress;
use crate::arch::layout::WINDOW_SLOTS;
use crate::shadow::space::LARGE;
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

const COPIES: MachineAddress = MachineAddress(0xc000_0000);
const GUEST: GuestPhysical = GuestPhysical(0x8000_0000);

/// Copies of pages of a guest whose RAM is at the machine addresses of `page`.
fn copies(pages: &[u64]) -> Copies {
    let copies = Copies::new(&(GUEST..GUEST.offset(16 << 20)), 2, |_| COPIES, |_| ());
    pages.iter().for_each(|page| _ = copy(&copies, *page));
    copies
}

fn copy(copies: &Copies, page: u64) -> Original {
    copies.copy(GUEST.offset(page), MachineAddress(0xa000_0000 + page), |_| true).unwrap()
}

fn executable(address: u64, is_large: bool) -> Page {
    let guest_size = if is_large { LARGE } else { 4096 };
    Page { rights: Pte::R | Pte::W | Pte::X, guest_size, is_large, ..page(address) }
}

/// Fills as the engine does.
fn fill(shadow: &mut Shadow, key: Key, page: &Page, copies: &Copies, hart: &mut FakeHart) {
    if shadow.generation() != copies.all().0 {
        shadow.keep_up(copies, hart);
    }
    match &copies.near(GUEST.offset(page.machine.0 - 0xa000_0000), if page.is_large { LARGE } else { 4096 })[..]
    {
        [] => shadow.fill(key, page, hart),
        near => shadow.fill_near(key, page, near, hart),
    }
}

fn mapped(shadow: &Shadow, key: Key, address: u64) -> Option<(MachineAddress, u64)> {
    find(shadow, key, address).map(|pte| (pte.address(), pte.rights() & !Pte::U))
}

#[test]
fn kernel_executes_the_copy_and_programs_the_page_and_nobody_writes() {
    for is_large in [false, true] {
        let (mut shadow, mut hart, copies) = (shadow(64), FakeHart::default(), copies(&[0x3000]));
        for key in [KERNEL, USER] {
            fill(&mut shadow, key, &executable(0x3000, is_large), &copies, &mut hart);
        }
        assert_eq!(mapped(&shadow, KERNEL, 0x3000), Some((COPIES, Pte::X)));
        assert_eq!(mapped(&shadow, USER, 0x3000), Some((MachineAddress(0xa000_3000), Pte::R | Pte::X)));
        let beside =
            if is_large { Some((MachineAddress(0xa000_4000), Pte::R | Pte::W | Pte::X)) } else { None };
        assert_eq!(mapped(&shadow, KERNEL, 0x4000), beside);
        // By another address it is only read.
        let alias = Page { address: GuestVirtual(0x20_7000), ..executable(0x3000, false) };
        fill(&mut shadow, KERNEL, &alias, &copies, &mut hart);
        assert_eq!(mapped(&shadow, KERNEL, 0x20_7000), Some((MachineAddress(0xa000_3000), Pte::R | Pte::X)));
        assert!(
            shadow.executes_copy(&KERNEL, 0x3ffe, &copies) && !shadow.executes_copy(&USER, 0x3ffe, &copies)
        );
        assert_eq!(shadow.copy_at(0x3ffe).map(|original| original.page), Some(GUEST.offset(0x3000)));
        assert_eq!(shadow.copy_at(0x20_7000), None);
    }
}

#[test]
fn spaces_that_map_it_alike_share_a_split_page() {
    let (mut shadow, mut hart, copies) = (shadow(64), FakeHart::default(), copies(&[0x3000]));
    let keys = [1, 2, 3].map(|number| Key { satp: KERNEL.satp + number, ..KERNEL });
    for key in keys {
        fill(&mut shadow, key, &executable(0x3000, true), &copies, &mut hart);
    }
    assert_eq!(shadow.splits.len(), 1);
    // A root and a middle table each.
    assert_eq!(shadow.left(), 64 - 1 - 2 * 3);
    // A fence there concerns one of them.
    shadow.enter(keys[0], &mut hart);
    shadow.fence(Some(GuestVirtual(0x5000)), Some((keys[0].satp >> satp::ASID_SHIFT) as u16), &mut hart);
    assert_eq!(shadow.spaces.len(), 0);
    assert_eq!(shadow.left(), 63);
    fill(&mut shadow, KERNEL, &executable(0x3000, true), &copies, &mut hart);
    // A page of its own in the same place leaves the shared table as it is.
    fill(&mut shadow, keys[1], &executable(0x3000, true), &copies, &mut hart);
    shadow.fill(KERNEL, &Page { machine: MachineAddress(0xb000_0000), ..page(0x4000) }, &mut hart);
    assert_eq!(find(&shadow, keys[1], 0x4000).map(Pte::address), Some(MachineAddress(0xa000_4000)));
    assert_eq!(find(&shadow, KERNEL, 0x4000).map(Pte::address), Some(MachineAddress(0xb000_0000)));
    assert_eq!(find(&shadow, KERNEL, 0x3000), None);
    shadow.clear();
    assert_eq!(shadow.left(), 64);
}

#[test]
fn rights_of_a_split_page_add_up() {
    let (mut shadow, mut hart, copies) = (shadow(64), FakeHart::default(), copies(&[0x3000]));
    fill(
        &mut shadow,
        KERNEL,
        &Page { rights: Pte::R | Pte::W, ..executable(0x4000, true) },
        &copies,
        &mut hart,
    );
    assert_eq!(mapped(&shadow, KERNEL, 0x3000), Some((MachineAddress(0xa000_3000), Pte::R)));
    let before = shadow.enter(KERNEL, &mut hart);
    fill(&mut shadow, KERNEL, &Page { rights: Pte::X, ..executable(0x3000, true) }, &copies, &mut hart);
    assert_eq!(mapped(&shadow, KERNEL, 0x3000), Some((COPIES, Pte::X)));
    assert_eq!(
        mapped(&shadow, KERNEL, 0x4000),
        Some((MachineAddress(0xa000_4000), Pte::R | Pte::W | Pte::X))
    );
    assert_ne!(shadow.enter(KERNEL, &mut hart).asid, before.asid);
}

#[test]
fn new_copy_takes_writes_and_its_place_away_and_a_removed_one_gives_them_back() {
    for is_large in [false, true] {
        let (mut shadow, mut hart, copies) = (shadow(64), FakeHart::default(), copies(&[0x20_0000]));
        for address in [0x3000, 0x4000] {
            fill(&mut shadow, KERNEL, &executable(address, is_large), &copies, &mut hart);
        }
        let before = shadow.enter(KERNEL, &mut hart);
        let original = copy(&copies, 0x3000);
        shadow.keep_up(&copies, &mut hart);
        assert_eq!(mapped(&shadow, KERNEL, 0x3000), None);
        assert_eq!(mapped(&shadow, KERNEL, 0x4000).is_some(), !is_large);
        assert_ne!(shadow.enter(KERNEL, &mut hart).asid, before.asid);
        let fences = hart.instruction_fences;
        let (guard, version) = (shadow.place(&original, 0x3000).unwrap(), shadow.place_numbers().1);
        assert_eq!(shadow.place(&original, 0x3000), Some(guard));
        assert_eq!(shadow.place_numbers().0[original.slot], guard.number);
        fill(&mut shadow, KERNEL, &executable(0x3000, is_large), &copies, &mut hart);
        assert_eq!(mapped(&shadow, KERNEL, 0x3000).map(|(machine, _)| machine), Some(original.copy));
        copies.remove(original.page);
        shadow.keep_up(&copies, &mut hart);
        assert!(hart.instruction_fences > fences);
        assert_eq!(mapped(&shadow, KERNEL, 0x3000), None);
        assert_eq!(shadow.place_numbers().0[original.slot], 0);
        assert_ne!(shadow.place_numbers().1, version);
        fill(&mut shadow, KERNEL, &executable(0x3000, is_large), &copies, &mut hart);
        let rights = Pte::R | Pte::W | Pte::X;
        let machine = MachineAddress(if is_large { 0xa000_0000 } else { 0xa000_3000 });
        assert_eq!(mapped(&shadow, KERNEL, 0x3000), Some((machine, rights)));
    }
}

#[test]
fn no_place_has_two_copies_and_no_copy_two_places() {
    let (mut shadow, mut hart, copies) = (shadow(64), FakeHart::default(), copies(&[0x3000, 0x5000]));
    let originals = copies.all().1;
    let place = shadow.place(&originals[0], 0x3000).unwrap();
    assert_eq!(shadow.place(&originals[0], 0x7000), None);
    assert_eq!(shadow.place(&originals[1], 0x3000), None);
    // In another address space there is the other page.
    let other = Key { satp: KERNEL.satp + 1, ..KERNEL };
    let page = Page { machine: originals[1].machine, ..executable(0x3000, false) };
    assert_eq!(shadow.displaced(&other, &page), [originals[0]]);
    let same = Page { machine: originals[0].machine, ..page };
    assert_eq!(shadow.displaced(&other, &same), []);
    assert_eq!(shadow.displaced(&USER, &page), []);
    // What is only read there could be executed at a call of a program's.
    assert_eq!(shadow.displaced(&other, &Page { rights: Pte::R, ..page }), [originals[0]]);
    assert_eq!(shadow.displaced(&other, &executable(0x5000, false)), []);
    let large = Page { machine: MachineAddress(0xa020_0000), ..executable(0, true) };
    assert_eq!(shadow.displaced(&other, &large), [originals[0]]);
    assert_eq!(shadow.displaced(&other, &executable(0, true)), []);
    // Without translation the page itself is executed.
    assert_eq!(shadow.displaced(&Key { satp: 0, ..KERNEL }, &same), [originals[0]]);
    // What was executed there before isn't any more.
    shadow.fill(
        other,
        &Page { machine: MachineAddress(0xb000_0000), ..executable(0x5000, false) },
        &mut hart,
    );
    let second = shadow.place(&originals[1], 0x5000).unwrap();
    assert_eq!(find(&shadow, other, 0x5000), None);
    assert_ne!(place.number, second.number);
}

#[test]
fn split_pages_everywhere_get_by_with_few_tables() {
    let (mut shadow, mut hart) = (shadow(LEAST_TABLES), FakeHart::default());
    let pages: Vec<u64> = (0..8).map(|number| number * LARGE + 0x3000).collect();
    let copies = copies(&pages);
    for number in 0..4000u64 {
        let key = Key { satp: (8 << 60) | (number % 7), ..KERNEL };
        let machine = MachineAddress(0xa000_0000 + number % 8 * LARGE);
        let address = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 25) as i64 >> 25;
        let rights = [Pte::R, Pte::R | Pte::W, Pte::X][(number % 3) as usize];
        let page = Page { machine, rights, ..executable(address as u64 & !0xfff, number % 5 != 0) };
        fill(&mut shadow, key, &page, &copies, &mut hart);
        assert!(find(&shadow, key, page.address.0).is_some());
    }
    shadow.clear();
    assert_eq!(shadow.left(), LEAST_TABLES as usize);
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
