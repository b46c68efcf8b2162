//! The registers of a hart as gdb numbers and names them (GDB manual, "RISC-V Features").

use std::fmt::Write;

use gdbstub::arch::{Arch, RegId, Registers};
use rvisor_hart::Hart;
use rvisor_isa::{Privilege, csr};
use rvisor_machine::VirtualHart;

use crate::runner::HostedVm;

/// Bytes of each register.
pub const SIZE: usize = 8;

/// A register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// `x0` to `x31`.
    Integer(u8),
    /// The program counter.
    Pc,
    /// `f0` to `f31`.
    Float(u8),
    /// The privilege mode: 0, 1 or 3.
    Privilege,
    /// A control and status register.
    Csr(u16),
}

const PC: usize = 32;
const FLOATS: usize = 33;
const PRIVILEGE: usize = 65;
const CSRS: usize = 66;

impl RegId for Register {
    fn from_raw_id(id: usize) -> Option<(Self, Option<std::num::NonZeroUsize>)> {
        let register = match id {
            0..PC => Self::Integer(id as u8),
            PC => Self::Pc,
            FLOATS..PRIVILEGE => Self::Float((id - FLOATS) as u8),
            PRIVILEGE => Self::Privilege,
            _ => Self::Csr(u16::try_from(id - CSRS).ok().filter(|&number| number < 4096)?),
        };
        Some((register, std::num::NonZeroUsize::new(SIZE)))
    }
}

impl Register {
    fn number(self) -> usize {
        match self {
            Self::Integer(number) => number.into(),
            Self::Pc => PC,
            Self::Float(number) => FLOATS + usize::from(number),
            Self::Privilege => PRIVILEGE,
            Self::Csr(number) => CSRS + usize::from(number),
        }
    }

    /// Its value; `None` if the hart doesn't have it.
    pub fn read(self, hart: &mut VirtualHart, vm: &HostedVm) -> Option<u64> {
        let environment = vm.environment(&vm.harts()[hart.index()]);
        let hart = &mut hart.hart;
        Some(match self {
            Self::Integer(number) => hart.x[usize::from(number)],
            Self::Pc => hart.pc,
            Self::Float(number) => hart.f[usize::from(number)],
            Self::Privilege => hart.privilege as u64,
            Self::Csr(number) => hart.inspect_csr(&environment, number)?,
        })
    }

    /// Gives it a value; `None` if that makes no sense.
    pub fn write(self, hart: &mut VirtualHart, vm: &HostedVm, value: u64) -> Option<()> {
        self.read(hart, vm)?;
        let hart: &mut Hart = &mut hart.hart;
        match self {
            Self::Integer(0) => {}
            Self::Integer(number) => hart.x[usize::from(number)] = value,
            // Programs have no instructions at odd addresses.
            Self::Pc => hart.pc = value & !1,
            Self::Float(number) => {
                hart.f[usize::from(number)] = value;
                hart.mark_float_dirty();
            }
            Self::Privilege => hart.change_privilege(Privilege::from_bits(value)?),
            Self::Csr(number) => hart.change_csr(number, value),
        }
        Some(())
    }
}

/// Integer registers and program counter: what gdb gets at each stop.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CoreRegisters {
    pub x: [u64; 32],
    pub pc: u64,
}

impl Registers for CoreRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.pc
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for value in self.x.iter().chain([&self.pc]) {
            value.to_le_bytes().into_iter().for_each(|byte| write_byte(Some(byte)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (chunks, []) = bytes.as_chunks::<SIZE>() else { return Err(()) };
        let mut values = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk));
        for value in self.x.iter_mut().chain([&mut self.pc]) {
            *value = values.next().ok_or(())?;
        }
        Ok(())
    }
}

/// What gdb calls the architecture.
#[derive(Debug)]
pub enum Riscv64 {}

impl Arch for Riscv64 {
    type Usize = u64;
    type Registers = CoreRegisters;
    type BreakpointKind = usize;
    type RegId = Register;
}

/// Names of the integer registers by their use (RISC-V ELF psABI).
const INTEGER_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

const FLOAT_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];

/// Numbers of the CSRs that a hart has.
pub fn csrs(hart: &mut VirtualHart, vm: &HostedVm) -> Vec<u16> {
    let has = |&number: &u16| csr::name(number).is_some() && Register::Csr(number).read(hart, vm).is_some();
    (0..4096).filter(has).collect()
}

/// The target description of harts with these CSRs.
pub fn description(csrs: &[u16]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n\
         <architecture>riscv:rv64</architecture>\n<osabi>none</osabi>\n<feature name=\"org.gnu.gdb.riscv.cpu\">\n",
    );
    let add = |text: &mut String, name: &str, register: Register, kind: &str| {
        let number = register.number();
        // Writing to a string can't fail.
        let _ = writeln!(text, "<reg name=\"{name}\" bitsize=\"64\" type=\"{kind}\" regnum=\"{number}\"/>");
    };
    for (number, name) in (0..).zip(INTEGER_NAMES) {
        let kind = if matches!(number, 2..=4 | 8) { "data_ptr" } else { "int" };
        add(&mut text, name, Register::Integer(number), kind);
    }
    add(&mut text, "pc", Register::Pc, "code_ptr");
    text.push_str(
        "</feature>\n<feature name=\"org.gnu.gdb.riscv.fpu\">\n<union id=\"riscv_double\">\
         <field name=\"float\" type=\"ieee_single\"/><field name=\"double\" type=\"ieee_double\"/></union>\n",
    );
    for (number, name) in (0..).zip(FLOAT_NAMES) {
        add(&mut text, name, Register::Float(number), "riscv_double");
    }
    let of_float = |number: &&u16| matches!(**number, csr::FFLAGS | csr::FRM | csr::FCSR);
    let name = |number| csr::name(number).map(|name| name.to_string()).unwrap_or_default();
    for &number in csrs.iter().filter(of_float) {
        add(&mut text, &name(number), Register::Csr(number), "int");
    }
    text.push_str("</feature>\n<feature name=\"org.gnu.gdb.riscv.virtual\">\n");
    add(&mut text, "priv", Register::Privilege, "int");
    text.push_str("</feature>\n<feature name=\"org.gnu.gdb.riscv.csr\">\n");
    for &number in csrs.iter().filter(|number| !of_float(number)) {
        add(&mut text, &name(number), Register::Csr(number), "int");
    }
    text.push_str("</feature>\n</target>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_to_registers_and_back() {
        for id in [0, 31, 32, 33, 64, 65, 66, 66 + 4095] {
            assert_eq!(Register::from_raw_id(id).unwrap().0.number(), id);
        }
        assert!(Register::from_raw_id(66 + 4096).is_none());
    }

    #[test]
    fn description_names_each_register_once() {
        let text = description(&[csr::FCSR, csr::SATP, csr::PMPADDR0 + 3]);
        for name in ["zero", "pc", "ft11", "fcsr", "priv", "satp", "pmpaddr3"] {
            assert_eq!(text.matches(&format!("<reg name=\"{name}\" ")).count(), 1, "{name}");
        }
        assert_eq!(text.matches("<feature").count(), text.matches("</feature").count());
    }

    #[test]
    fn core_registers_survive_the_wire() {
        let mut registers = CoreRegisters { pc: 0x8000_0000, ..CoreRegisters::default() };
        registers.x[31] = u64::MAX;
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.extend(byte));
        let mut back = CoreRegisters::default();
        assert_eq!(back.gdb_deserialize(&bytes), Ok(()));
        assert_eq!(back, registers);
        assert!(back.gdb_deserialize(&bytes[1..]).is_err() && back.gdb_deserialize(&[]).is_err());
    }
}
