//! What translated code keeps at its stack pointer: guest registers without a host register of their own, and
//! what the run needs at hand.
//!
//! The frame lies at the top of a stack of its own, so that code reaches it through `rsp` (which hosts rename
//! well) and helper calls grow below it.

use std::io;
use std::mem::offset_of;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rvisor_hart::Csrs;

use crate::ir::{SLOTS, Slot};
use crate::runtime::space::{JumpEntry, Tlb};

/// Where each integer register stands in [`Frame::x`]: those that translated code reaches most often in memory
/// come first, where displacements are short.
pub const SLOT: [u8; 32] = {
    const ORDER: [u8; 32] = [
        1, 18, 19, 20, 21, 22, 23, 6, 17, 24, 25, 26, 30, 27, 28, 29, 31, 4, 5, 7, 3, 2, 8, 9, 10, 11, 12,
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

/// IE, ZE, OE, UE and PE of MXCSR, and the flags of RISC-V that they are: NV, DZ, OF, UF, NX. DE has none.
const FLAGS: [u8; 64] = {
    const PAIRS: [(usize, u8); 5] = [(1, 16), (4, 8), (8, 4), (16, 2), (32, 1)];
    let mut flags = [0; 64];
    let mut mxcsr = 0;
    while mxcsr < 64 {
        let mut i = 0;
        while i < PAIRS.len() {
            if mxcsr & PAIRS[i].0 != 0 {
                flags[mxcsr] |= PAIRS[i].1;
            }
            i += 1;
        }
        mxcsr += 1;
    }
    flags
};

/// State of a hart in translated code.
#[repr(C, align(64))]
pub struct Frame {
    /// Virtual address of the page that the running code stands in.
    pub page: u64,
    /// The jump cache of the current address space.
    pub jumps: *mut JumpEntry,
    /// Selects the bits of an entry's index, times two, in a folded jump target.
    pub jump_mask: u32,
    /// Names the set of mappings of the current address space that jumps across pages may rely on.
    pub mappings: u32,
    /// Integer registers, by [`SLOT`].
    pub x: [u64; 32],
    /// Host addresses that the running trace has looked up.
    pub checked: [u64; SLOTS],
    /// Floating-point registers.
    pub f: [u64; 32],
    /// Instructions left, while not in a host register.
    pub budget: i32,
    /// Jumps across pages that found their mappings changed, until one of them is relinked.
    pub relink: i32,
    /// Whether floating-point instructions may be executed on the host's unit: all FS that count are Dirty, and
    /// the host has the rounding mode.
    pub float_ready: u8,
    /// Whether they may as far as anything but the FS of the current virtualization mode is concerned.
    pub rounding_ready: u8,
    /// `fflags` for each combination of MXCSR's flags.
    pub flags: [u8; 64],
    /// Whether `cbo.zero` may be executed.
    pub zero_ready: u8,
    /// Whether the hart is in S-mode.
    pub is_supervisor: u8,
    /// Whether an interrupt is pending that a bit of `sstatus` holds back.
    pub is_held_back: u8,
    /// TLBs of S-mode without and with access to user pages, or null.
    pub supervisor_tlbs: [*mut Tlb; 2],
    /// The hart's CSRs.
    pub csrs: *mut Csrs,
    /// The same, moved so that the supervisor's are those of the current virtualization mode: see
    /// [`Csrs::VIRTUAL_OFFSET`].
    pub supervisor_csrs: *mut Csrs,
    /// The translation cache of the current address space.
    pub tlb: *mut Tlb,
    /// The home's stack pointer.
    pub host_stack: u64,
    /// The home's MXCSR.
    pub host_mxcsr: u32,
    /// The guest's: rounding mode and flags.
    pub guest_mxcsr: u32,
    /// Host address that `lr` reserved, or 0.
    pub reserved: u64,
    /// What it found there, sign-extended from the width.
    pub reserved_value: u64,
    /// Where the guest goes on, for exits that no helper prepares; odd otherwise.
    pub pc: u64,
    /// Where the block starts that the guest ran out of instructions in: an offset from the page.
    pub ended: u64,
    /// For thunks.
    pub scratch: u64,
    /// The run that this frame belongs to.
    pub run: *mut (),
}

impl Frame {
    /// Offset of an integer register.
    pub const fn x_offset(register: u8) -> i32 {
        (offset_of!(Self, x) + 8 * SLOT[register as usize] as usize) as i32
    }

    /// Offset of a place for a host address.
    pub const fn checked_offset(slot: Slot) -> i32 {
        (offset_of!(Self, checked) + 8 * slot as usize) as i32
    }

    /// Offset of a floating-point register.
    pub const fn f_offset(register: u8) -> i32 {
        (offset_of!(Self, f) + 8 * register as usize) as i32
    }

    /// Whether no instructions are left. A jump's target must not be looked up then: that sets A in its page's PTE,
    /// though the instruction there may never be executed.
    pub fn is_over(&self) -> bool {
        self.budget == 0
    }

    /// Value of an integer register.
    #[inline]
    pub fn x(&self, register: u8) -> u64 {
        self.x[usize::from(SLOT[usize::from(register & 31)])]
    }

    /// Writes an integer register; `x0` stays zero.
    #[inline]
    pub fn set_x(&mut self, register: u8, value: u64) {
        if register != 0 {
            self.x[usize::from(SLOT[usize::from(register & 31)])] = value;
        }
    }

    /// Takes over the registers of a hart.
    pub fn load(&mut self, x: &[u64; 32], f: &[u64; 32]) {
        for (value, slot) in x.iter().zip(SLOT) {
            self.x[usize::from(slot)] = *value;
        }
        self.f = *f;
        self.flags = FLAGS;
    }

    /// Gives them back.
    pub fn save(&self, x: &mut [u64; 32], f: &mut [u64; 32]) {
        self.save_integers(x);
        *f = self.f;
    }

    /// Gives the integer registers back.
    pub fn save_integers(&self, x: &mut [u64; 32]) {
        for (value, slot) in x.iter_mut().zip(SLOT) {
            *value = self.x[usize::from(slot)];
        }
    }
}

/// Bytes of stack for helpers.
const STACK: usize = 1 << 20;
const GUARD: usize = 4096;

/// A stack with a frame at its top.
pub struct Stack {
    start: NonNull<u8>,
}

// SAFETY: the mapping is owned and nothing in it refers to a thread.
unsafe impl Send for Stack {}

impl Stack {
    /// An empty stack; every register of its frame is zero.
    pub fn new() -> io::Result<Self> {
        let length = GUARD + STACK + size_of::<Frame>().next_multiple_of(4096);
        // SAFETY: a fresh mapping at an address of the host's choosing; its lowest page becomes a guard.
        let start = unsafe {
            let start = mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?;
            mprotect(start, GUARD, MprotectFlags::empty())?;
            start
        };
        NonNull::new(start.cast()).map(|start| Self { start }).ok_or(io::ErrorKind::OutOfMemory.into())
    }

    /// The frame.
    pub fn frame(&self) -> *mut Frame {
        // SAFETY: inside the mapping.
        unsafe { self.start.as_ptr().add(GUARD + STACK).cast() }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let length = GUARD + STACK + size_of::<Frame>().next_multiple_of(4096);
        // SAFETY: mapped by `new` with this length; nobody runs on it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), length) };
        debug_assert!(unmapped.is_ok());
    }
}
