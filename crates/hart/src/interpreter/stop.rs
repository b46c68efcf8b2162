//! Why the hot loop stopped.

use rvisor_isa::{Op, decode};
use rvisor_waist::Width;

use super::memory::Fault;
use super::registers::Registers;
use super::transform;
use crate::exit::{AccessKind, DeviceAccess, Exit, Target};
use crate::state::Hart;
use crate::trap::Trap;

/// Why execution stopped. The program counter and the count of retired instructions are exact, and so are
/// the interpreter's registers.
pub enum Stop {
    /// The extent is reached, or what follows depends on state outside the loop.
    Pause,
    /// An instruction traps.
    Trap(Trap),
    /// An instruction is illegal: its bits.
    Illegal(u32),
    /// The hart must leave.
    Exit(Exit),
}

/// What an instruction's fault leads to.
#[cold]
pub fn stop_of(hart: &Hart, x: &Registers, bits: u32, fault: Fault) -> Stop {
    match fault {
        Fault::Trap(trap) if hart.config.hypervisor => Stop::Trap(transform::describe(x, bits, trap)),
        Fault::Trap(trap) => Stop::Trap(trap),
        Fault::Illegal => Stop::Illegal(bits),
        Fault::Device { physical, address, is_guest } => match device_operands(hart, x, bits) {
            Some((width, kind, instruction_length)) => Stop::Exit(Exit::Device(DeviceAccess {
                address: physical,
                virtual_address: address,
                is_guest,
                width,
                kind,
                instruction_length,
            })),
            None => Stop::Illegal(bits),
        },
    }
}

/// Width, direction and length of a load or store.
fn device_operands(hart: &Hart, x: &Registers, bits: u32) -> Option<(Width, AccessKind, u8)> {
    use Width::{Byte, Double, Half, Word};
    let instruction = decode(bits)?;
    let load = |signed| AccessKind::Load { target: Target::Integer(instruction.rd), signed };
    let load_float = AccessKind::Load { target: Target::Float(instruction.rd), signed: false };
    let store = |width: Width| AccessKind::Store { value: width.truncate(x[instruction.rs2]) };
    let float = hart.f[usize::from(instruction.rs2 & 31)];
    let store_float = |width: Width| AccessKind::Store { value: width.truncate(float) };
    let (width, kind) = match instruction.op {
        Op::Lb | Op::HlvB => (Byte, load(true)),
        Op::Lh | Op::HlvH => (Half, load(true)),
        Op::Lw | Op::HlvW => (Word, load(true)),
        Op::Ld | Op::HlvD => (Double, load(false)),
        Op::Lbu | Op::HlvBu => (Byte, load(false)),
        Op::Lhu | Op::HlvHu | Op::HlvxHu => (Half, load(false)),
        Op::Lwu | Op::HlvWu | Op::HlvxWu => (Word, load(false)),
        Op::Flh => (Half, load_float),
        Op::Flw => (Word, load_float),
        Op::Fld => (Double, load_float),
        Op::Sb | Op::HsvB => (Byte, store(Byte)),
        Op::Sh | Op::HsvH => (Half, store(Half)),
        Op::Sw | Op::HsvW => (Word, store(Word)),
        Op::Sd | Op::HsvD => (Double, store(Double)),
        Op::Fsh => (Half, store_float(Half)),
        Op::Fsw => (Word, store_float(Word)),
        Op::Fsd => (Double, store_float(Double)),
        _ => return None,
    };
    Some((width, kind, instruction.length))
}
