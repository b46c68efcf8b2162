//! The Sail model of RISC-V as the other side: it decodes, executes and takes traps; fetching from memory and
//! advancing the counters, which its Rust translation leaves to its user, is done here with its own PMP check.

use std::panic::{self, AssertUnwindSafe};

use rvisor_isa::csr::{MCYCLE, MSTATEEN0, MSTATEEN3, SSTATEEN0, SSTATEEN3, counters, envcfg, mip, satp};
use rvisor_isa::{Extension, Instruction, Op, Privilege, compressed, decode, encode};
use rvisor_waist::{GuestMemory, GuestPhysical};
use softcore_rv64::prelude::bv;
use softcore_rv64::raw::{self, AccessType, ExceptionType, ExecutionResult, ctl_result, sync_exception};
use softcore_rv64::{Core, ast, config, new_core};

use crate::world::World;

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// An instruction retired.
    Retired,
    /// An instruction trapped.
    Trapped,
    /// There was none to execute: the fetch trapped.
    Unfetched,
    /// An interrupt was taken; no instruction was looked at.
    Interrupted,
}

/// The model, holding one hart.
#[derive(Clone)]
pub struct Model {
    core: Core,
    executed: u32,
    /// Whether loads and stores are executed: memory is the hart's too, so that only one side may go ahead.
    accesses_memory: bool,
    stored: Option<Store>,
}

/// What a store of the model would have written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    /// Where.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Zero-extended.
    pub value: u64,
}

fn configuration() -> raw::Config {
    let mut config = config::MINIMAL;
    macro_rules! support {
        ($($extension:ident)*) => { $(config.extensions.$extension.supported = true;)* };
    }
    support! {
        A B FD M S Sstc Sv39 Sv48 Sv57 Svbare Svinval U Zaamo Zalrsc Zba Zbb Zbc Zbs Zca Zcb Zcd Zfa Zfh
        Zfhmin Zicbom Zicboz Zicntr Zicond Zifencei Zihpm Zmmul
    }
    config.base.mtval_has_illegal_instruction_bits = true;
    config.base.writable_fiom = true;
    config.memory.pmp.count = 16;
    config.platform.cache_block_size_exp = 6;
    config
}

fn privilege_of(privilege: Privilege) -> raw::Privilege {
    match privilege {
        Privilege::User => raw::Privilege::User,
        Privilege::Supervisor => raw::Privilege::Supervisor,
        Privilege::Machine => raw::Privilege::Machine,
    }
}

/// Whether an instruction writes `mcycle`, which then doesn't count it.
fn writes_mcycle(bits: u32) -> bool {
    decode(bits).is_some_and(|instruction| {
        let writes = matches!(instruction.op, Op::Csrrw | Op::Csrrwi) || instruction.rs1 != 0;
        instruction.op.extension() == Extension::Zicsr && instruction.imm as u16 == MCYCLE && writes
    })
}

/// What of the instruction the model doesn't have, where it wouldn't say so itself.
pub(crate) fn missing(bits: u32) -> Option<&'static str> {
    let instruction = decode(bits)?;
    match instruction.op.extension() {
        Extension::Zacas => Some("Zacas isn't in the model"),
        Extension::Zawrs => Some("Zawrs isn't in the model"),
        Extension::Zicsr => match instruction.imm as u16 {
            MSTATEEN0..=MSTATEEN3 | SSTATEEN0..=SSTATEEN3 => Some("Smstateen isn't in the model"),
            _ => None,
        },
        _ => None,
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// A hart after reset.
    #[must_use]
    pub fn new() -> Self {
        let mut core = new_core(configuration());
        core.reset();
        core.stimecmp = bv(u64::MAX);
        Self { core, executed: 0, accesses_memory: false, stored: None }
    }

    /// An integer register.
    pub fn x(&mut self, register: usize) -> u64 {
        raw::rX(&mut self.core, raw::regno::Regno(register as i128)).bits()
    }

    /// Sets an integer register.
    pub fn set_x(&mut self, register: usize, value: u64) {
        raw::wX(&mut self.core, raw::regno::Regno(register as i128), bv(value));
    }

    /// The program counter.
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.core.PC.bits()
    }

    /// Sets the program counter.
    pub fn set_pc(&mut self, pc: u64) {
        self.core.PC = bv(pc);
    }

    /// The privilege mode.
    #[must_use]
    pub fn privilege(&self) -> Privilege {
        match self.core.cur_privilege {
            raw::Privilege::User => Privilege::User,
            raw::Privilege::Supervisor => Privilege::Supervisor,
            raw::Privilege::Machine => Privilege::Machine,
        }
    }

    /// Sets the privilege mode.
    pub fn set_privilege(&mut self, privilege: Privilege) {
        self.core.cur_privilege = privilege_of(privilege);
    }

    /// Whether the model has a CSR.
    pub fn has_csr(&mut self, number: u16) -> bool {
        raw::is_CSR_defined(&mut self.core, bv(number.into()))
    }

    /// A CSR's value, whatever the mode; one that [`has_csr`](Self::has_csr).
    pub fn csr(&mut self, number: u16) -> u64 {
        raw::read_CSR(&mut self.core, bv(number.into())).bits()
    }

    /// Writes a CSR as an instruction would, whatever the mode.
    pub fn set_csr(&mut self, number: u16, value: u64) {
        raw::write_CSR(&mut self.core, bv(number.into()), bv(value));
    }

    /// Sets bits of `menvcfg` that the model keeps but lets nobody write.
    pub fn force_menvcfg(&mut self, value: u64) {
        self.core.menvcfg.bits = bv(value);
    }

    /// Sets `mip`, bits that nobody can write included.
    pub fn force_mip(&mut self, value: u64) {
        self.core.mip.bits = bv(value);
    }

    /// Executes `mret`.
    pub fn mret(&mut self) {
        self.core.execute(ast::MRET(()));
        self.core.PC = self.core.nextPC;
    }

    /// Takes over time and the wires of the world.
    pub fn sense(&mut self, world: &World) {
        let wires = mip::MSIP | mip::MTIP | mip::MEIP;
        let mut pending = self.core.mip.bits.bits() & !wires | world.lines.get() & wires;
        self.core.mtime = bv(world.ticks.get());
        if self.core.menvcfg.bits.bits() & envcfg::STCE != 0 {
            pending &= !mip::STIP;
            if self.core.stimecmp.bits() <= world.ticks.get() {
                pending |= mip::STIP;
            }
        }
        self.core.mip.bits = bv(pending);
    }

    /// Takes an interrupt or executes one instruction.
    ///
    /// # Errors
    /// What the model lacks to do it; its state is then unchanged.
    pub fn step(&mut self, world: &World) -> Result<Outcome, String> {
        self.sense(world);
        let core = &mut self.core;
        if let Some((interrupt, target)) = raw::dispatchInterrupt(core, core.cur_privilege) {
            raw::handle_interrupt(core, interrupt, target);
            core.PC = core.nextPC;
            return Ok(Outcome::Interrupted);
        }
        if self.core.satp.bits() >> satp::MODE_SHIFT != satp::BARE && self.privilege() != Privilege::Machine {
            return Err("address translation isn't in the model".to_owned());
        }
        match self.fetch(world) {
            Ok(bits) => self.execute(world, bits),
            Err(address) => {
                self.trap(ExceptionType::E_Fetch_Access_Fault(()), address);
                Ok(Outcome::Unfetched)
            }
        }
    }

    /// The instruction at the program counter, as far as its length says; else the address that can't be
    /// fetched from.
    fn fetch(&mut self, world: &World) -> Result<u32, u64> {
        let pc = self.pc();
        let low = self.fetch_half(world, pc)?;
        if low & 3 != 3 {
            return Ok(low);
        }
        Ok(low | self.fetch_half(world, pc.wrapping_add(2))? << 16)
    }

    fn fetch_half(&mut self, world: &World, address: u64) -> Result<u32, u64> {
        let core = &mut self.core;
        let physical = raw::physaddr::Physaddr(bv(address));
        let mode = core.cur_privilege;
        if raw::pmpCheck(core, physical, 2, AccessType::InstructionFetch(()), mode).is_some() {
            return Err(address);
        }
        world.ram.load::<u16>(GuestPhysical(address)).map(u32::from).map_err(|_| address)
    }

    /// Has the model decode and execute an instruction.
    fn call(&mut self, bits: u32, expansion: Option<u32>) -> Result<ExecutionResult, String> {
        let core = &mut self.core;
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            let decoded = expansion.map_or(ast::ILLEGAL(bv(bits.into())), |word| core.decode_instr(word));
            raw::execute(core, decoded)
        }));
        result.map_err(|message| {
            let text = message.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| message.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            if text.contains("Unsupported") {
                "its translation to Rust leaves them out".to_owned()
            } else {
                text.to_owned()
            }
        })
    }

    /// The bits of the last instruction that was executed, or tried.
    #[must_use]
    pub fn executed(&self) -> u32 {
        self.executed
    }

    /// Like [`step`](Self::step), but executes integer loads and stores too. A store isn't carried out but
    /// kept for [`take_store`](Self::take_store).
    ///
    /// # Errors
    /// As for `step`.
    pub fn step_with_memory(&mut self, world: &World) -> Result<Outcome, String> {
        self.accesses_memory = true;
        let outcome = self.step(world);
        self.accesses_memory = false;
        outcome
    }

    /// The store of the last step, if it had one.
    pub fn take_store(&mut self) -> Option<Store> {
        self.stored.take()
    }

    /// A load or store: the model's translation has no memory, but it says what PMP allows. `None` for other
    /// instructions; else the fault, if there is one.
    fn access(&mut self, world: &World, bits: u32) -> Option<Result<Option<(ExceptionType, u64)>, String>> {
        let Instruction { op, rd, rs1, rs2, imm, .. } = decode(bits)?;
        let (size, is_store): (u64, bool) = match op {
            Op::Lb | Op::Lbu => (1, false),
            Op::Lh | Op::Lhu => (2, false),
            Op::Lw | Op::Lwu => (4, false),
            Op::Ld => (8, false),
            Op::Sb => (1, true),
            Op::Sh => (2, true),
            Op::Sw => (4, true),
            Op::Sd => (8, true),
            _ => return None,
        };
        let address = self.x(rs1.into()).wrapping_add(imm as i64 as u64);
        if !address.is_multiple_of(size) {
            return Some(Err("whether a misaligned access is split before PMP sees it is free".to_owned()));
        }
        let core = &mut self.core;
        let access = if is_store { AccessType::Write(()) } else { AccessType::Read(()) };
        let mode = raw::effectivePrivilege(access, core.mstatus, core.cur_privilege);
        let physical = raw::physaddr::Physaddr(bv(address));
        if let Some(fault) = raw::pmpCheck(core, physical, i128::from(size), access, mode) {
            return Some(Ok(Some((fault, address))));
        }
        let mut buffer = [0; 8];
        if world.ram.read(GuestPhysical(address), &mut buffer[..size as usize]).is_err() {
            return Some(Ok(Some((raw::accessToFault(access), address))));
        }
        let unused = 64 - 8 * size as u32;
        if is_store {
            let value = (self.x(rs2.into()) << unused) >> unused;
            self.stored = Some(Store { address, size, value });
        } else {
            let value = u64::from_le_bytes(buffer);
            let is_signed = matches!(op, Op::Lb | Op::Lh | Op::Lw);
            let extended = if is_signed { ((value << unused) as i64 >> unused) as u64 } else { value };
            self.set_x(rd.into(), extended);
        }
        Some(Ok(None))
    }

    /// Executes what was fetched. The model's translation has no 16-bit decoder: those are expanded first.
    fn execute(&mut self, world: &World, bits: u32) -> Result<Outcome, String> {
        self.executed = bits;
        if let Some(reason) = missing(bits) {
            return Err(reason.to_owned());
        }
        let is_compressed = bits & 3 != 3;
        let expansion = if is_compressed {
            compressed::decode16(bits as u16).and_then(|instruction| encode(&instruction))
        } else {
            Some(bits)
        };
        let core = &mut self.core;
        core.minstret_increment = core.mcountinhibit.bits.bits() & counters::IR == 0;
        let counts_cycle = core.mcountinhibit.bits.bits() & counters::CY == 0 && !writes_mcycle(bits);
        core.nextPC = bv(core.PC.bits().wrapping_add(if is_compressed { 2 } else { 4 }));
        let result = if self.accesses_memory { self.access(world, bits) } else { None };
        let result = match result {
            Some(Ok(None)) => Ok(raw::RETIRE_SUCCESS),
            Some(Ok(Some((fault, address)))) => {
                Ok(ExecutionResult::Memory_Exception((raw::virtaddr::Virtaddr(bv(address)), fault)))
            }
            Some(Err(reason)) => Err(reason),
            None => self.call(bits, expansion),
        }?;
        let core = &mut self.core;
        match result {
            ExecutionResult::Retire_Success(()) | ExecutionResult::Wait_For_Interrupt(()) => {
                core.PC = core.nextPC;
                if core.minstret_increment {
                    core.minstret = bv(core.minstret.bits().wrapping_add(1));
                }
                // What a cycle is is the implementation's to say; Rvisor's hart takes one for an instruction.
                if counts_cycle {
                    core.mcycle = bv(core.mcycle.bits().wrapping_add(1));
                }
                return Ok(Outcome::Retired);
            }
            ExecutionResult::Illegal_Instruction(()) => {
                raw::handle_illegal(core, bv(bits.into()));
                core.PC = core.nextPC;
            }
            ExecutionResult::Trap((mode, control, pc)) => {
                core.PC = raw::exception_handler(core, mode, control, pc);
            }
            ExecutionResult::Memory_Exception((raw::virtaddr::Virtaddr(address), exception)) => {
                self.trap(exception, address.bits());
            }
            other => return Err(format!("{other:?}")),
        }
        Ok(Outcome::Trapped)
    }

    fn trap(&mut self, exception: ExceptionType, value: u64) {
        let core = &mut self.core;
        let control =
            ctl_result::CTL_TRAP(sync_exception { trap: exception, excinfo: Some(bv(value)), ext: None });
        core.PC = raw::exception_handler(core, core.cur_privilege, control, core.PC);
    }

    /// Whether an interrupt would be taken now.
    pub fn has_interrupt(&mut self, world: &World) -> bool {
        self.sense(world);
        let mode = self.core.cur_privilege;
        raw::dispatchInterrupt(&mut self.core, mode).is_some()
    }
}
