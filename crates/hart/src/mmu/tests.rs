use rvisor_isa::csr::{envcfg, pmpcfg};

use super::pte::Pte;
use super::*;
use crate::pmp::Pmp;
use crate::testing::{RAM, World, supervisor_hart};
use crate::trap::Cause;

const ROOT: u64 = RAM + 0x1000;
const PAGE: u64 = RAM + 0x8_0000;
const RWX: u64 = Pte::R | Pte::W | Pte::X;
const AD: u64 = Pte::A | Pte::D;

/// An address with a different index at every level.
const ADDRESS: u64 = 0x12_3456_7abc;

/// A hart in S-mode and its page tables: `leaf` maps [`ADDRESS`] at `level` of a tree that starts at [`ROOT`].
fn mapped(mode: TranslationMode, level: u32, leaf: u64) -> (Hart, World) {
    let (mut hart, world) = (supervisor_hart(), World::new());
    let satp_mode = match mode {
        TranslationMode::Bare => satp::BARE,
        TranslationMode::Sv39 => satp::SV39,
        TranslationMode::Sv48 => satp::SV48,
        TranslationMode::Sv57 => satp::SV57,
    };
    hart.csr.satp = satp_mode << satp::MODE_SHIFT | 7 << satp::ASID_SHIFT | ROOT >> 12;
    for at in (level + 1..mode.levels()).rev() {
        world.ram.set_double(entry(mode, at), pte(table(mode, at - 1), Pte::V));
    }
    world.ram.set_double(entry(mode, level), leaf);
    (hart, world)
}

fn table(mode: TranslationMode, level: u32) -> u64 {
    ROOT + 0x1000 * u64::from(mode.levels() - 1 - level)
}

fn entry(mode: TranslationMode, level: u32) -> u64 {
    table(mode, level) + 8 * (ADDRESS >> (12 + 9 * level) & 0x1ff)
}

fn pte(physical: u64, bits: u64) -> u64 {
    physical >> 12 << 10 | bits
}

fn translate(hart: &mut Hart, world: &World, access: Access) -> Result<Translation, Exception> {
    translate_address(hart, world, access, ADDRESS)
}

fn translate_address(
    hart: &mut Hart,
    world: &World,
    access: Access,
    address: u64,
) -> Result<Translation, Exception> {
    hart.translate(world, GuestVirtual(address), access, 4).map_err(|trap| {
        assert_eq!(trap.value, address);
        match trap.cause {
            Cause::Exception(exception) => exception,
            Cause::Interrupt(interrupt) => panic!("{interrupt:?}"),
        }
    })
}

/// What the three kinds of access say to a 4 KiB page of Sv39 with these bits besides V.
fn allowed(bits: u64, change: impl Fn(&mut Hart)) -> [bool; 3] {
    [Access::Load, Access::Store, Access::Execute].map(|access| {
        let (mut hart, world) = mapped(TranslationMode::Sv39, 0, pte(PAGE, Pte::V | bits));
        change(&mut hart);
        translate(&mut hart, &world, access).is_ok()
    })
}

#[test]
fn every_mode_finds_pages_of_every_size() {
    for mode in [TranslationMode::Sv39, TranslationMode::Sv48, TranslationMode::Sv57] {
        for level in 0..mode.levels() {
            let size = 1 << (12 + 9 * level);
            let base = (1 << 55) & !(size - 1);
            let (mut hart, world) = mapped(mode, level, pte(base, Pte::V | RWX | AD));
            let found = translate(&mut hart, &world, Access::Load).unwrap();
            assert_eq!(found.physical, GuestPhysical(base + (ADDRESS & (size - 1))), "{mode:?} {level}");
            assert_eq!(found.page_size, size);
            assert!(found.whole_page && found.writable && found.readable && !found.global && !found.user);
        }
    }
}

#[test]
fn superpage_that_is_not_aligned_faults() {
    let (mut hart, world) = mapped(TranslationMode::Sv39, 1, pte(PAGE + 0x1000, Pte::V | RWX | AD));
    assert_eq!(translate(&mut hart, &world, Access::Load), Err(Exception::LoadPageFault));
}

#[test]
fn address_that_is_not_canonical_faults() {
    for (mode, bits) in
        [(TranslationMode::Sv39, 39), (TranslationMode::Sv48, 48), (TranslationMode::Sv57, 57)]
    {
        let (mut hart, world) = mapped(mode, 0, 0);
        let address = ADDRESS | 1 << bits;
        let fault = translate_address(&mut hart, &world, Access::Execute, address);
        assert_eq!(fault, Err(Exception::InstructionPageFault));
        let level = mode.levels() - 1;
        world.ram.set_double(table(mode, level) + 0xff8, pte(0, Pte::V | RWX | AD));
        assert!(
            translate_address(&mut hart, &world, Access::Load, u64::MAX << (bits - 1) | 0x7f << 48).is_err()
        );
        assert!(translate_address(&mut hart, &world, Access::Load, u64::MAX << 20).is_ok());
    }
}

#[test]
fn permissions_follow_the_bits_of_the_entry() {
    let cases = [
        (Pte::R, [true, false, false]),
        (Pte::R | Pte::W, [true, true, false]),
        (Pte::X, [false, false, true]),
        (Pte::R | Pte::X, [true, false, true]),
        (RWX, [true, true, true]),
        (Pte::W, [false, false, false]),
        (Pte::W | Pte::X, [false, false, false]),
    ];
    for (bits, expected) in cases {
        assert_eq!(allowed(bits | AD, |_| {}), expected, "{bits:#x}");
    }
}

#[test]
fn mxr_lets_loads_read_executable_pages() {
    assert_eq!(allowed(Pte::X | AD, |hart| hart.csr.mstatus |= mstatus::MXR), [true, false, true]);
}

#[test]
fn user_pages_are_for_user_mode_unless_sum_lends_them() {
    let user = |hart: &mut Hart| hart.privilege = Privilege::User;
    assert_eq!(allowed(RWX | AD, user), [false; 3]);
    assert_eq!(allowed(RWX | Pte::U | AD, user), [true; 3]);
    assert_eq!(allowed(RWX | Pte::U | AD, |_| {}), [false; 3]);
    assert_eq!(allowed(RWX | Pte::U | AD, |hart| hart.csr.mstatus |= mstatus::SUM), [true, true, false]);
}

#[test]
fn reserved_bits_of_a_leaf_fault() {
    for bit in 54..64 {
        let leaf = pte(PAGE, Pte::V | RWX | AD | 1 << bit);
        let (mut hart, world) = mapped(TranslationMode::Sv39, 0, leaf);
        let legal = bit == 61 || bit == 62;
        assert_eq!(translate(&mut hart, &world, Access::Load).is_ok(), legal, "bit {bit}");
        hart.csr.menvcfg &= !envcfg::PBMTE;
        assert!(translate(&mut hart, &world, Access::Load).is_err(), "bit {bit} without Svpbmt");
    }
    assert_eq!(allowed(RWX | AD | Pte::PBMT, |_| {}), [false; 3]);
}

#[test]
fn reserved_bits_of_a_pointer_fault() {
    let mode = TranslationMode::Sv39;
    for (bits, legal) in [
        (0, true),
        (Pte::G, true),
        (3 << 8, true),
        (Pte::A, false),
        (Pte::D, false),
        (Pte::U, false),
        (1 << 61, false),
        (Pte::N, false),
        (1 << 54, false),
    ] {
        let (mut hart, world) = mapped(mode, 0, pte(PAGE, Pte::V | RWX | AD));
        world.ram.set_double(entry(mode, 1), pte(table(mode, 0), Pte::V | bits));
        assert_eq!(translate(&mut hart, &world, Access::Load).is_ok(), legal, "{bits:#x}");
    }
}

#[test]
fn pointer_at_the_last_level_faults() {
    let (mut hart, world) = mapped(TranslationMode::Sv48, 0, pte(ROOT, Pte::V));
    assert_eq!(translate(&mut hart, &world, Access::Store), Err(Exception::StorePageFault));
}

#[test]
fn table_that_points_to_itself_faults() {
    for mode in [TranslationMode::Sv39, TranslationMode::Sv48, TranslationMode::Sv57] {
        let (mut hart, world) = mapped(mode, 0, 0);
        for entry in 0..512 {
            world.ram.set_double(ROOT + 8 * entry, pte(ROOT, Pte::V));
        }
        assert_eq!(translate(&mut hart, &world, Access::Load), Err(Exception::LoadPageFault));
    }
}

#[test]
fn table_outside_memory_is_an_access_fault() {
    let (mut hart, world) = mapped(TranslationMode::Sv39, 0, 0);
    for outside in [0, RAM + (1 << 20), ((1 << 44) - 1) << 12] {
        hart.csr.satp = satp::SV39 << satp::MODE_SHIFT | outside >> 12;
        assert_eq!(translate(&mut hart, &world, Access::Load), Err(Exception::LoadAccessFault));
        assert_eq!(translate(&mut hart, &world, Access::Store), Err(Exception::StoreAccessFault));
        assert_eq!(translate(&mut hart, &world, Access::Execute), Err(Exception::InstructionAccessFault));
    }
}

#[test]
fn hardware_sets_accessed_and_dirty_with_svadu() {
    let mode = TranslationMode::Sv39;
    let leaf = pte(PAGE, Pte::V | RWX);
    let (mut hart, world) = mapped(mode, 0, leaf);
    assert!(!translate(&mut hart, &world, Access::Load).unwrap().writable);
    assert_eq!(world.ram.double(entry(mode, 0)), leaf | Pte::A);
    assert!(translate(&mut hart, &world, Access::Store).unwrap().writable);
    assert_eq!(world.ram.double(entry(mode, 0)), leaf | AD);
}

#[test]
fn access_that_faults_sets_nothing() {
    let mode = TranslationMode::Sv39;
    let leaf = pte(PAGE, Pte::V | Pte::R);
    let (mut hart, world) = mapped(mode, 0, leaf);
    assert_eq!(translate(&mut hart, &world, Access::Store), Err(Exception::StorePageFault));
    assert_eq!(world.ram.double(entry(mode, 0)), leaf);
}

#[test]
fn software_sets_accessed_and_dirty_with_svade() {
    let svade = |hart: &mut Hart| hart.csr.menvcfg &= !envcfg::ADUE;
    assert_eq!(allowed(RWX, svade), [false; 3]);
    assert_eq!(allowed(RWX | Pte::A, svade), [true, false, true]);
    assert_eq!(allowed(RWX | AD, svade), [true; 3]);
}

#[test]
fn napot_page_is_64_kib() {
    let leaf = pte(PAGE | 0x8000, Pte::V | RWX | AD | Pte::N);
    let (mut hart, world) = mapped(TranslationMode::Sv39, 0, leaf);
    let found = translate(&mut hart, &world, Access::Load).unwrap();
    assert_eq!(found.physical, GuestPhysical(PAGE | ADDRESS & 0xffff));
    assert_eq!(found.page_size, 0x1_0000);
}

#[test]
fn reserved_napot_sizes_fault() {
    for low in (0..16).filter(|&low| low != 8) {
        let leaf = pte(PAGE | low << 12, Pte::V | RWX | AD | Pte::N);
        let (mut hart, world) = mapped(TranslationMode::Sv39, 0, leaf);
        assert!(translate(&mut hart, &world, Access::Load).is_err(), "{low}");
    }
    let (mut hart, world) = mapped(TranslationMode::Sv39, 1, pte(0, Pte::V | RWX | AD | Pte::N));
    assert!(translate(&mut hart, &world, Access::Load).is_err());
}

#[test]
fn global_pointer_makes_its_subtree_global() {
    let mode = TranslationMode::Sv39;
    let (mut hart, world) = mapped(mode, 0, pte(PAGE, Pte::V | RWX | AD));
    world.ram.set_double(entry(mode, 2), pte(table(mode, 1), Pte::V | Pte::G));
    assert!(translate(&mut hart, &world, Access::Load).unwrap().global);
}

#[test]
fn machine_mode_is_not_translated_unless_mprv_says_so() {
    let (mut hart, world) = mapped(TranslationMode::Sv39, 0, pte(PAGE, Pte::V | RWX | AD));
    hart.privilege = Privilege::Machine;
    assert_eq!(translate(&mut hart, &world, Access::Load).unwrap().physical, GuestPhysical(ADDRESS));
    hart.csr.mstatus |= mstatus::MPRV | 1 << mstatus::MPP_SHIFT;
    let page = GuestPhysical(PAGE | ADDRESS & 0xfff);
    assert_eq!(translate(&mut hart, &world, Access::Load).unwrap().physical, page);
    assert_eq!(translate(&mut hart, &world, Access::Execute).unwrap().physical, GuestPhysical(ADDRESS));
    let context = hart.translation_context();
    assert_eq!(
        (context.fetch, context.data, context.asid),
        (Privilege::Machine, Privilege::Supervisor, Some(7))
    );
}

#[test]
fn bare_mode_leaves_addresses_as_they_are() {
    let (mut hart, world) = (supervisor_hart(), World::new());
    let found = translate(&mut hart, &world, Access::Store).unwrap();
    assert_eq!(found.physical, GuestPhysical(ADDRESS));
    assert_eq!(hart.translation_context().asid, None);
}

/// Protects a page with an entry of higher priority than the one that opens everything.
fn protect(hart: &mut Hart, page: u64, permissions: u8) {
    let napot_4k = page >> 2 | 0x1ff;
    hart.csr.pmp.set_address(0, napot_4k);
    hart.csr.pmp.set_address(1, u64::MAX);
    let config = permissions | pmpcfg::NAPOT << pmpcfg::A_SHIFT;
    hart.csr.pmp.set_config(0, u64::from(config) | 0x1f00);
}

#[test]
fn protection_applies_to_the_page_itself() {
    let (mut hart, world) = mapped(TranslationMode::Sv39, 0, pte(PAGE, Pte::V | RWX | AD));
    protect(&mut hart, PAGE, pmpcfg::R);
    let found = translate(&mut hart, &world, Access::Load).unwrap();
    assert!(found.readable && !found.writable && found.whole_page);
    assert_eq!(translate(&mut hart, &world, Access::Store), Err(Exception::StoreAccessFault));
    assert_eq!(translate(&mut hart, &world, Access::Execute), Err(Exception::InstructionAccessFault));
}

#[test]
fn protection_applies_to_page_tables() {
    let mode = TranslationMode::Sv39;
    let leaf = pte(PAGE, Pte::V | RWX);
    let (mut hart, world) = mapped(mode, 0, leaf);
    protect(&mut hart, table(mode, 0), 0);
    assert_eq!(translate(&mut hart, &world, Access::Execute), Err(Exception::InstructionAccessFault));
    protect(&mut hart, table(mode, 0), pmpcfg::R);
    assert_eq!(translate(&mut hart, &world, Access::Load), Err(Exception::LoadAccessFault));
    assert_eq!(world.ram.double(entry(mode, 0)), leaf);
    world.ram.set_double(entry(mode, 0), leaf | AD);
    assert!(translate(&mut hart, &world, Access::Load).is_ok());
}

#[test]
fn page_with_a_protection_boundary_is_not_whole() {
    let (mut hart, world) = mapped(TranslationMode::Sv39, 0, pte(PAGE, Pte::V | RWX | AD));
    let word = PAGE | 0x100;
    hart.csr.pmp.set_address(0, word >> 2);
    hart.csr.pmp.set_address(1, u64::MAX);
    hart.csr.pmp.set_config(0, u64::from(pmpcfg::NA4 << pmpcfg::A_SHIFT) | 0x1f00);
    assert!(!translate(&mut hart, &world, Access::Load).unwrap().whole_page);
    let protected = ADDRESS & !0xfff | 0x100;
    let fault = translate_address(&mut hart, &world, Access::Load, protected);
    assert_eq!(fault, Err(Exception::LoadAccessFault));
}

/// Numbers that look random, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.0 ^ self.0 >> 32
    }
}

#[test]
fn garbage_in_page_tables_gives_a_translation_or_a_fault() {
    let (mut hart, world) = (supervisor_hart(), World::new());
    let mut noise = Noise(1);
    let mut found = 0;
    for _ in 0..200 {
        for entry in 0..4 * 512 {
            // Pointers and leaves in about equal parts, into the first pages of RAM and outside.
            let page = RAM + (noise.next() % 5) * 0x1000;
            let bits = noise.next() & 0xff & if entry % 2 == 0 { !(RWX | AD | Pte::U) } else { !0 };
            let rare = if noise.next().is_multiple_of(8) { noise.next() << 54 } else { 0 };
            world.ram.set_double(RAM + 8 * entry, pte(page, bits | Pte::V | rare));
        }
        for _ in 0..50 {
            let mode = [satp::SV39, satp::SV48, satp::SV57][(noise.next() % 3) as usize];
            hart.csr.satp = mode << satp::MODE_SHIFT | RAM >> 12;
            hart.csr.mstatus = noise.next() & (mstatus::SUM | mstatus::MXR);
            let address = (noise.next() as i64 >> (noise.next() % 52)) as u64;
            let access = [Access::Load, Access::Store, Access::Execute][(noise.next() % 3) as usize];
            let first = translate_address(&mut hart, &world, access, address);
            let second = translate_address(&mut hart, &world, access, address);
            assert_eq!(first, second, "{access:?} {address:#x}");
            found += u32::from(first.is_ok());
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn peeked_code_page_is_what_a_fetch_goes_to_and_sets_nothing() {
    for mode in [TranslationMode::Sv39, TranslationMode::Sv48, TranslationMode::Sv57] {
        for (level, bits, expected) in [
            (0, RWX | AD | Pte::V, Some((PAGE, 0x1000))),
            (1, Pte::X | Pte::A | Pte::V | Pte::G, Some((PAGE & !0x1f_ffff, 0x20_0000))),
            (0, RWX | Pte::V, None),
            (0, Pte::R | AD | Pte::V, None),
            (0, RWX | AD | Pte::V | Pte::U, None),
            (0, RWX | AD, None),
        ] {
            let size = 0x1000u64 << (9 * level);
            let leaf = pte(PAGE & !(size - 1), bits);
            let (mut hart, world) = mapped(mode, level, leaf);
            hart.csr.menvcfg |= envcfg::ADUE;
            let found = hart.peek_code_page(&world, GuestVirtual(ADDRESS));
            assert_eq!(found.map(|found| (found.physical.0, found.page_size)), expected, "{bits:x}");
            assert_eq!(world.ram.load::<u64>(GuestPhysical(entry(mode, level))), Ok(leaf));
            if let Some(found) = found {
                let fetched = translate(&mut hart, &world, Access::Execute).unwrap();
                assert_eq!(fetched.physical.0 & !(size - 1), found.physical.0);
                assert_eq!((fetched.page_size, fetched.global), (found.page_size, found.global));
            }
        }
    }
}

#[test]
fn peeked_large_code_page_is_not_one_where_pmp_tells_parts_of_it_apart() {
    let leaf = pte(PAGE & !0x1f_ffff, RWX | AD | Pte::V);
    let (mut hart, world) = mapped(TranslationMode::Sv39, 1, leaf);
    assert!(hart.peek_code_page(&world, GuestVirtual(ADDRESS)).is_some());
    hart.csr.pmp = Pmp::new(16);
    hart.csr.pmp.set_address(0, (PAGE + 0x1000) >> 2);
    hart.csr.pmp.set_address(1, (1 << 54) - 1);
    let (tor, rwx) = (pmpcfg::TOR << pmpcfg::A_SHIFT, pmpcfg::R | pmpcfg::W | pmpcfg::X);
    hart.csr.pmp.set_config(0, u64::from(tor | pmpcfg::R) | u64::from(tor | rwx) << 8);
    assert!(hart.peek_code_page(&world, GuestVirtual(ADDRESS)).is_none());
}
