use super::*;

const RWX: u8 = pmpcfg::R | pmpcfg::W | pmpcfg::X;
const TOR: u8 = pmpcfg::TOR << pmpcfg::A_SHIFT;
const NA4: u8 = pmpcfg::NA4 << pmpcfg::A_SHIFT;
const NAPOT: u8 = pmpcfg::NAPOT << pmpcfg::A_SHIFT;

/// A PMP whose first entries have these configurations and addresses (of bytes; NAPOT ones as they stand).
fn pmp(entries: &[(u8, u64)]) -> Pmp {
    let mut pmp = Pmp::new(16);
    for (index, &(config, address)) in (0..).zip(entries) {
        pmp.set_address(index, if mode(config) == pmpcfg::NAPOT { address } else { address >> 2 });
    }
    let configs = entries.iter().rev().fold(0, |value, &(config, _)| value << 8 | u64::from(config));
    pmp.set_config(0, configs);
    pmp
}

fn allows(pmp: &Pmp, address: u64, length: u64, access: Access, privilege: Privilege) -> bool {
    pmp.permissions(GuestPhysical(address), length, privilege).allow(access)
}

fn loads(pmp: &Pmp, address: u64, length: u64) -> bool {
    allows(pmp, address, length, Access::Load, Privilege::Supervisor)
}

#[test]
fn nothing_configured_allows_machine_mode_only() {
    let pmp = pmp(&[]);
    assert!(allows(&pmp, 0, 8, Access::Store, Privilege::Machine));
    assert!(!loads(&pmp, 0, 8));
    assert!(allows(&Pmp::new(0), 0, 8, Access::Store, Privilege::User));
}

#[test]
fn napot_size_comes_from_trailing_ones() {
    for ones in 0..54 {
        let size = 8 << ones;
        let pmp = pmp(&[(NAPOT | pmpcfg::R, (1 << ones) - 1)]);
        assert!(loads(&pmp, 0, 8) && loads(&pmp, size - 8, 8), "{ones}");
        assert!(!loads(&pmp, size, 1), "{ones}");
    }
}

#[test]
fn top_of_range_begins_where_the_entry_before_ends() {
    let pmp = pmp(&[(0, 0x1000), (TOR | pmpcfg::R, 0x2000), (TOR | pmpcfg::R, 0x1800)]);
    assert!(loads(&pmp, 0x1000, 8) && loads(&pmp, 0x1ff8, 8));
    assert!(!loads(&pmp, 0xff8, 8) && !loads(&pmp, 0x2000, 1));
}

#[test]
fn first_entry_has_zero_as_its_bottom() {
    let pmp = pmp(&[(TOR | pmpcfg::R, 0x1000)]);
    assert!(loads(&pmp, 0, 1) && !loads(&pmp, 0x1000, 1));
}

#[test]
fn entry_of_lowest_index_decides() {
    let pmp = pmp(&[(NA4 | pmpcfg::X, 0x1000), (TOR, 0), (NAPOT | RWX, u64::MAX)]);
    assert!(!loads(&pmp, 0x1000, 4));
    assert!(allows(&pmp, 0x1000, 4, Access::Execute, Privilege::User));
    assert!(loads(&pmp, 0x1004, 4));
}

#[test]
fn access_that_an_entry_matches_in_part_is_denied_in_every_mode() {
    let pmp = pmp(&[(NA4 | RWX, 0x1000), (NAPOT | RWX, u64::MAX)]);
    assert!(!loads(&pmp, 0x1000, 8) && !loads(&pmp, 0xffc, 8));
    assert!(!allows(&pmp, 0x1000, 8, Access::Load, Privilege::Machine));
    assert!(pmp.page_permissions(GuestPhysical(0x1800), Privilege::User).is_none());
    assert!(pmp.page_permissions(GuestPhysical(0x2800), Privilege::User).is_some());
}

#[test]
fn each_access_needs_its_own_permission() {
    let pmp = pmp(&[(NAPOT | pmpcfg::R | pmpcfg::X, u64::MAX)]);
    let allowed = [Access::Load, Access::Store, Access::Execute]
        .map(|access| allows(&pmp, 0x1000, 4, access, Privilege::User));
    assert_eq!(allowed, [true, false, true]);
}

#[test]
fn entry_binds_machine_mode_when_locked() {
    let store = |pmp: &Pmp| allows(pmp, 0x1000, 4, Access::Store, Privilege::Machine);
    assert!(store(&pmp(&[(NAPOT | pmpcfg::R, u64::MAX)])));
    assert!(!store(&pmp(&[(NAPOT | pmpcfg::R | pmpcfg::L, u64::MAX)])));
}

#[test]
fn locked_entry_keeps_configuration_and_addresses() {
    let mut pmp = pmp(&[(0, 0x1000), (TOR | pmpcfg::L, 0x2000), (NA4, 0x3000)]);
    let config = pmp.config(0);
    pmp.set_config(0, 0);
    assert_eq!(pmp.config(0), config.map(|value| value & 0xff00));
    for (index, expected) in [(0, 0x400), (1, 0x800), (2, 1)] {
        pmp.set_address(index, 1);
        assert_eq!(pmp.address(index), Some(expected));
    }
}

#[test]
fn write_without_read_becomes_no_access() {
    let mut pmp = pmp(&[]);
    pmp.set_config(2, u64::from(!pmpcfg::R));
    assert_eq!(pmp.config(2), Some(u64::from(NAPOT | pmpcfg::L)));
}

#[test]
fn registers_beyond_the_entries_do_not_exist() {
    let mut pmp = pmp(&[]);
    assert_eq!((pmp.config(1), pmp.config(4), pmp.address(16)), (None, None, None));
    pmp.set_config(4, u64::MAX);
    pmp.set_address(63, 1);
    assert_eq!(pmp, Pmp::new(16));
    assert_eq!(Pmp::new(64).config(14), Some(0));
}

#[test]
fn address_holds_54_bits() {
    let mut pmp = pmp(&[]);
    pmp.set_address(0, u64::MAX);
    assert_eq!(pmp.address(0), Some((1 << 54) - 1));
}

#[test]
fn open_pmp_allows_everything() {
    let mut pmp = Pmp::new(16);
    pmp.open();
    assert!(allows(&pmp, (1 << 56) - 8, 8, Access::Store, Privilege::User));
}
