//! What the trap registers hold after instructions that trap.

use rvisor_isa::csr::{envcfg, mip, satp};
use rvisor_waist::{GuestMemory, GuestPhysical, OutOfRange};

use super::*;
use crate::exit::Exit;
use crate::testing::{RAM, World, supervisor_hart};

const HANDLER: u64 = RAM + 0x100;
/// Two consecutive virtual pages, of which tests map both or the first only.
const FIRST: u64 = 0x4000_0000;
const SECOND: u64 = FIRST + 0x1000;
/// Where they are in RAM: in the opposite order.
const FIRST_IN_RAM: u64 = RAM + 0x2_1000;
const SECOND_IN_RAM: u64 = RAM + 0x2_0000;
const ROOT: u64 = RAM + 0x1_0000;

const NOP: u32 = 0x0000_0013;
/// `j .`
const JUMP_TO_SELF: u32 = 0x0000_006f;
const EBREAK: u32 = 0x0010_0073;
const C_EBREAK: u32 = 0x9002;
const ECALL: u32 = 0x0000_0073;
/// `ld a0, 0(a1)`
const LOAD: u32 = 0x0005_b503;
/// `sd a0, 0(a1)`
const STORE: u32 = 0x00a5_b023;
/// `lr.d a0, (a1)`
const LOAD_RESERVED: u32 = 0x1005_b52f;
/// `sc.d a0, a2, (a1)`
const STORE_CONDITIONAL: u32 = 0x18c5_b52f;
/// `amoadd.d a0, a2, (a1)`
const AMO: u32 = 0x00c5_b52f;
/// `csrr a0, mstatus`
const READ_MSTATUS: u32 = 0x3000_2573;
/// `csrsi sstatus, 2`
const ENABLE_INTERRUPTS: u32 = 0x1001_6073;
/// `cbo.zero (a1)`
const ZERO_BLOCK: u32 = 0x0045_a00f;

const READ_ONLY: u64 = 0x43;
const READ_WRITE: u64 = 0xc7;
const ALL: u64 = 0xcf;

/// A hart in S-mode whose page tables map RAM to itself and the two pages with these bits (0: not at all).
fn mapped(first: u64, second: u64) -> (Hart, World) {
    let (mut hart, world) = (supervisor_hart(), World::new());
    let (middle, last) = (ROOT + 0x1000, ROOT + 0x2000);
    let pte = |physical: u64, bits: u64| physical >> 12 << 10 | bits;
    world.ram.set_double(ROOT + 8 * (RAM >> 30), pte(RAM, ALL));
    world.ram.set_double(ROOT + 8 * (FIRST >> 30), pte(middle, 1));
    world.ram.set_double(middle, pte(last, 1));
    world.ram.set_double(last, pte(FIRST_IN_RAM, first));
    world.ram.set_double(last + 8, pte(SECOND_IN_RAM, second));
    hart.csr.satp = satp::SV39 << satp::MODE_SHIFT | ROOT >> 12;
    hart.csr.stvec = HANDLER;
    (hart, world)
}

/// Executes one instruction at `pc`; `x11` (`a1`) holds an address.
fn execute(hart: &mut Hart, world: &World, instruction: u32, pc: u64, address: u64) {
    let physical = match pc & !0xfff {
        FIRST => FIRST_IN_RAM | pc & 0xfff,
        _ => pc,
    };
    world.ram.store(GuestPhysical(physical), instruction).unwrap();
    hart.pc = pc;
    hart.x[11] = address;
    assert_eq!(hart.step(world), Exit::Budget);
}

/// Checks that a trap was taken.
fn assert_trap(hart: &Hart, exception: Exception, epc: u64, value: u64) {
    assert_eq!(hart.csr.scause, exception.code(), "scause");
    assert_eq!((hart.csr.sepc, hart.csr.stval), (epc, value), "sepc and stval");
    assert_eq!((hart.pc, hart.retired), (HANDLER, 0), "pc and retired");
}

#[test]
fn fetch_that_faults_in_its_second_page_names_that_page() {
    let (mut hart, world) = mapped(ALL, 0);
    world.ram.store(GuestPhysical(FIRST_IN_RAM + 0xffe), NOP as u16).unwrap();
    hart.pc = FIRST + 0xffe;
    hart.step(&world);
    assert_trap(&hart, Exception::InstructionPageFault, FIRST + 0xffe, SECOND);
}

#[test]
fn instruction_in_two_pages_is_executed() {
    let (mut hart, world) = mapped(ALL, ALL);
    let [low, high] = [0x0551_u16, 0];
    let addi = 0x0555_0513_u32;
    world.ram.store(GuestPhysical(FIRST_IN_RAM + 0xffe), addi as u16).unwrap();
    world.ram.store(GuestPhysical(SECOND_IN_RAM), (addi >> 16) as u16).unwrap();
    hart.pc = FIRST + 0xffe;
    hart.step(&world);
    assert_eq!((hart.pc, hart.x[10], hart.retired), (SECOND + 2, 0x55, 1));
    // The same place with a compressed instruction that ends there.
    world.ram.store(GuestPhysical(FIRST_IN_RAM + 0xffe), low).unwrap();
    hart.pc = FIRST + 0xffe;
    hart.step(&world);
    assert_eq!((hart.pc, hart.x[10]), (SECOND, 0x55 + 0x14 + u64::from(high)));
}

#[test]
fn access_in_two_pages_names_the_part_that_faults() {
    for (instruction, exception) in [(LOAD, Exception::LoadPageFault), (STORE, Exception::StorePageFault)] {
        let (mut hart, world) = mapped(READ_WRITE, 0);
        execute(&mut hart, &world, instruction, RAM, FIRST + 0xffd);
        assert_trap(&hart, exception, RAM, SECOND);
        let (mut hart, world) = mapped(0, READ_WRITE);
        execute(&mut hart, &world, instruction, RAM, FIRST + 0xffd);
        assert_trap(&hart, exception, RAM, FIRST + 0xffd);
    }
}

#[test]
fn store_that_faults_in_its_second_page_writes_nothing() {
    let (mut hart, world) = mapped(READ_WRITE, READ_ONLY);
    hart.x[10] = u64::MAX;
    execute(&mut hart, &world, STORE, RAM, FIRST + 0xffc);
    assert_trap(&hart, Exception::StorePageFault, RAM, SECOND);
    assert_eq!(world.ram.double(FIRST_IN_RAM + 0xff8), 0);
}

#[test]
fn misaligned_access_in_two_pages_is_done() {
    let (mut hart, world) = mapped(READ_WRITE, READ_WRITE);
    hart.x[10] = 0x1122_3344_5566_7788;
    execute(&mut hart, &world, STORE, RAM, FIRST + 0xffd);
    assert_eq!(world.ram.double(FIRST_IN_RAM + 0xff8) >> 40, 0x66_7788);
    assert_eq!(world.ram.double(SECOND_IN_RAM), 0x11_2233_4455);
    hart.x[10] = 0;
    execute(&mut hart, &world, LOAD, RAM, FIRST + 0xffd);
    assert_eq!(hart.x[10], 0x1122_3344_5566_7788);
}

#[test]
fn illegal_instruction_gives_its_bits() {
    for (bits, value) in [(0, 0), (0xffff_0000, 0), (READ_MSTATUS, READ_MSTATUS), (0xffff_ffff, 0xffff_ffff)]
    {
        let (mut hart, world) = mapped(0, 0);
        execute(&mut hart, &world, bits, RAM, 0);
        assert_trap(&hart, Exception::IllegalInstruction, RAM, value.into());
    }
}

#[test]
fn breakpoint_gives_its_address_and_call_gives_nothing() {
    for (instruction, exception, value) in [
        (EBREAK, Exception::Breakpoint, RAM),
        (C_EBREAK, Exception::Breakpoint, RAM),
        (ECALL, Exception::EnvironmentCallFromSupervisor, 0),
    ] {
        let (mut hart, world) = mapped(0, 0);
        hart.config.supervisor_only = false;
        hart.csr.medeleg = u64::MAX;
        execute(&mut hart, &world, instruction, RAM, 0);
        assert_trap(&hart, exception, RAM, value);
    }
}

#[test]
fn supervisor_call_leaves_to_the_monitor() {
    let (mut hart, world) = mapped(0, 0);
    world.ram.store(GuestPhysical(RAM), ECALL).unwrap();
    hart.pc = RAM;
    assert_eq!(hart.step(&world), Exit::SbiCall);
    assert_eq!((hart.pc, hart.retired), (RAM, 0));
}

#[test]
fn atomics_must_be_aligned_and_raise_store_exceptions() {
    for (instruction, misaligned, read_only) in [
        (LOAD_RESERVED, Exception::LoadAddressMisaligned, None),
        (STORE_CONDITIONAL, Exception::StoreAddressMisaligned, Some(Exception::StorePageFault)),
        (AMO, Exception::StoreAddressMisaligned, Some(Exception::StorePageFault)),
    ] {
        let (mut hart, world) = mapped(READ_ONLY, 0);
        execute(&mut hart, &world, instruction, RAM, FIRST + 4);
        assert_trap(&hart, misaligned, RAM, FIRST + 4);
        let (mut hart, world) = mapped(READ_ONLY, 0);
        execute(&mut hart, &world, instruction, RAM, FIRST + 8);
        match read_only {
            Some(exception) => assert_trap(&hart, exception, RAM, FIRST + 8),
            None => assert_eq!(hart.pc, RAM + 4),
        }
    }
}

#[test]
fn fetch_outside_memory_is_an_access_fault() {
    let (mut hart, world) = mapped(0, 0);
    let outside = RAM + (1 << 20);
    hart.pc = outside;
    hart.step(&world);
    assert_trap(&hart, Exception::InstructionAccessFault, outside, outside);
}

#[test]
fn device_access_that_fails_is_an_access_fault() {
    for (instruction, exception) in [(LOAD, Exception::LoadAccessFault), (STORE, Exception::StoreAccessFault)]
    {
        let (mut hart, world) = mapped(0, 0);
        hart.csr.satp = 0;
        world.ram.store(GuestPhysical(RAM), instruction).unwrap();
        hart.pc = RAM;
        hart.x[11] = 0x1000;
        let Exit::Device(access) = hart.step(&world) else { panic!("not a device access") };
        assert_eq!((access.address, hart.pc), (GuestPhysical(0x1000), RAM));
        hart.finish_device_access(&access, Err(OutOfRange));
        assert_trap(&hart, exception, RAM, 0x1000);
    }
}

#[test]
fn atomic_outside_memory_is_an_access_fault() {
    let (mut hart, world) = mapped(0, 0);
    hart.csr.satp = 0;
    execute(&mut hart, &world, AMO, RAM, 0x1000);
    assert_trap(&hart, Exception::StoreAccessFault, RAM, 0x1000);
}

#[test]
fn interrupt_is_taken_before_the_instruction_behind_the_one_that_enables_it() {
    let (mut hart, world) = mapped(0, 0);
    world.set_lines(mip::SEIP);
    hart.csr.mie = mip::SEIP;
    world.ram.store(GuestPhysical(HANDLER), JUMP_TO_SELF).unwrap();
    world.ram.store(GuestPhysical(RAM), ENABLE_INTERRUPTS).unwrap();
    hart.pc = RAM;
    assert_eq!(hart.run(&world, 2), Exit::Budget);
    assert_eq!(hart.csr.scause, 1 << 63 | 9);
    assert_eq!((hart.csr.sepc, hart.pc, hart.retired), (RAM + 4, HANDLER, 2));
}

#[test]
fn fault_of_a_fetch_in_user_mode_stands_at_the_target_of_sret() {
    let (mut hart, world) = mapped(ALL, 0);
    world.ram.store(GuestPhysical(RAM), 0x1020_0073_u32).unwrap();
    hart.pc = RAM;
    hart.csr.sepc = FIRST;
    hart.step(&world);
    assert_eq!((hart.pc, hart.privilege, hart.retired), (FIRST, Privilege::User, 1));
    hart.step(&world);
    assert_eq!((hart.csr.scause, hart.csr.sepc, hart.csr.stval), (12, FIRST, FIRST));
    assert_eq!((hart.pc, hart.retired), (HANDLER, 1));
}

#[test]
fn cache_block_faults_name_the_address_in_the_register() {
    let (mut hart, world) = mapped(READ_ONLY, 0);
    hart.csr.menvcfg |= envcfg::CBZE;
    execute(&mut hart, &world, ZERO_BLOCK, RAM, FIRST + 0x123);
    assert_trap(&hart, Exception::StorePageFault, RAM, FIRST + 0x123);
}

#[test]
fn cache_block_with_a_protected_word_is_not_zeroed() {
    let (mut hart, world) = mapped(READ_WRITE, 0);
    world.ram.set_double(FIRST_IN_RAM, 1);
    hart.csr.pmp.set_address(0, (FIRST_IN_RAM + 0x30) >> 2);
    hart.csr.pmp.set_address(1, u64::MAX);
    hart.csr.pmp.set_config(0, 0x1f10);
    execute(&mut hart, &world, ZERO_BLOCK, RAM, FIRST + 1);
    assert_trap(&hart, Exception::StoreAccessFault, RAM, FIRST + 1);
    assert_eq!(world.ram.double(FIRST_IN_RAM), 1);
}
