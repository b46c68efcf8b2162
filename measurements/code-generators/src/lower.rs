//! The translator's first tier for the measured pieces, over any assembler.
//!
//! It follows the translator's own lowering (`backend/x64`) for these instructions: the same places for guest
//! registers, the same choices of host instructions, the same look-up and cold code. Look-ups aren't shared
//! between neighbours here.

use rvisor_isa::{Instruction, Op};

use crate::assembler::*;
use crate::emit::{Emit, Mem, Rm};
use crate::state::{PAGE_SHIFT, PC, Place, TLB_ADDEND, TLB_ENTRIES, TLB_LOAD, TLB_STORE, WAY_SHIFT, place};

/// Where the generated code leads.
#[derive(Clone, Copy)]
pub struct Thunks {
    /// Leaves the generated code.
    pub exit: u64,
    /// What the TLB doesn't answer: address in `rax`, number of the instruction in `rdx`.
    pub access: u64,
}

/// Code that is rarely executed.
enum Cold<L> {
    /// The block is left for an offset after `charge` instructions.
    Leave { entry: L, target: i32, charge: u32 },
    /// Out of instructions.
    Budget { entry: L, target: i32 },
    /// An access that the TLB doesn't answer.
    Access { entry: L, back: L, index: u32, address: Reg, rd: u8 },
}

struct Lowering<'a, E: Emit> {
    asm: &'a mut E,
    thunks: Thunks,
    cold: Vec<Cold<E::Label>>,
    start: E::Label,
    index: u32,
}

/// What an access moves: bytes, whether it sign-extends, whether it stores.
pub fn access(op: Op) -> Option<(u8, bool, bool)> {
    Some(match op {
        Op::Lb => (1, true, false),
        Op::Lbu => (1, false, false),
        Op::Lh => (2, true, false),
        Op::Lhu => (2, false, false),
        Op::Lw => (4, true, false),
        Op::Lwu => (4, false, false),
        Op::Ld => (8, false, false),
        Op::Sb => (1, false, true),
        Op::Sh => (2, false, true),
        Op::Sw => (4, false, true),
        Op::Sd => (8, false, true),
        _ => return None,
    })
}

/// Lowers a piece of code whose instructions are 4 bytes each, for the address `base`. A branch to its start
/// makes it a loop; it is left behind its end and where another branch is taken.
pub fn lower<'a, E: Emit>(asm: &'a mut E, base: u64, thunks: Thunks, block: &[Instruction]) -> &'a [u8] {
    asm.start(base);
    let start = asm.label();
    asm.bind(start);
    let mut lowering = Lowering { asm, thunks, cold: Vec::new(), start, index: 0 };
    for (index, instruction) in block.iter().enumerate() {
        lowering.index = index as u32;
        lowering.instruction(instruction);
    }
    lowering.leave(4 * block.len() as i32, block.len() as u32);
    lowering.cold_code();
    asm.finish()
}

impl<E: Emit> Lowering<'_, E> {
    fn instruction(&mut self, i: &Instruction) {
        match i.op {
            Op::Beq => self.branch(Cond::Equal, i),
            Op::Bne => self.branch(Cond::NotEqual, i),
            Op::Blt => self.branch(Cond::Less, i),
            Op::Bge => self.branch(Cond::GreaterEqual, i),
            Op::Bltu => self.branch(Cond::Below, i),
            Op::Bgeu => self.branch(Cond::AboveEqual, i),
            Op::Addi => self.add_immediate(i),
            Op::Xori => self.logic_immediate(Alu::Xor, i),
            Op::Ori => self.logic_immediate(Alu::Or, i),
            Op::Andi => self.logic_immediate(Alu::And, i),
            Op::Addiw => self.add_immediate_word(i),
            Op::Slt => self.set_if(Cond::Less, i),
            Op::Sltu => self.set_if(Cond::Below, i),
            Op::Slli => self.shift_immediate(Shift::Shl, Quad, i),
            Op::Srli => self.shift_immediate(Shift::Shr, Quad, i),
            Op::Srai => self.shift_immediate(Shift::Sar, Quad, i),
            Op::Slliw => self.shift_immediate(Shift::Shl, Double, i),
            Op::Srliw => self.shift_immediate(Shift::Shr, Double, i),
            Op::Sraiw => self.shift_immediate(Shift::Sar, Double, i),
            Op::Sll => self.shift(Shift::Shl, Quad, i),
            Op::Srl => self.shift(Shift::Shr, Quad, i),
            Op::Add => self.add(i),
            Op::Sub => self.arithmetic(Alu::Sub, Quad, i),
            Op::Xor => self.arithmetic(Alu::Xor, Quad, i),
            Op::Or => self.arithmetic(Alu::Or, Quad, i),
            Op::And => self.arithmetic(Alu::And, Quad, i),
            Op::Addw => self.arithmetic(Alu::Add, Double, i),
            Op::Subw => self.arithmetic(Alu::Sub, Double, i),
            Op::Mul => self.multiply(i),
            Op::Lui => {
                let result = self.result(i.rd, RAX);
                self.asm.mov_imm(result, i.imm as i64 as u64);
                self.put(i.rd, result);
            }
            _ => match access(i.op) {
                Some(access) => self.memory(i, access),
                None => panic!("{:?} isn't part of the measurement", i.op),
            },
        }
    }

    /// A register that holds a guest register: its own, or `spare` after loading it.
    fn get(&mut self, register: u8, spare: Reg) -> Reg {
        match place(register) {
            Place::Host(host) => host,
            _ => {
                self.copy(register, spare);
                spare
            }
        }
    }

    fn copy(&mut self, register: u8, to: Reg) {
        match place(register) {
            Place::Zero => self.zero(to),
            Place::Host(host) if host == to => {}
            Place::Host(host) => self.asm.mov(Quad, to, host.into()),
            Place::Slot(slot) => self.asm.mov(Quad, to, slot.into()),
        }
    }

    fn zero(&mut self, register: Reg) {
        self.asm.alu(Alu::Xor, Double, register, register.into());
    }

    fn operand(&mut self, register: u8, spare: Reg) -> Rm {
        match place(register) {
            Place::Zero => {
                self.zero(spare);
                spare.into()
            }
            Place::Host(host) => host.into(),
            Place::Slot(slot) => slot.into(),
        }
    }

    fn put(&mut self, register: u8, from: Reg) {
        match place(register) {
            Place::Zero => {}
            Place::Host(host) if host == from => {}
            Place::Host(host) => self.asm.mov(Quad, host, from.into()),
            Place::Slot(slot) => self.asm.store(8, slot, from),
        }
    }

    /// The register in which to compute `rd`: its own, or `spare`.
    fn result(&self, rd: u8, spare: Reg) -> Reg {
        match place(rd) {
            Place::Host(host) => host,
            _ => spare,
        }
    }

    fn sign_extend(&mut self, register: Reg) {
        self.asm.load(4, true, register, register.into());
    }

    fn add_immediate(&mut self, i: &Instruction) {
        match (place(i.rd), place(i.rs1)) {
            (Place::Slot(slot), Place::Zero) => self.asm.mov_imm_to_memory(slot, i.imm),
            (_, Place::Zero) => {
                let result = self.result(i.rd, RAX);
                self.asm.mov_imm(result, i.imm as i64 as u64);
            }
            (Place::Host(host), rs1) if rs1 == Place::Host(host) => {
                self.asm.alu_imm(Alu::Add, Quad, host.into(), i.imm);
            }
            (Place::Slot(slot), rs1) if rs1 == Place::Slot(slot) => {
                self.asm.alu_imm(Alu::Add, Quad, slot.into(), i.imm);
            }
            (_, Place::Host(rs1)) if i.imm == 0 => self.put(i.rd, rs1),
            (_, Place::Host(rs1)) => {
                let result = self.result(i.rd, RAX);
                self.asm.lea(Quad, result, Mem::new(rs1, i.imm));
                self.put(i.rd, result);
            }
            _ => {
                let result = self.result(i.rd, RAX);
                self.copy(i.rs1, result);
                if i.imm != 0 {
                    self.asm.alu_imm(Alu::Add, Quad, result.into(), i.imm);
                }
                self.put(i.rd, result);
            }
        }
    }

    fn add_immediate_word(&mut self, i: &Instruction) {
        let result = self.result(i.rd, RAX);
        if i.imm == 0 {
            let source = self.operand(i.rs1, RAX);
            self.asm.load(4, true, result, source);
        } else {
            let source = self.get(i.rs1, RAX);
            self.asm.lea(Double, RAX, Mem::new(source, i.imm));
            self.asm.load(4, true, result, RAX.into());
        }
        self.put(i.rd, result);
    }

    fn logic_immediate(&mut self, op: Alu, i: &Instruction) {
        if i.rd == i.rs1
            && let Place::Slot(slot) = place(i.rd)
        {
            return self.asm.alu_imm(op, Quad, slot.into(), i.imm);
        }
        let result = self.result(i.rd, RAX);
        self.copy(i.rs1, result);
        self.asm.alu_imm(op, Quad, result.into(), i.imm);
        self.put(i.rd, result);
    }

    fn add(&mut self, i: &Instruction) {
        if i.rs1 == 0 || i.rs2 == 0 {
            return self.move_register(i.rd, i.rs1 | i.rs2);
        }
        match (place(i.rd), place(i.rs1), place(i.rs2)) {
            (rd, Place::Host(a), Place::Host(b)) if rd != Place::Host(a) && rd != Place::Host(b) => {
                let result = self.result(i.rd, RAX);
                self.asm.lea(Quad, result, Mem::indexed(a, b, 0));
                self.put(i.rd, result);
            }
            _ => self.arithmetic(Alu::Add, Quad, i),
        }
    }

    fn move_register(&mut self, rd: u8, from: u8) {
        match (place(rd), place(from)) {
            (Place::Slot(slot), Place::Zero) => self.asm.mov_imm_to_memory(slot, 0),
            (_, Place::Host(host)) => self.put(rd, host),
            _ => {
                let result = self.result(rd, RAX);
                self.copy(from, result);
                self.put(rd, result);
            }
        }
    }

    fn arithmetic(&mut self, op: Alu, size: Size, i: &Instruction) {
        if size == Quad
            && i.rd == i.rs1
            && let Place::Slot(slot) = place(i.rd)
        {
            let b = self.get(i.rs2, RCX);
            return self.asm.alu_to_memory(op, Quad, slot, b);
        }
        let (a, b) = if op != Alu::Sub && i.rd == i.rs2 { (i.rs2, i.rs1) } else { (i.rs1, i.rs2) };
        let result = if i.rd == b && i.rd != a { RAX } else { self.result(i.rd, RAX) };
        self.copy(a, result);
        let b = self.operand(b, RCX);
        self.asm.alu(op, size, result, b);
        if size == Double {
            self.sign_extend(result);
        }
        self.put(i.rd, result);
    }

    fn multiply(&mut self, i: &Instruction) {
        let (a, b) = if i.rd == i.rs2 { (i.rs2, i.rs1) } else { (i.rs1, i.rs2) };
        let result = self.result(i.rd, RAX);
        self.copy(a, result);
        let b = self.operand(b, RCX);
        self.asm.imul(Quad, result, b);
        self.put(i.rd, result);
    }

    fn set_if(&mut self, condition: Cond, i: &Instruction) {
        self.compare(i.rs1, i.rs2);
        self.asm.setcc(condition, RAX);
        let result = self.result(i.rd, RAX);
        self.asm.load(1, false, result, RAX.into());
        self.put(i.rd, result);
    }

    fn shift_immediate(&mut self, op: Shift, size: Size, i: &Instruction) {
        if size == Quad
            && i.rd == i.rs1
            && let Place::Slot(slot) = place(i.rd)
        {
            return self.asm.shift_imm(op, Quad, slot.into(), i.imm as u8);
        }
        let result = self.result(i.rd, RAX);
        self.copy(i.rs1, result);
        if i.imm != 0 {
            self.asm.shift_imm(op, size, result.into(), i.imm as u8);
        }
        if size == Double {
            self.sign_extend(result);
        }
        self.put(i.rd, result);
    }

    fn shift(&mut self, op: Shift, size: Size, i: &Instruction) {
        let result = self.result(i.rd, RAX);
        let amount = self.get(i.rs2, RCX);
        let source = self.operand(i.rs1, RAX);
        self.asm.shift_into(op, size, result, source, amount);
        self.put(i.rd, result);
    }

    fn memory(&mut self, i: &Instruction, (bytes, signed, is_store): (u8, bool, bool)) {
        let (entry, back) = (self.asm.label(), self.asm.label());
        let address = self.address_register(i.rs1, i.imm);
        let rd = if is_store { 0 } else { i.rd };
        self.cold.push(Cold::Access { entry, back, index: self.index, address, rd });
        self.look_up(if is_store { TLB_STORE } else { TLB_LOAD }, address, bytes, entry);
        let at = Mem::indexed(RCX, address, 0);
        if is_store {
            let value = self.get(i.rs2, RDX);
            self.asm.store(bytes, at, value);
        } else {
            let result = self.result(i.rd, RDX);
            self.asm.load(bytes, signed, result, at.into());
            self.put(i.rd, result);
        }
        self.asm.bind(back);
    }

    fn address_register(&mut self, base: u8, displacement: i32) -> Reg {
        match place(base) {
            Place::Host(host) if displacement == 0 => return host,
            Place::Host(host) => self.asm.lea(Quad, RAX, Mem::new(host, displacement)),
            Place::Zero => self.asm.mov_imm(RAX, displacement as i64 as u64),
            Place::Slot(slot) => {
                self.asm.mov(Quad, RAX, slot.into());
                if displacement != 0 {
                    self.asm.alu_imm(Alu::Add, Quad, RAX.into(), displacement);
                }
            }
        }
        RAX
    }

    /// On a hit, `rcx` plus the address is the host address; otherwise goes to `miss`.
    fn look_up(&mut self, tag: i32, address: Reg, bytes: u8, miss: E::Label) {
        const MASK: i32 = (TLB_ENTRIES as i32 - 1) << WAY_SHIFT;
        self.asm.rotate_into(RCX, address, PAGE_SHIFT - WAY_SHIFT);
        self.asm.alu_imm(Alu::And, Double, RCX.into(), MASK);
        self.asm.mov(Quad, RDX, Mem::indexed(RBP, RCX, tag).into());
        self.asm.alu(Alu::Xor, Quad, RDX, address.into());
        self.asm.alu_imm(Alu::Cmp, Quad, RDX.into(), 4096 - i32::from(bytes));
        self.asm.jcc(Cond::Above, miss);
        self.asm.mov(Quad, RCX, Mem::indexed(RBP, RCX, tag + TLB_ADDEND).into());
    }

    fn compare(&mut self, a: u8, b: u8) {
        match (place(a), place(b)) {
            (Place::Host(a), Place::Zero) => self.asm.test(a, a),
            (Place::Slot(a), Place::Zero) => self.asm.alu_imm(Alu::Cmp, Quad, a.into(), 0),
            _ => {
                let a = self.get(a, RAX);
                let b = self.operand(b, RCX);
                self.asm.alu(Alu::Cmp, Quad, a, b);
            }
        }
    }

    fn branch(&mut self, condition: Cond, i: &Instruction) {
        let target = 4 * self.index as i32 + i.imm;
        self.compare(i.rs1, i.rs2);
        let (entry, charge) = (self.asm.label(), self.index + 1);
        if target == 0 {
            let done = self.asm.label();
            self.asm.jcc(condition.inverse(), done);
            self.asm.alu_imm(Alu::Sub, Double, RBX.into(), charge as i32);
            self.asm.jcc(Cond::NoSign, self.start);
            self.cold.push(Cold::Budget { entry, target });
            self.asm.jmp(entry);
            self.asm.bind(done);
        } else {
            self.cold.push(Cold::Leave { entry, target, charge });
            self.asm.jcc(condition, entry);
        }
    }

    fn leave(&mut self, target: i32, charge: u32) {
        let entry = self.asm.label();
        self.asm.alu_imm(Alu::Sub, Double, RBX.into(), charge as i32);
        self.asm.jcc(Cond::Sign, entry);
        self.cold.push(Cold::Budget { entry, target });
        self.go(target);
    }

    fn go(&mut self, target: i32) {
        self.asm.mov_imm_to_memory(Mem::new(RSP, PC), target);
        self.asm.jmp_to(self.thunks.exit);
    }

    fn cold_code(&mut self) {
        let mut next = 0;
        while next < self.cold.len() {
            match self.cold[next] {
                Cold::Leave { entry, target, charge } => {
                    self.asm.bind(entry);
                    self.leave(target, charge);
                }
                Cold::Budget { entry, target } => {
                    self.asm.bind(entry);
                    self.go(target);
                }
                Cold::Access { entry, back, index, address, rd } => {
                    self.asm.bind(entry);
                    if address != RAX {
                        self.asm.mov(Quad, RAX, address.into());
                    }
                    self.asm.mov_imm(RDX, index.into());
                    self.asm.call_to(self.thunks.access);
                    self.put(rd, RAX);
                    self.asm.jmp(back);
                }
            }
            next += 1;
        }
    }
}
