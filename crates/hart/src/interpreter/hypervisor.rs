//! Instructions of the hypervisor extension: accesses to the memory of a virtual machine, and fences of its
//! translations (Privileged ISA, "Hypervisor Extension", section "Hypervisor Instructions"; Svinval).

use rvisor_isa::{Instruction, Op};
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE, Word};

use super::memory::{Fault, not_memory};
use super::registers::Registers;
use crate::exit::Environment;
use crate::mmu::Access;
use crate::state::Hart;
use crate::trap::Trap;

/// Executes an instruction of the extension.
pub fn execute<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
) -> Result<(), Fault> {
    let address = x[instruction.rs1];
    let store = x[instruction.rs2];
    let value = match instruction.op {
        Op::HfenceVvma | Op::HinvalVvma => {
            hart.check_fence_guest()?;
            let asid = (instruction.rs2 != 0).then_some(store as u16);
            hart.fence_guest((instruction.rs1 != 0).then_some(GuestVirtual(address)), asid);
            return Ok(());
        }
        Op::HfenceGvma | Op::HinvalGvma => {
            hart.check_fence_second_stage()?;
            hart.fence_second_stage((instruction.rs2 != 0).then_some(store as u16));
            return Ok(());
        }
        Op::HsvB => return write::<u8, E>(hart, env, address, store),
        Op::HsvH => return write::<u16, E>(hart, env, address, store),
        Op::HsvW => return write::<u32, E>(hart, env, address, store),
        Op::HsvD => return write::<u64, E>(hart, env, address, store),
        Op::HlvB => read::<u8, E>(hart, env, address, false)? as i8 as u64,
        Op::HlvBu => read::<u8, E>(hart, env, address, false)?,
        Op::HlvH => read::<u16, E>(hart, env, address, false)? as i16 as u64,
        Op::HlvHu => read::<u16, E>(hart, env, address, false)?,
        Op::HlvxHu => read::<u16, E>(hart, env, address, true)?,
        Op::HlvW => read::<u32, E>(hart, env, address, false)? as i32 as u64,
        Op::HlvWu => read::<u32, E>(hart, env, address, false)?,
        Op::HlvxWu => read::<u32, E>(hart, env, address, true)?,
        Op::HlvD => read::<u64, E>(hart, env, address, false)?,
        _ => return Err(Fault::Illegal),
    };
    x.write(instruction.rd, value);
    Ok(())
}

/// Where a part of an access goes that doesn't cross a page.
fn locate<E: Environment>(
    hart: &mut Hart,
    env: &E,
    address: u64,
    access: Access,
    size: u64,
    reads_code: bool,
) -> Result<GuestPhysical, Trap> {
    let accessor = hart.guest_accessor(reads_code);
    hart.translate_as(env, GuestVirtual(address), access, size, accessor)
        .map(|translation| translation.physical)
}

/// How many of `size` bytes stand in the page of the first.
fn in_first_page(address: u64, size: u64) -> u64 {
    size.min(PAGE_SIZE - address % PAGE_SIZE)
}

fn outside(address: u64, access: Access) -> Fault {
    Fault::Trap(Trap { is_guest: true, ..Trap::exception(access.access_fault(), address) })
}

fn read<T: Word, E: Environment>(
    hart: &mut Hart,
    env: &E,
    address: u64,
    reads_code: bool,
) -> Result<u64, Fault> {
    hart.check_guest_access()?;
    let first = in_first_page(address, T::SIZE);
    let physical = locate(hart, env, address, Access::Load, first, reads_code)?;
    if first == T::SIZE {
        return match env.memory().load::<T>(physical) {
            Ok(value) => Ok(value.widen()),
            Err(_) => Err(not_memory(address, Access::Load, physical, T::SIZE).of_guest()),
        };
    }
    let second = address.wrapping_add(first);
    let mut bytes = [0; 8];
    let (low, high) = bytes[..T::SIZE as usize].split_at_mut(first as usize);
    env.memory().read(physical, low).map_err(|_| outside(address, Access::Load))?;
    let physical = locate(hart, env, second, Access::Load, T::SIZE - first, reads_code)?;
    env.memory().read(physical, high).map_err(|_| outside(second, Access::Load))?;
    Ok(u64::from_le_bytes(bytes))
}

fn write<T: Word, E: Environment>(hart: &mut Hart, env: &E, address: u64, value: u64) -> Result<(), Fault> {
    hart.check_guest_access()?;
    let first = in_first_page(address, T::SIZE);
    let physical = locate(hart, env, address, Access::Store, first, false)?;
    if first == T::SIZE {
        return match env.memory().store::<T>(physical, T::truncate(value)) {
            Ok(()) => Ok(()),
            Err(_) => Err(not_memory(address, Access::Store, physical, T::SIZE).of_guest()),
        };
    }
    // Both parts are checked before anything is written.
    let second = address.wrapping_add(first);
    let range = env.memory().range();
    if !range.contains(&physical) {
        return Err(outside(address, Access::Store));
    }
    let behind = locate(hart, env, second, Access::Store, T::SIZE - first, false)?;
    if !range.contains(&behind) {
        return Err(outside(second, Access::Store));
    }
    let bytes = value.to_le_bytes();
    let (low, high) = bytes[..T::SIZE as usize].split_at(first as usize);
    env.memory().write(physical, low).map_err(|_| outside(address, Access::Store))?;
    env.memory().write(behind, high).map_err(|_| outside(second, Access::Store))
}
