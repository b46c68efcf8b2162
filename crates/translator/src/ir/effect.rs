//! What instructions read, write and may lead to, as far as passes want to know.

use rvisor_isa::{Extension, Instruction, Op};

/// What a load or store does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Bytes.
    pub bytes: u8,
    pub signed: bool,
    /// From or to a floating-point register.
    pub is_float: bool,
    pub is_store: bool,
}

/// What an instruction does to memory, if it is a plain load or store.
pub const fn access(i: &Instruction) -> Option<Access> {
    let (bytes, signed, is_float, is_store) = match i.op {
        Op::Lb => (1, true, false, false),
        Op::Lh => (2, true, false, false),
        Op::Lw => (4, true, false, false),
        Op::Ld => (8, false, false, false),
        Op::Lbu => (1, false, false, false),
        Op::Lhu => (2, false, false, false),
        Op::Lwu => (4, false, false, false),
        Op::Sb => (1, false, false, true),
        Op::Sh => (2, false, false, true),
        Op::Sw => (4, false, false, true),
        Op::Sd => (8, false, false, true),
        Op::Flw => (4, false, true, false),
        Op::Fld => (8, false, true, false),
        Op::Fsw => (4, false, true, true),
        Op::Fsd => (8, false, true, true),
        _ => return None,
    };
    Some(Access { bytes, signed, is_float, is_store })
}

/// What an instruction does to the integer registers and to control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    /// Integer registers read, a bit for each.
    pub reads: u32,
    /// Integer registers written.
    pub writes: u32,
    /// Whether the block may be left there.
    pub leaves: bool,
    /// Whether it may change what translations hold, or anything else.
    pub is_barrier: bool,
}

const ALL: u32 = !1;

/// What an instruction does. What isn't known does everything.
pub fn effect(i: &Instruction) -> Effect {
    let bit = |register: u8| (1u32 << register) & ALL;
    let of = |reads, writes, leaves| Effect { reads, writes, leaves, is_barrier: false };
    if let Some(Access { is_float, is_store, .. }) = access(i) {
        let data = if is_float { 0 } else { bit(if is_store { i.rs2 } else { i.rd }) };
        return if is_store { of(bit(i.rs1) | data, 0, true) } else { of(bit(i.rs1), data, true) };
    }
    if is_computation(i.op) {
        return of(bit(i.rs1) | bit(i.rs2), bit(i.rd), false);
    }
    match i.op {
        Op::Auipc => of(0, bit(i.rd), false),
        Op::Jal if i.rd == 0 => of(0, 0, false),
        Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu => of(bit(i.rs1) | bit(i.rs2), 0, true),
        Op::FaddS
        | Op::FaddD
        | Op::FsubS
        | Op::FsubD
        | Op::FmulS
        | Op::FmulD
        | Op::FdivS
        | Op::FdivD
        | Op::FmaddS
        | Op::FmaddD
        | Op::FmsubS
        | Op::FmsubD
        | Op::FnmsubS
        | Op::FnmsubD
        | Op::FnmaddS
        | Op::FnmaddD
        | Op::FsgnjS
        | Op::FsgnjD
        | Op::FsgnjnS
        | Op::FsgnjnD
        | Op::FsgnjxS
        | Op::FsgnjxD
        | Op::FcvtSD
        | Op::FcvtDS
        | Op::FsqrtS
        | Op::FsqrtD
        | Op::FroundS
        | Op::FroundD
        | Op::FroundnxS
        | Op::FroundnxD
        | Op::FliS
        | Op::FliD => of(0, 0, true),
        Op::FeqS
        | Op::FeqD
        | Op::FltS
        | Op::FltD
        | Op::FleS
        | Op::FleD
        | Op::FltqS
        | Op::FltqD
        | Op::FleqS
        | Op::FleqD
        | Op::FmvXD
        | Op::FmvXW
        | Op::FclassS
        | Op::FclassD
        | Op::FcvtWS
        | Op::FcvtWD
        | Op::FcvtWuS
        | Op::FcvtWuD
        | Op::FcvtLS
        | Op::FcvtLD
        | Op::FcvtLuS
        | Op::FcvtLuD => of(0, bit(i.rd), true),
        Op::FmvDX
        | Op::FmvWX
        | Op::FcvtDW
        | Op::FcvtDWu
        | Op::FcvtDL
        | Op::FcvtDLu
        | Op::FcvtSW
        | Op::FcvtSWu
        | Op::FcvtSL
        | Op::FcvtSLu => of(bit(i.rs1), 0, true),
        _ => Effect { reads: ALL, writes: ALL, leaves: true, is_barrier: true },
    }
}

/// Whether all that an instruction does is to write an integer register from others.
pub fn is_computation(op: Op) -> bool {
    match op.extension() {
        Extension::M | Extension::Zba | Extension::Zbb | Extension::Zbs | Extension::Zicond => true,
        Extension::I => matches!(
            op,
            Op::Lui
                | Op::Addi
                | Op::Slti
                | Op::Sltiu
                | Op::Xori
                | Op::Ori
                | Op::Andi
                | Op::Slli
                | Op::Srli
                | Op::Srai
                | Op::Add
                | Op::Sub
                | Op::Sll
                | Op::Slt
                | Op::Sltu
                | Op::Xor
                | Op::Srl
                | Op::Sra
                | Op::Or
                | Op::And
                | Op::Addiw
                | Op::Slliw
                | Op::Srliw
                | Op::Sraiw
                | Op::Addw
                | Op::Subw
                | Op::Sllw
                | Op::Srlw
                | Op::Sraw
        ),
        _ => false,
    }
}
