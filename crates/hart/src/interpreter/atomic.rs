//! Atomics: A and Zacas (Unprivileged ISA, "A" Extension, and "Zacas").
//!
//! Everything is a compare-and-exchange of host memory, so that harts on other threads and devices see each
//! operation whole. `sc` succeeds if memory still holds what `lr` found.

use core::sync::atomic::{Ordering, fence};

use rvisor_isa::{Instruction, Op};
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, OutOfRange};

use super::memory::Fault;
use super::registers::Registers;
use crate::exit::Environment;
use crate::mmu::Access;
use crate::state::{Hart, Reservation};
use crate::trap::Trap;

const RELEASE: u8 = 1;

/// Executes an instruction of A or Zacas.
#[inline(never)]
pub fn execute<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use AtomicWidth::{Double, Word};
    match instruction.op {
        Op::LrW => load_reserved(hart, env, x, instruction, Word),
        Op::LrD => load_reserved(hart, env, x, instruction, Double),
        Op::ScW => store_conditional(hart, env, x, instruction, Word),
        Op::ScD => store_conditional(hart, env, x, instruction, Double),
        Op::AmocasW => compare_and_swap(hart, env, x, instruction, Word),
        Op::AmocasD => compare_and_swap(hart, env, x, instruction, Double),
        Op::AmocasQ => compare_and_swap_quad(hart, env, x, instruction),
        op => match read_modify_write(op) {
            Some((width, combine)) => modify(hart, env, x, instruction, width, combine),
            None => Err(Fault::Illegal),
        },
    }
}

/// New value of memory from what it holds and `rs2`; both sign-extended.
type Combine = fn(u64, u64) -> u64;

fn read_modify_write(op: Op) -> Option<(AtomicWidth, Combine)> {
    use AtomicWidth::{Double, Word};
    let signed_min: Combine = |old, new| (old as i64).min(new as i64) as u64;
    let signed_max: Combine = |old, new| (old as i64).max(new as i64) as u64;
    let narrow_min: Combine = |old, new| (old as u32).min(new as u32).into();
    let narrow_max: Combine = |old, new| (old as u32).max(new as u32).into();
    Some(match op {
        Op::AmoswapW => (Word, |_, new| new),
        Op::AmoaddW => (Word, u64::wrapping_add),
        Op::AmoxorW => (Word, |old, new| old ^ new),
        Op::AmoandW => (Word, |old, new| old & new),
        Op::AmoorW => (Word, |old, new| old | new),
        Op::AmominW => (Word, signed_min),
        Op::AmomaxW => (Word, signed_max),
        Op::AmominuW => (Word, narrow_min),
        Op::AmomaxuW => (Word, narrow_max),
        Op::AmoswapD => (Double, |_, new| new),
        Op::AmoaddD => (Double, u64::wrapping_add),
        Op::AmoxorD => (Double, |old, new| old ^ new),
        Op::AmoandD => (Double, |old, new| old & new),
        Op::AmoorD => (Double, |old, new| old | new),
        Op::AmominD => (Double, signed_min),
        Op::AmomaxD => (Double, signed_max),
        Op::AmominuD => (Double, u64::min),
        Op::AmomaxuD => (Double, u64::max),
        _ => return None,
    })
}

const fn bytes(width: AtomicWidth) -> u64 {
    match width {
        AtomicWidth::Word => 4,
        AtomicWidth::Double => 8,
    }
}

const fn sign_extend(value: u64, width: AtomicWidth) -> u64 {
    match width {
        AtomicWidth::Word => value as i32 as u64,
        AtomicWidth::Double => value,
    }
}

const fn zero_extend(value: u64, width: AtomicWidth) -> u64 {
    match width {
        AtomicWidth::Word => value as u32 as u64,
        AtomicWidth::Double => value,
    }
}

fn load<M: GuestMemory>(memory: &M, at: GuestPhysical, width: AtomicWidth) -> Result<u64, OutOfRange> {
    match width {
        AtomicWidth::Word => memory.load::<u32>(at).map(u64::from),
        AtomicWidth::Double => memory.load::<u64>(at),
    }
}

fn load_reserved<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
    width: AtomicWidth,
) -> Result<(), Fault> {
    let address = x[instruction.rs1];
    let at = hart.locate_atomic(env, address, Access::Load, bytes(width))?;
    if instruction.aux & RELEASE != 0 {
        fence(Ordering::SeqCst);
    }
    let value = load(env.memory(), at, width).map_err(|_| access_fault(Access::Load, address))?;
    fence(Ordering::Acquire);
    hart.reservation = Some(Reservation { address: at, value, width });
    x.write(instruction.rd, sign_extend(value, width));
    Ok(())
}

fn store_conditional<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
    width: AtomicWidth,
) -> Result<(), Fault> {
    let address = x[instruction.rs1];
    let at = hart.locate_atomic(env, address, Access::Store, bytes(width))?;
    let reserved = hart.reservation.take().filter(|held| held.address == at && held.width == width);
    let succeeded = match reserved {
        Some(held) => {
            let new = zero_extend(x[instruction.rs2], width);
            exchange(env, at, width, held.value, new, address)? == held.value
        }
        None => false,
    };
    x.write(instruction.rd, u64::from(!succeeded));
    Ok(())
}

fn modify<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
    width: AtomicWidth,
    combine: Combine,
) -> Result<(), Fault> {
    let address = x[instruction.rs1];
    let operand = sign_extend(x[instruction.rs2], width);
    let at = hart.locate_atomic(env, address, Access::Store, bytes(width))?;
    let mut old = load(env.memory(), at, width).map_err(|_| access_fault(Access::Store, address))?;
    loop {
        let new = zero_extend(combine(sign_extend(old, width), operand), width);
        let found = exchange(env, at, width, old, new, address)?;
        if found == old {
            break;
        }
        old = found;
    }
    x.write(instruction.rd, sign_extend(old, width));
    Ok(())
}

fn compare_and_swap<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
    width: AtomicWidth,
) -> Result<(), Fault> {
    let address = x[instruction.rs1];
    let at = hart.locate_atomic(env, address, Access::Store, bytes(width))?;
    let expected = zero_extend(x[instruction.rd], width);
    let new = zero_extend(x[instruction.rs2], width);
    let found = exchange(env, at, width, expected, new, address)?;
    x.write(instruction.rd, sign_extend(found, width));
    Ok(())
}

/// A pair's first register is even and holds the low half; the pair of `x0` reads zero and isn't written.
fn compare_and_swap_quad<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let address = x[instruction.rs1];
    let at = hart.locate_atomic(env, address, Access::Store, 16)?;
    let pair = |low: u8| {
        let high = if low == 0 { 0 } else { x[low + 1] };
        u128::from(high) << 64 | u128::from(x[low])
    };
    let found = env
        .memory()
        .compare_exchange_quad(at, pair(instruction.rd), pair(instruction.rs2))
        .map_err(|_| access_fault(Access::Store, address))?;
    if instruction.rd != 0 {
        x[instruction.rd] = found as u64;
        x[instruction.rd + 1] = (found >> 64) as u64;
    }
    Ok(())
}

fn exchange<E: Environment>(
    env: &E,
    at: GuestPhysical,
    width: AtomicWidth,
    expected: u64,
    new: u64,
    address: u64,
) -> Result<u64, Fault> {
    env.memory()
        .compare_exchange(at, width, expected, new)
        .map_err(|_| access_fault(Access::Store, address).into())
}

fn access_fault(access: Access, address: u64) -> Trap {
    Trap::exception(access.access_fault(), address)
}
