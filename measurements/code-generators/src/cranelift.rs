//! Cranelift: guest code to its intermediate language, which it compiles with registers of its choice.

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{self, AbiParam, Function, InstBuilder, MemFlagsData, Type, Value};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa, lookup_by_name};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, settings::Flags};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use rvisor_isa::{Instruction, Op};

use crate::lower::access;
use crate::state::{
    BUDGET, PAGE_SHIFT, PC, TLB, TLB_ADDEND, TLB_ENTRIES, TLB_LOAD, TLB_STORE, WAY_SHIFT, x_offset,
};

/// Cranelift at one level of optimization.
pub struct Cranelift {
    isa: OwnedTargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
    code: Vec<u8>,
}

impl Cranelift {
    /// `level` is Cranelift's setting `opt_level`. `allocator` is its `regalloc_algorithm`.
    pub fn new(level: &str, allocator: &str) -> Self {
        let mut flags = settings::builder();
        for (name, value) in
            [("opt_level", level), ("regalloc_algorithm", allocator), ("enable_verifier", "false")]
        {
            flags.set(name, value).expect("the setting exists");
        }
        let mut isa = lookup_by_name("x86_64-unknown-linux-gnu").expect("it is built with x86-64");
        for extension in ["has_bmi1", "has_bmi2", "has_lzcnt", "has_popcnt"] {
            isa.enable(extension).expect("the extension exists");
        }
        let isa = isa.finish(Flags::new(flags)).expect("the settings fit");
        Self { isa, context: Context::new(), builder: FunctionBuilderContext::new(), code: Vec::new() }
    }

    /// Compiles a piece of code to a function whose argument points at the state.
    pub fn compile(&mut self, block: &[Instruction]) -> &[u8] {
        self.context.clear();
        let function = &mut self.context.func;
        function.signature.call_conv = CallConv::SystemV;
        function.signature.params.push(AbiParam::new(I64));
        translate(function, &mut self.builder, &*self.isa, block);
        let compiled = self.context.compile(&*self.isa, &mut ControlPlane::default());
        let compiled = compiled.map_err(|error| error.inner).expect("Cranelift compiles it");
        assert!(compiled.buffer.relocs().is_empty());
        self.code.clear();
        self.code.extend_from_slice(compiled.code_buffer());
        &self.code
    }
}

/// Registers that a piece reads or writes.
fn registers(block: &[Instruction]) -> (u32, u32) {
    let (mut read, mut written) = (0, 0);
    for i in block {
        read |= 1 << i.rs1 | 1 << i.rs2;
        written |= 1 << i.rd;
    }
    (read & !1, written & !1)
}

fn each(set: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |register| set >> register & 1 != 0)
}

struct Translation<'a> {
    builder: FunctionBuilder<'a>,
    state: Value,
    tlb: Value,
    budget: Variable,
    x: [Option<Variable>; 32],
    /// What exits have to store. Where a piece runs once, each result is stored at once instead.
    written: u32,
    is_loop: bool,
    head: ir::Block,
    index: usize,
}

fn translate(
    function: &mut Function,
    context: &mut FunctionBuilderContext,
    isa: &dyn cranelift_codegen::isa::TargetIsa,
    block: &[Instruction],
) {
    let mut builder = FunctionBuilder::new(function, context);
    let (start, head) = (builder.create_block(), builder.create_block());
    builder.append_block_params_for_function_params(start);
    builder.switch_to_block(start);
    let state = builder.block_params(start)[0];
    let tlb = builder.ins().load(I64, MemFlagsData::trusted(), state, TLB);
    let budget = builder.declare_var(I64);
    let value = builder.ins().load(I64, MemFlagsData::trusted(), state, BUDGET);
    builder.def_var(budget, value);
    let (read, written) = registers(block);
    let is_loop =
        (block.iter().enumerate()).any(|(index, i)| is_branch(i.op) && 4 * index as i32 + i.imm == 0);
    let mut x = [None; 32];
    for register in each(read | written) {
        let variable = builder.declare_var(I64);
        let value = builder.ins().load(I64, MemFlagsData::trusted(), state, x_offset(register));
        builder.def_var(variable, value);
        x[register as usize] = Some(variable);
    }
    builder.ins().jump(head, &[]);
    builder.switch_to_block(head);
    let mut translation = Translation { builder, state, tlb, budget, x, written, is_loop, head, index: 0 };
    for (index, instruction) in block.iter().enumerate() {
        translation.index = index;
        translation.instruction(instruction);
    }
    translation.leave(4 * block.len() as i64, block.len() as i64);
    let mut builder = translation.builder;
    builder.seal_all_blocks();
    builder.finalize(isa.frontend_config());
}

fn is_branch(op: Op) -> bool {
    matches!(op, Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu)
}

impl Translation<'_> {
    fn instruction(&mut self, i: &Instruction) {
        let (a, b) = (i.rs1, i.rs2);
        let imm = i64::from(i.imm);
        let result = match i.op {
            Op::Beq => return self.branch(IntCC::Equal, i),
            Op::Bne => return self.branch(IntCC::NotEqual, i),
            Op::Blt => return self.branch(IntCC::SignedLessThan, i),
            Op::Bge => return self.branch(IntCC::SignedGreaterThanOrEqual, i),
            Op::Bltu => return self.branch(IntCC::UnsignedLessThan, i),
            Op::Bgeu => return self.branch(IntCC::UnsignedGreaterThanOrEqual, i),
            Op::Lui => self.builder.ins().iconst(I64, imm),
            Op::Addi if a == 0 => self.builder.ins().iconst(I64, imm),
            Op::Addi => {
                let a = self.get(a);
                if imm == 0 { a } else { self.builder.ins().iadd_imm_s(a, imm) }
            }
            Op::Xori => self.with(a, |builder, a| builder.ins().bxor_imm_s(a, imm)),
            Op::Ori => self.with(a, |builder, a| builder.ins().bor_imm_s(a, imm)),
            Op::Andi => self.with(a, |builder, a| builder.ins().band_imm_s(a, imm)),
            Op::Slli => self.with(a, |builder, a| builder.ins().ishl_imm_u(a, imm)),
            Op::Srli => self.with(a, |builder, a| builder.ins().ushr_imm_u(a, imm)),
            Op::Srai => self.with(a, |builder, a| builder.ins().sshr_imm_u(a, imm)),
            Op::Addiw => self.word(a, |builder, a| builder.ins().iadd_imm_s(a, imm)),
            Op::Slliw => self.word(a, |builder, a| builder.ins().ishl_imm_u(a, imm)),
            Op::Srliw => self.word(a, |builder, a| builder.ins().ushr_imm_u(a, imm)),
            Op::Sraiw => self.word(a, |builder, a| builder.ins().sshr_imm_u(a, imm)),
            Op::Add if b == 0 => self.get(a),
            Op::Add if a == 0 => self.get(b),
            Op::Add => self.both(a, b, |builder, a, b| builder.ins().iadd(a, b)),
            Op::Sub => self.both(a, b, |builder, a, b| builder.ins().isub(a, b)),
            Op::Xor => self.both(a, b, |builder, a, b| builder.ins().bxor(a, b)),
            Op::Or => self.both(a, b, |builder, a, b| builder.ins().bor(a, b)),
            Op::And => self.both(a, b, |builder, a, b| builder.ins().band(a, b)),
            Op::Sll => self.both(a, b, |builder, a, b| builder.ins().ishl(a, b)),
            Op::Srl => self.both(a, b, |builder, a, b| builder.ins().ushr(a, b)),
            Op::Mul => self.both(a, b, |builder, a, b| builder.ins().imul(a, b)),
            Op::Addw => self.words(a, b, |builder, a, b| builder.ins().iadd(a, b)),
            Op::Subw => self.words(a, b, |builder, a, b| builder.ins().isub(a, b)),
            Op::Slt => self.set(IntCC::SignedLessThan, a, b),
            Op::Sltu => self.set(IntCC::UnsignedLessThan, a, b),
            _ => match access(i.op) {
                Some(access) => return self.memory(i, access),
                None => panic!("{:?} isn't part of the measurement", i.op),
            },
        };
        self.put(i.rd, result);
    }

    fn get(&mut self, register: u8) -> Value {
        match self.x[register as usize] {
            Some(variable) => self.builder.use_var(variable),
            None => self.builder.ins().iconst(I64, 0),
        }
    }

    fn put(&mut self, register: u8, value: Value) {
        let Some(variable) = self.x[register as usize] else { return };
        self.builder.def_var(variable, value);
        if !self.is_loop {
            self.store_state(x_offset(register), value);
        }
    }

    fn store_state(&mut self, offset: i32, value: Value) {
        self.builder.ins().store(MemFlagsData::trusted(), value, self.state, offset);
    }

    fn with(&mut self, a: u8, make: impl FnOnce(&mut FunctionBuilder, Value) -> Value) -> Value {
        let a = self.get(a);
        make(&mut self.builder, a)
    }

    fn both(
        &mut self,
        a: u8,
        b: u8,
        make: impl FnOnce(&mut FunctionBuilder, Value, Value) -> Value,
    ) -> Value {
        let (a, b) = (self.get(a), self.get(b));
        make(&mut self.builder, a, b)
    }

    /// In 32 bits, sign-extended.
    fn word(&mut self, a: u8, make: impl FnOnce(&mut FunctionBuilder, Value) -> Value) -> Value {
        let a = self.get(a);
        let a = self.builder.ins().ireduce(I32, a);
        let result = make(&mut self.builder, a);
        self.builder.ins().sextend(I64, result)
    }

    fn words(
        &mut self,
        a: u8,
        b: u8,
        make: impl FnOnce(&mut FunctionBuilder, Value, Value) -> Value,
    ) -> Value {
        let (a, b) = (self.get(a), self.get(b));
        let (a, b) = (self.builder.ins().ireduce(I32, a), self.builder.ins().ireduce(I32, b));
        let result = make(&mut self.builder, a, b);
        self.builder.ins().sextend(I64, result)
    }

    fn set(&mut self, condition: IntCC, a: u8, b: u8) -> Value {
        let (a, b) = (self.get(a), self.get(b));
        let is_so = self.builder.ins().icmp(condition, a, b);
        self.builder.ins().uextend(I64, is_so)
    }

    fn memory(&mut self, i: &Instruction, (bytes, signed, is_store): (u8, bool, bool)) {
        let address = self.get(i.rs1);
        let address = match i.imm {
            0 => address,
            imm => self.builder.ins().iadd_imm_s(address, i64::from(imm)),
        };
        let tag = if is_store { TLB_STORE } else { TLB_LOAD };
        let addend = self.look_up(tag, address, bytes);
        let at = self.builder.ins().iadd(addend, address);
        // Guest memory is apart from the state and the TLB, but the accesses may be unaligned.
        let flags = MemFlagsData::new().with_notrap();
        let ty = [I8, I16, I32, I64][bytes.ilog2() as usize];
        if is_store {
            let value = self.get(i.rs2);
            let value = if ty == I64 { value } else { self.builder.ins().ireduce(ty, value) };
            self.builder.ins().store(flags, value, at, 0);
        } else {
            let value = self.builder.ins().load(ty, flags, at, 0);
            let value = self.extend(value, ty, signed);
            self.put(i.rd, value);
        }
    }

    fn extend(&mut self, value: Value, ty: Type, signed: bool) -> Value {
        match (ty, signed) {
            (I64, _) => value,
            (_, true) => self.builder.ins().sextend(I64, value),
            (_, false) => self.builder.ins().uextend(I64, value),
        }
    }

    /// The addend of the TLB's entry; on a miss the piece is left for the instruction.
    fn look_up(&mut self, tag: i32, address: Value, bytes: u8) -> Value {
        const MASK: i64 = (TLB_ENTRIES as i64 - 1) << WAY_SHIFT;
        let ins = self.builder.ins();
        let offset = ins.ushr_imm_u(address, i64::from(PAGE_SHIFT - WAY_SHIFT));
        let offset = self.builder.ins().band_imm_s(offset, MASK);
        let way = self.builder.ins().iadd(self.tlb, offset);
        let page = self.builder.ins().load(I64, MemFlagsData::trusted(), way, tag);
        let difference = self.builder.ins().bxor(page, address);
        let last = 4096 - i64::from(bytes);
        let is_miss = self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, difference, last);
        let index = self.index as i64;
        self.leave_if(is_miss, -1, index);
        self.builder.ins().load(I64, MemFlagsData::trusted(), way, tag + TLB_ADDEND)
    }

    fn branch(&mut self, condition: IntCC, i: &Instruction) {
        let target = 4 * self.index as i64 + i64::from(i.imm);
        let (a, b) = (self.get(i.rs1), self.get(i.rs2));
        let is_taken = self.builder.ins().icmp(condition, a, b);
        let charge = self.index as i64 + 1;
        if target != 0 {
            return self.leave_if(is_taken, target, charge);
        }
        let (again, out, next) =
            (self.builder.create_block(), self.builder.create_block(), self.builder.create_block());
        self.builder.set_cold_block(out);
        self.builder.ins().brif(is_taken, again, &[], next, &[]);
        self.builder.switch_to_block(again);
        let rest = self.charge(charge);
        self.builder.def_var(self.budget, rest);
        let is_over = self.builder.ins().icmp_imm_s(IntCC::SignedLessThan, rest, 0);
        self.builder.ins().brif(is_over, out, &[], self.head, &[]);
        self.builder.switch_to_block(out);
        self.leave(0, 0);
        self.builder.switch_to_block(next);
    }

    fn leave_if(&mut self, condition: Value, target: i64, charge: i64) {
        let (out, next) = (self.builder.create_block(), self.builder.create_block());
        self.builder.set_cold_block(out);
        self.builder.ins().brif(condition, out, &[], next, &[]);
        self.builder.switch_to_block(out);
        self.leave(target, charge);
        self.builder.switch_to_block(next);
    }

    fn charge(&mut self, charge: i64) -> Value {
        let budget = self.builder.use_var(self.budget);
        self.builder.ins().iadd_imm_s(budget, -charge)
    }

    /// Stores what isn't stored yet, and returns.
    fn leave(&mut self, target: i64, charge: i64) {
        let budget = self.charge(charge);
        self.store_state(BUDGET, budget);
        let pc = self.builder.ins().iconst(I64, target);
        self.store_state(PC, pc);
        if self.is_loop {
            for register in each(self.written) {
                let value = self.get(register);
                self.store_state(x_offset(register), value);
            }
        }
        self.builder.ins().return_(&[]);
    }
}
