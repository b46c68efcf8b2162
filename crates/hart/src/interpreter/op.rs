//! Instructions prepared for execution: operands in place, targets known, one dense operation code.
//!
//! Simple instructions become an operation of their own; the rest keep their decoded form in a side table.

use rvisor_isa::{Instruction, Op, csr};

/// Where writes to `x0` go, so that no operation has to ask.
pub const SINK: u8 = 32;

macro_rules! codes {
    (plain: $($plain:ident)*; special: $($(#[$doc:meta])* $special:ident)*;) => {
        /// What an operation does. Those without a comment are the instructions of that name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Code {
            $($plain,)*
            $($(#[$doc])* $special,)*
        }

        /// The code of an instruction that needs nothing but its registers and its immediate.
        fn plain(op: Op) -> Option<Code> {
            Some(match op {
                $(Op::$plain => Code::$plain,)*
                _ => return None,
            })
        }
    };
}

codes! {
    plain:
        Lui Lb Lh Lw Ld Lbu Lhu Lwu Sb Sh Sw Sd
        Addi Slti Sltiu Xori Ori Andi Slli Srli Srai Add Sub Sll Slt Sltu Xor Srl Sra Or And
        Addiw Slliw Srliw Sraiw Addw Subw Sllw Srlw Sraw
        Mul Mulh Mulhsu Mulhu Div Divu Rem Remu Mulw Divw Divuw Remw Remuw
        Sh1add Sh2add Sh3add AddUw Sh1addUw Sh2addUw Sh3addUw SlliUw
        Andn Orn Xnor Max Maxu Min Minu Rol Ror Rori Clz Ctz Cpop SextB SextH OrcB Rev8 ZextH
        Clzw Ctzw Cpopw Rolw Rorw Roriw Clmul Clmulr Clmulh
        Bclr Bclri Bext Bexti Binv Binvi Bset Bseti CzeroEqz CzeroNez
        Flh Flw Fld Fsh Fsw Fsd;
    special:
        /// `addi rd, x0, imm`.
        Li
        /// `add rd, x0, rs2` or `addi rd, rs1, 0`: `rs1` to `rd`.
        Move
        /// Does nothing: hints, prefetches.
        Nop
        /// `imm` is relative to the page's start, as with all operations that follow.
        Auipc
        /// Branches whose target lies in the same page: `imm` is its halfword's index.
        BeqNear
        BneNear
        BltNear
        BgeNear
        BltuNear
        BgeuNear
        /// Branches elsewhere: `imm` is the target.
        BeqFar
        BneFar
        BltFar
        BgeFar
        BltuFar
        BgeuFar
        /// `jal` within the page: `imm` as for branches, [`Op::link`] what `rd` gets.
        JalNear
        /// `jal` elsewhere.
        JalFar
        /// `jalr`: [`Prepared::jalr`] has its operands.
        Jalr
        /// Any load-reserved, store-conditional or read-modify-write: `imm` indexes the side table, here and
        /// below.
        Atomic
        /// Floating-point arithmetic.
        Float
        /// CSR instructions that change nothing but values.
        Csr
        /// CSR instructions that may let an interrupt through, or change the rights of loads and stores.
        Status
        /// Instructions that may change what comes next: other CSR instructions, fences, returns, `wfi`.
        System
        /// What decodes to nothing.
        Illegal
        /// Not an instruction: go on at operation `imm`.
        Goto
        /// Not an instruction: the page ends; go on at `imm`.
        Leave
        /// Not an instruction: nothing is prepared here; the instruction is at halfword `imm`.
        Unprepared
        /// Not an instruction: one that ends in the next page starts here.
        Crossing;
}

/// One operation. Small, because a guest's working set of them should stay in the host's caches.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    pub code: Code,
    pub rd: u8,
    pub rs1: u8,
    pub rs2: u8,
    pub imm: i32,
}

const _: () = assert!(size_of::<Prepared>() == 8);

/// Halfwords in a page.
pub const HALFWORDS: usize = 2048;

impl Prepared {
    /// An operation without registers.
    pub const fn new(code: Code, imm: i32) -> Self {
        Self { code, rd: 0, rs1: 0, rs2: 0, imm }
    }

    /// The address behind a `jal`, relative to the page's start.
    #[inline(always)]
    pub fn link(&self) -> u64 {
        u16::from_le_bytes([self.rs1, self.rs2]).into()
    }

    /// The offset of a `jalr`, and the address behind it relative to the page's start.
    #[inline(always)]
    pub fn jalr(&self) -> (u64, u64) {
        ((self.imm >> 16) as u64, u64::from(self.imm as u16))
    }

    /// Prepares an instruction that stands `offset` bytes into its page. `side` is where it goes in the side
    /// table if it has to. With `near`, targets in the same page are named by their halfword.
    pub fn from_instruction(instruction: &Instruction, offset: u16, side: usize, near: bool) -> Self {
        let Instruction { op, rd, rs1, rs2, imm, length, .. } = *instruction;
        let place = i32::from(offset);
        let behind = offset + u16::from(length);
        let sink = if rd == 0 { SINK } else { rd };
        let in_page = |near_code, far_code| {
            let target = place + imm;
            let halfword = usize::try_from(target / 2).unwrap_or(HALFWORDS);
            if near && target >= 0 && halfword < HALFWORDS {
                (near_code, target / 2)
            } else {
                (far_code, target)
            }
        };
        let branch = |near_code, far_code| {
            let (code, imm) = in_page(near_code, far_code);
            Self { code, rd: 0, rs1, rs2, imm }
        };
        match op {
            Op::Addi if rs1 == 0 => Self { code: Code::Li, rd: sink, rs1, rs2, imm },
            Op::Addi if imm == 0 => Self { code: Code::Move, rd: sink, rs1, rs2, imm },
            Op::Add if rs1 == 0 => Self { code: Code::Move, rd: sink, rs1: rs2, rs2, imm },
            Op::PrefetchI | Op::PrefetchR | Op::PrefetchW | Op::Pause => Self::new(Code::Nop, 0),
            Op::Auipc => Self { code: Code::Auipc, rd: sink, rs1, rs2, imm: imm.wrapping_add(place) },
            Op::Beq => branch(Code::BeqNear, Code::BeqFar),
            Op::Bne => branch(Code::BneNear, Code::BneFar),
            Op::Blt => branch(Code::BltNear, Code::BltFar),
            Op::Bge => branch(Code::BgeNear, Code::BgeFar),
            Op::Bltu => branch(Code::BltuNear, Code::BltuFar),
            Op::Bgeu => branch(Code::BgeuNear, Code::BgeuFar),
            Op::Jal => {
                let (code, imm) = in_page(Code::JalNear, Code::JalFar);
                let [rs1, rs2] = behind.to_le_bytes();
                Self { code, rd: sink, rs1, rs2, imm }
            }
            Op::Jalr => Self { code: Code::Jalr, rd: sink, rs1, rs2, imm: imm << 16 | i32::from(behind) },
            Op::Flh | Op::Flw | Op::Fld => {
                Self { code: plain(op).unwrap_or(Code::Illegal), rd, rs1, rs2, imm }
            }
            _ => match plain(op) {
                Some(code) => Self { code, rd: sink, rs1, rs2, imm },
                None => Self::new(kept(instruction), side as i32),
            },
        }
    }

    /// Whether the operation's instruction is in the side table.
    pub fn is_kept(&self) -> bool {
        matches!(self.code, Code::Atomic | Code::Float | Code::Csr | Code::Status | Code::System)
    }

    /// Whether what follows in memory isn't executed next.
    pub fn ends_run(&self) -> bool {
        matches!(self.code, Code::JalNear | Code::JalFar | Code::Jalr | Code::Crossing | Code::Illegal)
    }
}

/// The code of an instruction that is kept in the side table.
fn kept(instruction: &Instruction) -> Code {
    use rvisor_isa::Extension::{A, D, F, Zacas, Zfa, Zfh, Zfhmin, Zicsr};
    match instruction.op.extension() {
        A | Zacas => Code::Atomic,
        F | D | Zfh | Zfhmin | Zfa => Code::Float,
        Zicsr => csr_code(instruction.imm as u16),
        _ => Code::System,
    }
}

/// How an instruction is executed that writes this CSR.
fn csr_code(number: u16) -> Code {
    match number {
        csr::FFLAGS
        | csr::FRM
        | csr::FCSR
        | csr::SSCRATCH
        | csr::SEPC
        | csr::SCAUSE
        | csr::STVAL
        | csr::MSCRATCH
        | csr::MEPC
        | csr::MCAUSE
        | csr::MTVAL
        | csr::CYCLE..=0xc1f => Code::Csr,
        csr::SSTATUS | csr::SIE | csr::SIP | csr::STIMECMP | csr::MSTATUS | csr::MIE | csr::MIP => {
            Code::Status
        }
        _ => Code::System,
    }
}
