//! Accesses to what isn't RAM: the hardware tells the address, the instruction tells the rest.

use rvisor_hart::{AccessKind, DeviceAccess, Exit, Hart, Target, Trap};
use rvisor_isa::{Exception, Instruction, Op, decode};
use rvisor_waist::{GuestPhysical, GuestVirtual, PAGE_SIZE, Width};

use super::{Vs, cause};
use crate::virtualization::{VirtualProcessor, VirtualTrap};

impl<P: VirtualProcessor> Vs<'_, P> {
    /// A load or store at a guest physical address that has no RAM.
    pub(super) fn access(&mut self, hart: &mut Hart, trap: &VirtualTrap) -> Option<Exit> {
        // Where the code is gone meanwhile, the guest's next fetch says so.
        let instruction = decode(self.processor.fetch(hart.pc)?);
        // Else it is the walk of the guest's tables that found no RAM.
        let is_own = trap.guest_physical % PAGE_SIZE == trap.value % PAGE_SIZE;
        let access = instruction.filter(|_| is_own).and_then(|instruction| {
            if is_float(instruction.op) {
                self.float.park(hart, self.processor);
            }
            device_access(hart, &instruction, trap)
        });
        if access.is_none() {
            let exception = match trap.cause {
                cause::LOAD => Exception::LoadAccessFault,
                _ => Exception::StoreAccessFault,
            };
            self.reflect(hart, Trap::exception(exception, trap.value));
        }
        access.map(Exit::Device)
    }
}

const fn is_float(op: Op) -> bool {
    matches!(op, Op::Flw | Op::Fld | Op::Fsw | Op::Fsd)
}

/// What an instruction accesses; `None` for those that devices don't serve, and across a boundary.
fn device_access(hart: &Hart, instruction: &Instruction, trap: &VirtualTrap) -> Option<DeviceAccess> {
    use Width::{Byte, Double, Half, Word};
    let (width, signed) = match instruction.op {
        Op::Lb | Op::Sb => (Byte, true),
        Op::Lbu => (Byte, false),
        Op::Lh | Op::Sh => (Half, true),
        Op::Lhu => (Half, false),
        Op::Lw | Op::Sw | Op::Flw | Op::Fsw => (Word, true),
        Op::Lwu => (Word, false),
        Op::Ld | Op::Sd | Op::Fld | Op::Fsd => (Double, true),
        _ => return None,
    };
    let kind = match instruction.op {
        Op::Flw | Op::Fld => AccessKind::Load { target: Target::Float(instruction.rd), signed },
        Op::Sb | Op::Sh | Op::Sw | Op::Sd => {
            AccessKind::Store { value: width.truncate(hart.x[usize::from(instruction.rs2 & 31)]) }
        }
        Op::Fsw | Op::Fsd => {
            AccessKind::Store { value: width.truncate(hart.f[usize::from(instruction.rs2 & 31)]) }
        }
        _ => AccessKind::Load { target: Target::Integer(instruction.rd), signed },
    };
    let address = GuestPhysical(trap.guest_physical);
    address.0.is_multiple_of(width.bytes()).then_some(DeviceAccess {
        address,
        virtual_address: GuestVirtual(trap.value),
        is_guest: false,
        width,
        kind,
        instruction_length: instruction.length,
    })
}
