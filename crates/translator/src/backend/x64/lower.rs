//! The way to host code, in one pass, an instruction at a time.
//!
//! At each instruction's start every guest register is in its place, so a trap needs no map to restore them.
//! What is rarely executed goes behind the block as cold code.
//!
//! The second tier lowers the same way what its passes made of a trace. What it can't do as fast, it leaves to the
//! first tier's code of the same instruction, where all registers have the same places.

use rvisor_isa::{Instruction, Op};

use super::assembler::*;
use super::float::{Extreme, Precision};
use super::registers::{Assignment, Place};
use super::thunks::{AGAIN, Thunks};
use crate::ir::{End, Holding, Node, Offset, Plan, Slot, Step, Superblock, effect};
use crate::runtime::frame::Frame;
use crate::runtime::site::Site;

/// What the host's processor has, of what the back end can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// BMI1, BMI2, LZCNT, POPCNT.
    pub bits: bool,
    /// FMA3.
    pub fma: bool,
    /// PCLMULQDQ.
    pub carryless: bool,
    /// SSE4.1.
    pub round: bool,
}

impl Features {
    /// As a number that is another for other features.
    pub fn bits(self) -> u32 {
        [self.bits, self.fma, self.carryless, self.round]
            .into_iter()
            .fold(1, |all, one| all << 1 | u32::from(one))
    }

    /// Of this host.
    pub fn detect() -> Self {
        Self {
            bits: is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt"),
            fma: is_x86_feature_detected!("fma"),
            carryless: is_x86_feature_detected!("pclmulqdq"),
            round: is_x86_feature_detected!("sse4.1"),
        }
    }
}

/// A place in the code that is patched later, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// Of the displacement of a jump, from the start of the code; its next address is 4 further on.
    pub jump: u32,
    /// Of the constant that is compared with the current mappings, for a jump to another page.
    pub mappings: Option<u32>,
    /// Where it leads.
    pub target: Offset,
    /// Where it leads as long as it isn't linked, from the start of the code.
    pub stub: u32,
    /// Where the stub has the link's number, from the start of the code.
    pub number: u32,
}

/// Code that is rarely executed.
pub(super) struct Cold {
    pub entry: Label,
    pub kind: ColdKind,
    /// Computations that were put off.
    pub deferred: Vec<Instruction>,
    /// Registers whose upper halves are wrong, a bit for each.
    pub loose: u32,
    /// Where registers are before and in the instruction, where that isn't as usual.
    pub registers: Option<Box<[Assignment; 2]>>,
}

pub(super) enum ColdKind {
    /// Out of instructions at a target.
    Budget(Offset),
    /// Out of instructions at the indirect jump's target in `rax`.
    EndSlice,
    /// A branch that is taken, `charge` instructions after the block's start.
    Taken { target: Offset, charge: u32 },
    /// A jump that isn't linked yet; `patch` is its number.
    Link { patch: usize },
    /// An access that the TLB doesn't answer.
    Access { site: Site, back: Label, thunk: u64, address: Reg, rd: u8 },
    /// Accesses that one look-up was to serve, one by one.
    Apart { nodes: Vec<Node>, index: u32, back: Label },
    /// The instruction is left to the interpreter, and the block goes on; or a helper has made the TLB answer, and the
    /// instruction is tried again. No register is away from its usual place there.
    Interpret { site: Site, back: Label, thunk: u64, again: Option<Label> },
    /// A change of `sstatus` that takes more than a glance.
    Status { instruction: Instruction, site: Site, back: Label },
    /// The instruction is left to the interpreter, and the block ends.
    Step { site: Site },
    /// A division by zero or by -1.
    Division { back: Label, by_zero: Label, size: Size, signed: bool, dividend: u8 },
    /// A floating-point result that is a NaN.
    CanonicalNan { rd: u8, precision: Precision, back: Label },
    /// A minimum or maximum of numbers that are equal, or not numbers.
    Extreme { site: Site, back: Label, done: Label, extreme: Extreme, second: u8 },
    /// The trace is left for the first tier's code of the instruction at an offset, which `index` stand before.
    FirstTier { offset: Offset, index: u32 },
}

impl ColdKind {
    /// Whether the block may be left there.
    fn may_leave(&self) -> bool {
        !matches!(self, Self::Link { .. } | Self::Division { .. } | Self::CanonicalNan { .. })
    }
}

const SCRATCH: Mem = Mem::new(RSP, std::mem::offset_of!(Frame, scratch) as i32);

/// One superblock's way to host code.
pub struct Lowering<'a> {
    pub(super) asm: &'a mut Assembler,
    pub(super) thunks: &'a Thunks,
    pub(super) features: Features,
    pub(super) cold: Vec<Cold>,
    pub(super) patches: Vec<Patch>,
    /// Number of the block's first patch among all.
    pub(super) first_patch: u32,
    /// Behind the no-operation at the block's start: a hart that loops here leaves when its budget ends.
    pub(super) start_of_loop: Label,
    pub(super) entry: Offset,
    pub(super) last_reaches_over: bool,
    /// Instructions before the one that is being lowered.
    pub(super) index: u32,
    pub(super) node: Node,
    /// Whether the block has asked if floating point may be used.
    pub(super) float_checked: bool,
    /// Floating-point registers known to hold NaN-boxed binary32 values, a bit for each.
    pub(super) boxed: u32,
    /// Registers known to hold values relative to the page: register and offset.
    pub(super) page_relative: Option<(u8, Offset)>,
    /// Computations that nobody needs unless the block is left: until which node, and what they are.
    deferred: Vec<(usize, Instruction)>,
    /// Registers whose upper halves are wrong, a bit for each.
    loose: u32,
    /// Whether the current node's result may be one.
    is_loose: bool,
    /// Where guest registers are in the current instruction, and where they were before it: its result may have got a
    /// host register which doesn't hold it yet.
    pub(super) assignment: Assignment,
    pub(super) before: Assignment,
    /// What is held where a trace starts, and loops; `None` if registers are where they always are.
    pub(super) start: Option<Holding>,
    /// The looked-up address that `rcx` holds.
    pub(super) in_rcx: Option<Slot>,
    /// The first tier's code of the block.
    first_tier: u64,
    marks: Vec<u32>,
}

/// What was lowered.
pub struct Lowered {
    /// Where the block starts, from the start of the code.
    pub start: u32,
    /// Where it is to be patched.
    pub patches: Vec<Patch>,
    /// Where the code of each node starts, that of the end, of branches that are taken, and cold code.
    pub marks: Vec<u32>,
}

/// What the second tier lowers a trace with.
pub struct Second<'a> {
    pub plan: &'a Plan,
    /// Address of the first tier's code of the same entry, behind its no-operation.
    pub first_tier: u64,
}

/// Writes the code of `block` into `asm`, which was started at its final address: the first tier's, or the
/// second's. Each execution adds one to the number at the address `counter`.
///
/// The block starts with a no-operation whose first bytes can be replaced by a call in one store, and whose last ones
/// are the entry's offset: see [`Thunks::dead`].
pub fn lower(
    asm: &mut Assembler,
    thunks: &Thunks,
    features: Features,
    block: &Superblock,
    first_patch: u32,
    counter: Option<u64>,
    second: Option<&Second<'_>>,
) -> Lowered {
    // Traces are loops, mostly; of the rest there is so much that room counts for more than where it starts.
    asm.align(if second.is_some() { 16 } else { 8 }, 0);
    let start = asm.here();
    asm.no_operation(block.entry as u16);
    let start_of_loop = asm.here();
    if let Some(counter) = counter {
        asm.mov_imm(RAX, counter);
        asm.alu_imm(Alu::Add, Quad, Mem::new(RAX, 0), 1);
    }
    let nothing =
        Node { instruction: Instruction::new(Op::Addi, 4), bits: 0, offset: block.entry, taken: false };
    let mut lowering = Lowering {
        asm,
        thunks,
        features,
        cold: Vec::new(),
        patches: Vec::new(),
        first_patch,
        start_of_loop,
        entry: block.entry,
        last_reaches_over: block.last_reaches_over,
        index: 0,
        node: nothing,
        float_checked: false,
        boxed: 0,
        page_relative: None,
        deferred: Vec::new(),
        loose: 0,
        is_loose: false,
        assignment: Assignment::HOME,
        before: Assignment::HOME,
        start: second.and_then(|second| second.plan.allocation.as_ref()).map(|allocation| allocation.start),
        in_rcx: None,
        first_tier: second.map_or(0, |second| second.first_tier),
        marks: Vec::new(),
    };
    match second {
        Some(second) => lowering.trace(block, second.plan),
        None => lowering.block(block),
    }
    debug_assert!(lowering.deferred.is_empty() && lowering.loose == 0);
    lowering.marks.push(lowering.asm.position() as u32);
    lowering.ways_out();
    lowering.asm.split();
    lowering.marks.push(lowering.asm.position() as u32);
    lowering.cold_code();
    let (patches, marks) = (lowering.patches, lowering.marks);
    Lowered { start: asm.offset_of(start), patches, marks }
}

/// Whether instructions can add to an offset without overflow.
fn is_base(offset: Offset) -> bool {
    offset.checked_add(2048).is_some() && offset.checked_sub(2048).is_some()
}

/// What the `auipc` of a number is an address of, relative to the page, where only the next instruction needs it: the
/// other half of a larger address, or of a call whose target is known.
fn address_of_next(block: &Superblock, number: usize) -> Option<Offset> {
    let (Node { instruction: i, offset, .. }, next) = (&block.nodes[number], block.nodes.get(number + 1)?);
    let address = offset.checked_add(i.imm).filter(|&address| is_base(address))?;
    let is_known = match next.instruction.op {
        Op::Addi => next.instruction.rs1 == i.rd,
        Op::Jalr => matches!(block.end, End::Call(_)),
        _ => false,
    };
    (i.op == Op::Auipc && i.rd != 0 && next.instruction.rd == i.rd && is_known).then_some(address)
}

impl Lowering<'_> {
    fn block(&mut self, block: &Superblock) {
        let plain = block.plain();
        let nodes = &block.nodes[..plain];
        let mut next = 0;
        while let Some(node) = nodes.get(next) {
            self.index = next as u32;
            let mark = self.asm.position() as u32;
            let grouped = self.group(&nodes[next..]);
            if grouped != 0 {
                self.marks.extend(std::iter::repeat_n(mark, grouped));
                self.page_relative = None;
                next += grouped;
                continue;
            }
            self.marks.push(mark);
            self.node = *node;
            match address_of_next(block, next) {
                Some(offset) => self.page_relative = Some((node.instruction.rd, offset)),
                None => self.instruction(&node.instruction),
            }
            next += 1;
        }
        self.end_of(block, plain);
    }

    fn end_of(&mut self, block: &Superblock, plain: usize) {
        self.index = plain as u32;
        if let Some(node) = block.nodes.get(plain) {
            self.node = *node;
        }
        self.marks.push(self.asm.position() as u32);
        if block.end != End::Fall(self.entry) {
            self.go_home();
        }
        self.end(block.end);
    }

    /// The second tier: what the plan says of each node.
    fn trace(&mut self, block: &Superblock, plan: &Plan) {
        self.go_to_start();
        for check in &plan.hoisted {
            self.check(check);
        }
        self.start_of_loop = self.asm.here();
        self.in_rcx = None;
        let plain = block.plain();
        for (number, (node, step)) in block.nodes.iter().zip(&plan.steps).take(plain).enumerate() {
            self.marks.push(self.asm.position() as u32);
            (self.index, self.node) = (number as u32, *node);
            if *step != Step::Plain {
                self.page_relative = None;
            }
            for one in plan.allocation.iter().flat_map(|allocation| &allocation.moves[number]) {
                self.move_in(one);
            }
            let in_rcx = self.in_rcx.take();
            self.is_loose = plan.loose.get(number).is_some_and(|loose| *loose);
            match step {
                Step::Plain => self.instruction(&node.instruction),
                Step::Nothing => self.in_rcx = in_rcx,
                Step::Deferred(until) => {
                    self.deferred.push((*until, node.instruction));
                    self.in_rcx = in_rcx;
                }
                Step::Instead(instruction) => {
                    let is_done = self.integer(instruction);
                    debug_assert!(is_done, "{instruction:?}");
                }
                Step::Check(check, displacement) => {
                    self.check(check);
                    self.checked(&node.instruction, check.slot, *displacement);
                }
                Step::Checked(slot, displacement) => {
                    self.in_rcx = in_rcx;
                    self.checked(&node.instruction, *slot, *displacement);
                }
            }
            self.deferred.retain(|(until, _)| *until != number);
            if !matches!(step, Step::Nothing | Step::Deferred(_)) {
                let writes = effect(&node.instruction).writes;
                self.loose &= !writes;
                self.wrote(writes);
            }
            if std::mem::take(&mut self.is_loose) {
                self.loose |= 1 << node.instruction.rd;
            }
        }
        self.end_of(block, plain);
    }

    /// Extends what is loose and executes what was put off, since the block may be left here.
    fn catch_up(&mut self, deferred: &[Instruction], loose: u32) {
        for register in (1..32).filter(|register| loose & 1 << register != 0) {
            let value = self.operand(register, RAX);
            let result = self.result(register, RAX);
            self.asm.movsxd(result, value);
            self.put(register, result);
            self.assignment.note_written(register);
        }
        for instruction in deferred {
            self.integer(instruction);
            self.assignment.note_written(instruction.rd);
        }
    }

    /// The site of the current instruction.
    pub(super) fn site(&self) -> Site {
        Site::new(self.node.offset, self.index, self.node.instruction.length)
    }

    fn instruction(&mut self, i: &Instruction) {
        let relative = self.page_relative.take();
        match i.op {
            Op::Jal => {}
            Op::Auipc => self.auipc(i),
            Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu => self.branch(i),
            Op::Addi if relative.is_some_and(|(register, _)| register == i.rs1 && i.rs1 != 0) => {
                if let Some((_, offset)) = relative {
                    self.page_address(i.rd, offset + i.imm);
                }
            }
            _ if self.integer(i) || self.memory(i) || self.atomic(i) || self.float(i) || self.system(i) => {}
            _ => self.interpret(),
        }
    }

    fn auipc(&mut self, i: &Instruction) {
        if let Some(offset) = self.node.offset.checked_add(i.imm) {
            self.page_address(i.rd, offset);
            self.page_relative = is_base(offset).then_some((i.rd, offset));
        } else {
            self.asm.mov(Quad, RAX, Mem::new(RSP, super::control::PAGE));
            self.asm.alu_imm(Alu::Add, Quad, RAX, i.imm);
            self.asm.alu_imm(Alu::Add, Quad, RAX, self.node.offset);
            self.put(i.rd, RAX);
        }
    }

    /// `rd` = an offset from the page.
    pub(super) fn page_address(&mut self, rd: u8, offset: Offset) {
        match self.place(rd) {
            Place::Zero => {}
            Place::Host(register) => {
                self.asm.mov(Quad, register, Mem::new(RSP, super::control::PAGE));
                self.asm.alu_imm(Alu::Add, Quad, register, offset);
            }
            Place::Slot(slot) => {
                self.asm.mov(Quad, RAX, Mem::new(RSP, super::control::PAGE));
                self.asm.alu_imm(Alu::Add, Quad, RAX, offset);
                self.asm.mov_to_memory(Quad, slot, RAX);
            }
        }
    }

    /// Leaves the instruction to the interpreter and goes on behind it.
    pub(super) fn interpret(&mut self) {
        let deferred: Vec<_> = self.deferred.drain(..).map(|(_, instruction)| instruction).collect();
        let loose = std::mem::take(&mut self.loose);
        let after = self.start.map(|_| std::mem::replace(&mut self.assignment, self.before));
        self.catch_up(&deferred, loose);
        self.go_home();
        let thunk = self.thunks.interpret;
        self.asm.mov_imm(RDX, self.site().bits().into());
        self.asm.call_to(thunk);
        self.come_back(after);
    }

    /// Adds cold code that leaves the current instruction to the interpreter and goes on at `back`.
    pub(super) fn add_interpreted(&mut self, back: Label) -> Label {
        let (site, thunk) = (self.site(), self.thunks.interpret);
        self.add_cold(ColdKind::Interpret { site, back, thunk, again: None })
    }

    /// Adds cold code and returns its entry.
    pub(super) fn add_cold(&mut self, kind: ColdKind) -> Label {
        let entry = self.asm.label();
        let deferred = self.deferred.iter().map(|(_, instruction)| *instruction).collect();
        let registers = self.start.map(|_| Box::new([self.before, self.assignment]));
        self.cold.push(Cold { entry, kind, deferred, loose: self.loose, registers });
        entry
    }

    /// Sign-extends a result of 32 bits, unless nobody cares.
    pub(super) fn extend_result(&mut self, result: Reg) {
        if !self.is_loose {
            self.asm.movsxd(result, result);
        }
    }

    /// A register that holds a guest register: its own, or `spare` after loading it.
    pub(super) fn get(&mut self, register: u8, spare: Reg) -> Reg {
        match self.place(register) {
            Place::Host(host) => host,
            _ => {
                self.copy(register, spare);
                spare
            }
        }
    }

    /// Copies a guest register. Changes flags.
    pub(super) fn copy(&mut self, register: u8, to: Reg) {
        match self.place(register) {
            Place::Zero => self.asm.zero(to),
            Place::Host(host) if host == to => {}
            Place::Host(host) => self.asm.mov(Quad, to, host),
            Place::Slot(slot) => self.asm.mov(Quad, to, slot),
        }
    }

    /// A guest register as an operand; `spare` stands in for `x0`.
    pub(super) fn operand(&mut self, register: u8, spare: Reg) -> Rm {
        match self.place(register) {
            Place::Zero => {
                self.asm.zero(spare);
                spare.into()
            }
            Place::Host(host) => host.into(),
            Place::Slot(slot) => slot.into(),
        }
    }

    /// Writes a guest register.
    pub(super) fn put(&mut self, register: u8, from: Reg) {
        match self.place(register) {
            Place::Zero => {}
            Place::Host(host) if host == from => {}
            Place::Host(host) => self.asm.mov(Quad, host, from),
            Place::Slot(slot) => self.asm.mov_to_memory(Quad, slot, from),
        }
    }

    /// The register in which to compute `rd`: its own, or `spare`.
    pub(super) fn result(&self, rd: u8, spare: Reg) -> Reg {
        match self.place(rd) {
            Place::Host(host) => host,
            _ => spare,
        }
    }

    /// Writes what isn't so rare: the ways out of the block by branches that are taken.
    fn ways_out(&mut self) {
        let is_way_out = |cold: &mut Cold| matches!(cold.kind, ColdKind::Taken { .. });
        let ways_out: Vec<_> = self.cold.extract_if(.., is_way_out).collect();
        ways_out.into_iter().for_each(|way_out| self.write_cold(way_out));
    }

    fn cold_code(&mut self) {
        while !self.cold.is_empty() {
            std::mem::take(&mut self.cold).into_iter().for_each(|cold| self.write_cold(cold));
        }
    }

    fn write_cold(&mut self, Cold { entry, kind, deferred, loose, registers }: Cold) {
        self.asm.bind(entry);
        let after = registers.map(|registers| {
            let [before, after] = *registers;
            self.set_assignment(if kind.may_leave() { before } else { after });
            after
        });
        if kind.may_leave() {
            if let ColdKind::Access { address, .. } = kind
                && address != RAX
            {
                self.asm.mov(Quad, RAX, address);
            }
            if !deferred.is_empty() || loose != 0 {
                // The address of an access is in `rax`.
                self.asm.mov_to_memory(Quad, SCRATCH, RAX);
                self.catch_up(&deferred, loose);
                self.asm.mov(Quad, RAX, SCRATCH);
            }
            self.go_home();
        }
        match kind {
            ColdKind::Budget(target) => self.out_of_budget(target),
            ColdKind::EndSlice => self.out_of_budget_indirect(),
            ColdKind::Taken { target, charge } => self.goto(target, charge),
            ColdKind::Link { patch } => self.link_stub(patch),
            ColdKind::Access { site, back, thunk, rd, .. } => {
                self.asm.mov_imm(RDX, site.bits().into());
                self.asm.call_to(thunk);
                self.come_back(after);
                self.put(rd, RAX);
                self.asm.jmp(back);
            }
            ColdKind::Apart { nodes, index, back } => {
                for (node, index) in nodes.iter().zip(index..) {
                    self.node = *node;
                    self.index = index;
                    self.memory(&node.instruction);
                }
                self.asm.jmp(back);
            }
            ColdKind::Interpret { site, back, thunk, again } => {
                self.asm.mov_imm(RDX, site.bits().into());
                self.asm.call_to(thunk);
                if let Some(again) = again {
                    self.asm.jcc(AGAIN, again);
                }
                self.come_back(after);
                self.asm.jmp(back);
            }
            ColdKind::Status { instruction, site, back } => {
                let other = self.asm.label();
                self.replace_status(&instruction, other);
                self.come_back(after);
                self.asm.jmp(back);
                self.asm.bind(other);
                self.asm.mov_imm(RDX, site.bits().into());
                self.asm.jmp_to(self.thunks.step);
            }
            ColdKind::Step { site } => {
                self.asm.mov_imm(RDX, site.bits().into());
                self.asm.jmp_to(self.thunks.step);
            }
            ColdKind::Division { back, by_zero, size, signed, dividend } => {
                self.odd_division(back, by_zero, size, signed, dividend);
            }
            ColdKind::CanonicalNan { rd, precision, back } => self.canonical_nan(rd, precision, back),
            ColdKind::FirstTier { index: 0, .. } => self.asm.jmp_to(self.first_tier),
            ColdKind::FirstTier { offset, index } => self.goto(offset, index),
            ColdKind::Extreme { site, back, done, extreme, second } => {
                self.odd_extreme(site, back, done, extreme, second);
            }
        }
    }
}
