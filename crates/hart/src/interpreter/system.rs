//! Instructions that reach beyond registers and plain memory: CSR instructions, traps and returns, fences,
//! waiting, cache blocks.

use core::sync::atomic::{Ordering, fence};

use rvisor_isa::{Exception, Extension, Instruction, Op, Privilege, csr};
use rvisor_waist::{GuestMemory, GuestVirtual};

use super::hypervisor;
use super::memory::Fault;
use super::registers::Registers;
use crate::csr::{CacheBlock, CsrOperation};
use crate::exit::{Environment, Exit};
use crate::mmu::Access;
use crate::state::Hart;
use crate::trap::Trap;

/// Bytes of a cache block (Zicbom, Zicboz): `riscv,cbom-block-size` in the device tree.
pub const CACHE_BLOCK: u64 = 64;

/// Whether a CSR, if it is written, may have a say in whether a timer interrupt is pending.
const fn concerns_timer(number: u16) -> bool {
    matches!(
        number,
        csr::STIMECMP
            | csr::VSTIMECMP
            | csr::HTIMEDELTA
            | csr::MIE
            | csr::SIE
            | csr::HIE
            | csr::VSIE
            | csr::HIDELEG
            | csr::MENVCFG
            | csr::HENVCFG
    )
}

/// How a system instruction ended.
pub enum Outcome {
    /// It is retired, and the next one follows.
    Next,
    /// It is retired, and the program counter stands where it led.
    Jumped,
    /// It is retired, and the hart leaves.
    Leave(Exit),
    /// It isn't retired, and the hart leaves.
    Stay(Exit),
}

/// Executes a system instruction. The program counter stands at it.
pub fn execute<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
) -> Result<Outcome, Fault> {
    match instruction.op {
        Op::Csrrw | Op::Csrrs | Op::Csrrc | Op::Csrrwi | Op::Csrrsi | Op::Csrrci => {
            access_csr(hart, env, x, instruction)?;
        }
        Op::Fence => order(instruction),
        Op::FenceI => hart.fence_instructions(),
        Op::SfenceVma | Op::SinvalVma => {
            hart.check_fence_vma()?;
            let address = (instruction.rs1 != 0).then(|| GuestVirtual(x[instruction.rs1]));
            let asid = (instruction.rs2 != 0).then(|| x[instruction.rs2] as u16);
            if hart.virtualized {
                hart.fence_guest(address, asid);
            } else {
                hart.fence_vma(address, asid);
            }
        }
        Op::SfenceWInval | Op::SfenceInvalIr => hart.check_fence_invalidate()?,
        Op::CboInval => manage(hart, env, x, instruction, CacheBlock::Invalidate)?,
        Op::CboClean | Op::CboFlush => manage(hart, env, x, instruction, CacheBlock::CleanOrFlush)?,
        Op::CboZero => zero_block(hart, env, x, instruction)?,
        Op::Ecall => return environment_call(hart),
        Op::Ebreak => return Err(Trap::exception(Exception::Breakpoint, hart.pc).into()),
        Op::Mret => {
            hart.mret()?;
            return Ok(Outcome::Jumped);
        }
        Op::Sret => {
            hart.sret()?;
            return Ok(Outcome::Jumped);
        }
        Op::Wfi => {
            hart.check_wfi()?;
            if !hart.wakes(env) {
                return Ok(Outcome::Leave(Exit::WaitForInterrupt));
            }
        }
        Op::HinvalVvma | Op::HinvalGvma => hypervisor::execute(hart, env, x, instruction)?,
        // Both may end for any reason, so they end at once.
        Op::WrsNto | Op::WrsSto => {}
        op if op.extension() == Extension::H => hypervisor::execute(hart, env, x, instruction)?,
        _ => return Err(Fault::Illegal),
    }
    Ok(Outcome::Next)
}

/// A CSR instruction.
pub fn access_csr<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &mut Registers,
    instruction: &Instruction,
) -> Result<(), Fault> {
    use CsrOperation::{Clear, Set, Write};
    let Instruction { op, rd, rs1, imm, .. } = *instruction;
    let (operation, value) = match op {
        Op::Csrrw => (Write, x[rs1]),
        Op::Csrrs => (Set, x[rs1]),
        Op::Csrrc => (Clear, x[rs1]),
        Op::Csrrwi => (Write, rs1.into()),
        Op::Csrrsi => (Set, rs1.into()),
        Op::Csrrci => (Clear, rs1.into()),
        _ => return Err(Fault::Illegal),
    };
    let operand = (operation == Write || rs1 != 0).then_some(value);
    let old = hart.csr_instruction(env, imm as u16, operation, operand)?;
    if concerns_timer(imm as u16) {
        hart.look_at_timer(env);
    }
    x.write(rd, old);
    Ok(())
}

/// `fence`: the host orders everything by itself but a load behind a store.
fn order(instruction: &Instruction) {
    const READ_OR_INPUT: i32 = 0b1010;
    const WRITE_OR_OUTPUT: i32 = 0b0101;
    const TSO: u8 = 0b1000;
    let (before, after) = (instruction.imm >> 4, instruction.imm);
    if before & WRITE_OR_OUTPUT != 0 && after & READ_OR_INPUT != 0 && instruction.aux != TSO {
        fence(Ordering::SeqCst);
    } else {
        fence(Ordering::AcqRel);
    }
}

fn environment_call(hart: &Hart) -> Result<Outcome, Fault> {
    let exception = match hart.privilege {
        Privilege::User => Exception::EnvironmentCallFromUser,
        Privilege::Supervisor if hart.virtualized => Exception::EnvironmentCallFromVirtualSupervisor,
        Privilege::Supervisor if hart.config.supervisor_only => return Ok(Outcome::Stay(Exit::SbiCall)),
        Privilege::Supervisor => Exception::EnvironmentCallFromSupervisor,
        Privilege::Machine => Exception::EnvironmentCallFromMachine,
    };
    Err(Trap::exception(exception, 0).into())
}

/// `cbo.inval`, `cbo.clean`, `cbo.flush`: memory is coherent, so that all they do is trap. Either a load or a
/// store of the whole block must be allowed.
fn manage<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &Registers,
    instruction: &Instruction,
    operation: CacheBlock,
) -> Result<(), Fault> {
    hart.check_cache_block(operation)?;
    let address = x[instruction.rs1];
    let block = address & !(CACHE_BLOCK - 1);
    if hart.locate(env, block, Access::Load, CACHE_BLOCK).is_err() {
        hart.locate(env, block, Access::Store, CACHE_BLOCK)
            .map_err(|trap| Trap { value: address, ..trap })?;
    }
    Ok(())
}

/// `cbo.zero`
fn zero_block<E: Environment>(
    hart: &mut Hart,
    env: &E,
    x: &Registers,
    instruction: &Instruction,
) -> Result<(), Fault> {
    hart.check_cache_block(CacheBlock::Zero)?;
    let address = x[instruction.rs1];
    let block = address & !(CACHE_BLOCK - 1);
    let physical = match hart.tlb.store(block, CACHE_BLOCK) {
        Some(physical) => physical,
        None => hart
            .locate(env, block, Access::Store, CACHE_BLOCK)
            .map_err(|trap| Trap { value: address, ..trap })?,
    };
    env.memory()
        .zero(physical, CACHE_BLOCK)
        .map_err(|_| Trap::exception(Exception::StoreAccessFault, address).into())
}
