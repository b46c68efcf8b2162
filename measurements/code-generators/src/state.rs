//! The guest's state while a piece of code runs, and the way into generated code and out of it.

use std::mem::offset_of;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::assembler::{self as own, Assembler, Double, Quad, R8, R9, R10, R11, R12, R13, R14, R15};
use crate::assembler::{RAX, RBP, RBX, RDI, RDX, RSI, RSP, Reg};
use crate::emit::Mem;
use crate::lower::Thunks;

/// Guest integer registers that live in host registers, as in the translator.
const PINNED: [(u8, Reg); 10] =
    [(10, RDI), (11, RSI), (12, R8), (13, R9), (14, R10), (15, R11), (16, R12), (2, R14), (8, R15), (9, R13)];

/// Host register of each guest register; 0xff where it has none.
const HOME: [u8; 32] = {
    let mut homes = [0xff; 32];
    let mut i = 0;
    while i < PINNED.len() {
        homes[PINNED[i].0 as usize] = PINNED[i].1.0;
        i += 1;
    }
    homes
};

/// Where each integer register stands in [`State::x`], as in the translator: what code reaches most often in
/// memory has short displacements.
const SLOT: [u8; 32] = {
    const ORDER: [u8; 32] = [
        1, 5, 6, 7, 17, 18, 19, 20, 21, 28, 29, 30, 31, 3, 4, 22, 23, 24, 25, 26, 27, 2, 8, 9, 10, 11, 12,
        13, 14, 15, 16, 0,
    ];
    let mut slots = [0; 32];
    let mut i = 0;
    while i < 32 {
        slots[ORDER[i] as usize] = i as u8;
        i += 1;
    }
    slots
};

pub const PAGE_SHIFT: u8 = 12;
pub const TLB_ENTRIES: usize = 2048;
pub const WAY_SHIFT: u8 = size_of::<Way>().ilog2() as u8;
pub const TLB_LOAD: i32 = offset_of!(Tlb, loads) as i32;
pub const TLB_STORE: i32 = offset_of!(Tlb, stores) as i32;
pub const TLB_ADDEND: i32 = offset_of!(Way, addend) as i32;

pub const PC: i32 = offset_of!(State, pc) as i32;
pub const BUDGET: i32 = offset_of!(State, budget) as i32;
pub const TLB: i32 = offset_of!(State, tlb) as i32;
const HOST_STACK: i32 = offset_of!(State, host_stack) as i32;

/// Offset of an integer register in [`State`].
pub const fn x_offset(register: u8) -> i32 {
    offset_of!(State, x) as i32 + 8 * SLOT[register as usize] as i32
}

/// Where the value of a guest register is while the lowering's code runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Zero,
    Host(Reg),
    Slot(Mem),
}

pub const fn place(register: u8) -> Place {
    match HOME[register as usize] {
        _ if register == 0 => Place::Zero,
        0xff => Place::Slot(Mem::new(RSP, x_offset(register))),
        home => Place::Host(Reg(home)),
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Way {
    page: u64,
    /// Host address minus guest address.
    addend: u64,
}

#[repr(C)]
struct Tlb {
    loads: [Way; TLB_ENTRIES],
    stores: [Way; TLB_ENTRIES],
}

/// What generated code reaches through `rsp` (the lowering's) or its argument (Cranelift's). Below it is room
/// for a stack.
#[repr(C, align(64))]
struct State {
    page: u64,
    x: [u64; 32],
    budget: i64,
    pc: u64,
    tlb: *mut Tlb,
    host_stack: u64,
}

#[repr(C, align(64))]
struct Stack {
    below: [u8; 1 << 16],
    state: State,
}

/// A guest: state, TLB, and memory from [`Guest::MEMORY`] on.
pub struct Guest {
    stack: Box<Stack>,
    tlb: Box<Tlb>,
    memory: Vec<u64>,
}

/// What a run leaves behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    x: [u64; 32],
    budget: i64,
    pc: u64,
    memory: Vec<u64>,
}

impl Outcome {
    /// Whether the run ended at `pc` with `budget` left.
    pub fn is_at(&self, pc: u64, budget: i64) -> bool {
        (self.pc, self.budget) == (pc, budget)
    }
}

impl Guest {
    pub const MEMORY: u64 = 0x4000_0000;
    pub const BYTES: usize = 1 << 14;

    pub fn new() -> Self {
        let nothing = Way { page: u64::MAX, addend: 0 };
        let mut tlb = Box::new(Tlb { loads: [nothing; TLB_ENTRIES], stores: [nothing; TLB_ENTRIES] });
        let memory = vec![0; Self::BYTES / 8];
        let addend = (memory.as_ptr() as u64).wrapping_sub(Self::MEMORY);
        for page in (Self::MEMORY..Self::MEMORY + Self::BYTES as u64).step_by(4096) {
            let index = (page >> PAGE_SHIFT) as usize % TLB_ENTRIES;
            tlb.loads[index] = Way { page, addend };
            tlb.stores[index] = Way { page, addend };
        }
        let state = State { page: 0, x: [0; 32], budget: 0, pc: 0, tlb: ptr::null_mut(), host_stack: 0 };
        Self { stack: Box::new(Stack { below: [0; 1 << 16], state }), tlb, memory }
    }

    /// Sets registers and memory to what each run starts from.
    pub fn reset(&mut self, registers: &[(u8, u64)], budget: i64) {
        let state = &mut self.stack.state;
        state.x = [0; 32];
        for &(register, value) in registers {
            state.x[SLOT[register as usize] as usize] = value;
        }
        (state.budget, state.pc, state.tlb) = (budget, u64::MAX, &raw mut *self.tlb);
        for (number, word) in self.memory.iter_mut().enumerate() {
            *word = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    pub fn outcome(&self) -> Outcome {
        let State { x, budget, pc, .. } = self.stack.state;
        Outcome { x, budget, pc, memory: self.memory.clone() }
    }

    /// Runs code that the lowering made, which lies in `code` as [`enter`] does.
    pub fn run_lowered(&mut self, code: &Code, enter: u64, at: u64) {
        assert!(code.contains(enter) && code.contains(at));
        // SAFETY: what `enter` wrote keeps the host's registers and stack; the code behind it reaches the state,
        // the TLB and, through the TLB's entries, the memory, which all outlive the call.
        unsafe {
            let enter: extern "sysv64" fn(*mut State, u64) = std::mem::transmute(enter as *const ());
            enter(&raw mut self.stack.state, at);
        }
    }

    /// Runs a function that Cranelift made.
    pub fn run_function(&mut self, code: &Code, at: u64) {
        assert!(code.contains(at));
        // SAFETY: the function has this signature, and reaches only what the state points at.
        unsafe {
            let function: extern "sysv64" fn(*mut State) = std::mem::transmute(at as *const ());
            function(&raw mut self.stack.state);
        }
    }
}

/// Memory for code: written, then executed.
pub struct Code {
    start: NonNull<u8>,
}

impl Code {
    const BYTES: usize = 1 << 16;

    pub fn new() -> Self {
        // SAFETY: a new mapping.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                Self::BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let start = start.expect("memory for code");
        Self { start: NonNull::new(start.cast()).expect("a mapping isn't null") }
    }

    /// Address of the byte `offset`.
    pub fn address(&self, offset: usize) -> u64 {
        self.start.as_ptr() as u64 + offset as u64
    }

    fn contains(&self, address: u64) -> bool {
        (self.address(0)..self.address(Self::BYTES)).contains(&address)
    }

    pub fn write(&mut self, offset: usize, code: &[u8]) {
        assert!(offset + code.len() <= Self::BYTES);
        self.protect(MprotectFlags::READ | MprotectFlags::WRITE);
        // SAFETY: inside the mapping, which is writable now.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), self.start.as_ptr().add(offset), code.len()) };
        self.protect(MprotectFlags::READ | MprotectFlags::EXEC);
    }

    fn protect(&self, flags: MprotectFlags) {
        // SAFETY: the mapping is this value's own.
        unsafe { mprotect(self.start.as_ptr().cast(), Self::BYTES, flags) }.expect("code memory changes");
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own. Its addresses are numbers, so failure leaks it, no more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), Self::BYTES) };
    }
}

const SAVED: [Reg; 6] = [RBX, RBP, R12, R13, R14, R15];

/// Writes the way in and the way out at the start of `code`. Returns the address of the former, and the thunks.
pub fn enter(code: &mut Code) -> (u64, Thunks) {
    let at = |offset| own::Mem::new(RSP, offset);
    let mut asm = Assembler::new();
    asm.start(code.address(0));
    SAVED.iter().for_each(|&reg| asm.push(reg));
    asm.mov_to_memory(Quad, own::Mem::new(RDI, HOST_STACK), RSP);
    asm.mov(Quad, RSP, RDI);
    asm.mov(Quad, RAX, RSI);
    asm.mov(Quad, RBP, at(TLB));
    asm.mov(Double, RBX, at(BUDGET));
    PINNED.iter().for_each(|&(guest, host)| asm.mov(Quad, host, at(x_offset(guest))));
    asm.jmp_reg(RAX);
    // A miss isn't part of the measurement: it shows as the `pc` that no piece leaves behind.
    let access = code.address(asm.position());
    asm.pop(RDX);
    asm.mov_imm_to_memory(Quad, at(PC), -1);
    let exit = code.address(asm.position());
    PINNED.iter().for_each(|&(guest, host)| asm.mov_to_memory(Quad, at(x_offset(guest)), host));
    asm.movsxd(RBX, RBX);
    asm.mov_to_memory(Quad, at(BUDGET), RBX);
    asm.mov(Quad, RSP, at(HOST_STACK));
    SAVED.iter().rev().for_each(|&reg| asm.pop(reg));
    asm.ret();
    let enter = code.address(0);
    let bytes = asm.finish().to_vec();
    code.write(0, &bytes);
    (enter, Thunks { exit, access })
}
