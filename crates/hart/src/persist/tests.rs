use alloc::vec::Vec;

use super::*;
use crate::state::Config;
use crate::testing::{World, hart, supervisor_hart};

fn saved(hart: &mut Hart, world: &World) -> Vec<u8> {
    let mut writer = StateWriter::new();
    hart.save(world, &mut writer).unwrap();
    writer.finish()
}

fn restored(hart: &mut Hart, bytes: &[u8]) -> Result<(), StateError> {
    let mut reader = StateReader::new(bytes);
    hart.restore(&mut reader)?;
    reader.end()
}

/// A hart with as much state as there can be.
fn busy(mut hart: Hart, world: &World) -> Hart {
    hart.retired = 1000;
    for number in hart.saved_csrs().collect::<Vec<_>>() {
        let value = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(number) + 1);
        // Firmware's own stays as it was; of some registers, S-mode has a part.
        let value = match number {
            _ if !hart.config.supervisor_only || !is_machine_level(number) => value,
            MSTATUS => hart.csr.mstatus | value & SSTATUS_MASK,
            MIE | MIP => value & hart.csr.mideleg,
            MCYCLE | MINSTRET => value,
            _ => continue,
        };
        // Locked entries of the PMP would keep what is written afterwards.
        let value =
            if (PMPCFG0..PMPCFG0 + 16).contains(&number) { value & !0x8080_8080_8080_8080 } else { value };
        hart.set_csr(number, value);
    }
    hart.set_csr(SATP, 9 << 60 | 5 << 44 | 0x80001);
    for index in 1..32 {
        (hart.x[index], hart.f[index]) = (index as u64 * 3, index as u64 * 5);
    }
    (hart.pc, hart.privilege) = (0x8000_1234, Privilege::Supervisor);
    world.software_interrupt.store(true, core::sync::atomic::Ordering::Relaxed);
    hart
}

#[test]
fn restored_hart_has_the_same_state() {
    for inhibit in [0, 5] {
        for blank in [hart as fn() -> Hart, supervisor_hart] {
            let world = World::new();
            let mut first = busy(blank(), &world);
            if !first.config.supervisor_only {
                first.set_csr(MCOUNTINHIBIT, inhibit);
            }
            let bytes = saved(&mut first, &world);
            let mut second = blank();
            restored(&mut second, &bytes).unwrap();
            assert_eq!(second.csr, first.csr);
            assert_eq!((second.x, second.f, second.pc), (first.x, first.f, first.pc));
            assert_eq!((second.privilege, second.retired), (first.privilege, first.retired));
            assert_ne!(second.csr.mip & 2, 0, "the pulse was taken over");
            assert_eq!(saved(&mut second, &world), bytes);
        }
    }
}

#[test]
fn locked_pmp_entries_survive() {
    let world = World::new();
    let mut first = hart();
    first.set_csr(PMPADDR0 + 1, 0x2000_1000);
    first.set_csr(PMPCFG0, 0x8f00);
    let bytes = saved(&mut first, &world);
    let mut second = hart();
    restored(&mut second, &bytes).unwrap();
    assert_eq!(second.csr, first.csr);
}

#[test]
fn wires_are_not_written_down() {
    let world = World::new();
    world.set_lines(1 << 9 | 1 << 7);
    let bytes = saved(&mut hart(), &world);
    let mut second = hart();
    restored(&mut second, &bytes).unwrap();
    assert_eq!(second.csr.mip, 0);
}

#[test]
fn nonsense_returns_error_or_a_legal_state() {
    let world = World::new();
    let good = saved(&mut busy(hart(), &world), &world);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        let mut second = hart();
        if restored(&mut second, &bytes).is_ok() {
            let again = saved(&mut second, &world);
            let mut third = hart();
            restored(&mut third, &again).unwrap();
            assert_eq!(third.csr, second.csr, "byte {at}");
        }
        assert!(restored(&mut hart(), &good[..at]).is_err(), "length {at}");
    }
}

#[test]
fn state_cannot_change_what_firmware_has_set_up() {
    let world = World::new();
    let mut good = busy(supervisor_hart(), &world);
    let bytes = saved(&mut good, &world);
    restored(&mut supervisor_hart(), &bytes).unwrap();
    let numbers = [
        MEDELEG,
        MIDELEG,
        MENVCFG,
        MCOUNTEREN,
        MCOUNTINHIBIT,
        MTVEC,
        MSCRATCH,
        MEPC,
        MSTATEEN0,
        PMPADDR0,
        PMPCFG0,
    ];
    for number in numbers {
        let mut hart = supervisor_hart();
        let before = hart.csr_value(&world, number).unwrap();
        hart.set_csr(number, before ^ 0x10);
        if hart.csr_value(&world, number) != Ok(before) {
            let bytes = saved(&mut hart, &world);
            let refused = restored(&mut supervisor_hart(), &bytes);
            assert_eq!(refused, Err(StateError::Invalid("CSR of M-mode")), "{number:#x}");
        }
    }
    // Modification of privilege, and traps of what S-mode does, are M-mode's to ask for.
    for bit in [17, 20, 21, 22, 11] {
        let mut hart = supervisor_hart();
        hart.set_csr(MSTATUS, hart.csr.mstatus | 1 << bit);
        let bytes = saved(&mut hart, &world);
        assert!(restored(&mut supervisor_hart(), &bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn machine_mode_without_machine_mode_is_refused() {
    let world = World::new();
    let bytes = saved(&mut hart(), &world);
    assert_eq!(restored(&mut supervisor_hart(), &bytes), Err(StateError::Invalid("privilege mode")));
    let mut few = Hart::new(Config { pmp_entries: 0, ..Config::default() });
    assert_eq!(restored(&mut few, &bytes), Err(StateError::Invalid("CSR number")));
}
