//! The loop around translated code: interrupts, fences, spaces, finding code.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use rvisor_hart::{Access, CacheBlock, Csrs, Environment, Exit, Hart, Reservation, Trap};
use rvisor_isa::csr::mstatus;
use rvisor_isa::{Instruction, Privilege};
use rvisor_machine::{Engine, HartEnvironment, VirtualHart, Vm};
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE};

use crate::runtime::cache::{BlockId, CodeCache, PageBytes};
use crate::runtime::frame::{Frame, Stack};
use crate::runtime::heat::Heat;
use crate::runtime::known::KnownCode;
use crate::runtime::optimizer::{self, Request};
use crate::runtime::profile::{Part, Profile};
use crate::runtime::shared::Shared;
use crate::runtime::space::{Mapping, Spaces};

/// Instructions between two looks at the environment: some microseconds. Where there are several harts, they wait for
/// one another's looks.
const SLICE: u64 = 16384;
const SHARED_SLICE: u64 = 8192;

/// Offset of the last halfword of a page.
const LAST: u64 = PAGE_SIZE - 2;

/// Failed jumps across pages between two attempts to link one again.
pub const RELINK: i32 = 64;

/// Guest memory that the host can reach directly.
///
/// # Safety
/// `host_address` is the address of as many readable and writable bytes as `range` has; they stay there for
/// as long as the memory lives.
pub unsafe trait DirectMemory: GuestMemory {
    /// Host address of the first byte of RAM.
    fn host_address(&self) -> NonNull<u8>;
}

/// The translator of one hart.
pub struct Translator {
    shared: Arc<Shared>,
    /// The thunk that enters translated code; it lives as long as what is shared.
    enter: extern "C" fn(*mut Frame, u64),
    stack: Stack,
    pub(super) state: State,
}

/// What a hart's translator keeps from one run to the next.
pub(super) struct State {
    pub shared: Arc<Shared>,
    pub hart_index: usize,
    pub spaces: Spaces,
    /// Where stores to each page of RAM are let through unseen: 0 nowhere, [`Hint::MANY`] at several places,
    /// else a [`Hint`].
    pub hints: Vec<u32>,
    epoch: u64,
    /// The hart's debugger's points that the spaces agree with.
    debug_epoch: u64,
    generation: u64,
    /// What [`CodePages::tracked`](rvisor_waist::CodePages::tracked) was when rights to store were given up last.
    tracked: u32,
    heat: Heat,
    known: KnownCode,
    /// The cache is full.
    pub is_full: bool,
    /// System instructions decoded last, by some bits of their encoding.
    decoded: [(u32, Option<Instruction>); DECODED],
    pub profile: Profile,
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.shared.add_profile(&self.state.profile);
    }
}

const DECODED: usize = 64;

impl State {
    /// Decodes an instruction.
    pub fn decode(&mut self, bits: u32) -> Option<Instruction> {
        let known = &mut self.decoded[(bits >> 7 ^ bits >> 20) as usize % DECODED];
        if known.0 != bits {
            *known = (bits, rvisor_isa::decode(bits));
        }
        known.1
    }
}

/// The one place where stores to a page are let through.
pub(super) struct Hint;

impl Hint {
    pub const MANY: u32 = u32::MAX;

    pub const fn at(space: usize, index: usize) -> u32 {
        1 + ((space as u32) << 12 | index as u32)
    }

    pub const fn parts(hint: u32) -> (usize, usize) {
        (((hint - 1) >> 12) as usize, ((hint - 1) & 0xfff) as usize)
    }
}

/// One call of [`Engine::run`]: what helpers find through [`Frame::run`].
pub(super) struct Run<'a, M> {
    pub state: &'a mut State,
    pub hart: &'a mut Hart,
    pub vm: &'a Vm<M>,
    pub exit: Option<Exit>,
    /// Instructions retired when the budget will be zero, less the traps that took from it.
    pub base: u64,
    /// Instructions that were given since translated code was entered.
    given: u64,
    /// Instructions that may be given without a return to the caller.
    spare: u64,
}

impl Translator {
    /// For one of the harts that share `shared`.
    ///
    /// # Errors
    /// If the host has no memory for it.
    pub fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let state = State {
            shared: Arc::clone(shared),
            hart_index: 0,
            spaces: Spaces::new(shared.fresh.clone()),
            hints: Vec::new(),
            epoch: 0,
            debug_epoch: 0,
            generation: 0,
            tracked: 0,
            heat: Heat::default(),
            known: KnownCode::new(),
            is_full: false,
            decoded: [(0, None); DECODED],
            profile: Profile::new(shared.cache().is_profiled()),
        };
        let enter = shared.cache().thunks().enter;
        // SAFETY: `enter` is the thunk of that type.
        let enter = unsafe { std::mem::transmute::<u64, extern "C" fn(*mut Frame, u64)>(enter) };
        Ok(Self { shared: Arc::clone(shared), enter, stack: Stack::new()?, state })
    }
}

impl<M: DirectMemory + 'static> Engine<M> for Translator {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<M>, budget: u64) -> Exit {
        let frame = self.stack.frame();
        self.state.hart_index = hart.index();
        if self.state.hints.is_empty() {
            let range = vm.memory().range();
            self.state.hints = vec![0; ((range.end.0 - range.start.0) / PAGE_SIZE) as usize + 1];
        }
        let mut run =
            Run { state: &mut self.state, hart: &mut hart.hart, vm, exit: None, base: 0, given: 0, spare: 0 };
        run.enter(frame);
        let exit = run.work(frame, self.enter, budget);
        run.leave(frame);
        exit
    }
}

impl<'a, M: DirectMemory + 'static> Run<'a, M> {
    /// The world around the hart.
    pub fn environment(&self) -> HartEnvironment<'a, M> {
        self.vm.environment(&self.vm.harts()[self.state.hart_index])
    }

    /// Takes the hart's state over into the frame.
    fn enter(&mut self, frame: *mut Frame) {
        // SAFETY: nobody else uses the frame now.
        let frame = unsafe { &mut *frame };
        frame.load(&self.hart.x, &self.hart.f);
        self.load_reservation(frame);
        frame.relink = RELINK;
        self.state.spaces.leave();
        if self.hart.debug_epoch() != self.state.debug_epoch {
            // Pages that have a breakpoint now must not be entered without a look; data's are forgotten by a fence.
            self.state.debug_epoch = self.hart.debug_epoch();
            self.state.spaces.forget_code();
        }
    }

    fn leave(&mut self, frame: *mut Frame) {
        // SAFETY: nobody else uses the frame now.
        let frame = unsafe { &mut *frame };
        frame.save(&mut self.hart.x, &mut self.hart.f);
        self.save_reservation(frame);
        frame.run = std::ptr::null_mut();
    }

    /// Runs until something is left to the caller.
    fn work(&mut self, frame: *mut Frame, enter: extern "C" fn(*mut Frame, u64), budget: u64) -> Exit {
        let (vm, env) = (self.vm, self.environment());
        let most = if vm.harts().len() > 1 { SHARED_SLICE } else { SLICE };
        let mut left = budget;
        loop {
            if left == 0 || env.attention() {
                return Exit::Budget;
            }
            // Turns count too: traps that lead to traps must not keep the hart here.
            left -= 1;
            if std::mem::take(&mut self.state.is_full)
                && let Some(pages) = vm.memory().code_pages()
            {
                self.state.shared.clear(pages);
            }
            self.enter_code();
            self.hart.take_pending_interrupt(&env);
            // SAFETY: no translated code runs now, so nobody else uses the frame.
            let context = unsafe { &mut *frame };
            self.refresh(context);
            let code = self.find(context, self.hart.pc);
            let start = self.hart.retired;
            let slice = left.min(most);
            let mut traps = 0;
            match code {
                Ok(Some(code)) => {
                    context.budget = slice as i32;
                    context.pc = 1;
                    self.base = start.wrapping_add(slice);
                    (self.given, self.spare) = (slice, left - slice);
                    self.state.profile.entries += 1;
                    // Here and not earlier: helpers change what this borrow has exclusively otherwise.
                    context.run = std::ptr::from_mut(self).cast();
                    let started = self.state.profile.is_timed.then(Instant::now);
                    enter(frame, code);
                    if let Some(started) = started {
                        self.state.profile.inside += started.elapsed();
                    }
                    // SAFETY: translated code has left.
                    let frame = unsafe { &mut *frame };
                    if frame.pc & 1 == 0 {
                        self.hart.pc = frame.pc;
                        self.note_heat(frame);
                    }
                    self.hart.retired = self.base.wrapping_sub(frame.budget as i64 as u64);
                    traps = start.wrapping_add(self.given).wrapping_sub(self.base);
                    self.take_flags(frame);
                }
                Ok(None) if self.state.is_full => {}
                Ok(None) => self.step(context),
                Err(trap) => self.hart.take_trap(trap),
            }
            self.state.shared.leave(self.state.hart_index);
            left = left.saturating_sub(self.hart.retired.wrapping_sub(start).wrapping_add(traps));
            if let Some(exit) = self.exit.take() {
                return exit;
            }
        }
    }

    /// Gives the hart another slice if nothing asks for more than a look at the timer, and returns the code to go on with
    /// at its program counter; 0 to leave. `None` where there is no other slice. Several harts have more to look at.
    pub fn next_slice(&mut self, frame: &mut Frame) -> Option<u64> {
        let env = self.environment();
        let tracked = self.tracked();
        let is_alone = self.vm.harts().len() == 1;
        if !is_alone
            || self.spare < SLICE
            || self.state.is_full
            || tracked != self.state.tracked
            || env.attention()
        {
            return None;
        }
        self.note_heat(frame);
        self.spare -= SLICE;
        self.given += SLICE;
        self.base = self.base.wrapping_add(SLICE);
        frame.budget += SLICE as i32;
        self.hart.retired = self.base.wrapping_sub(frame.budget as i64 as u64);
        if self.hart.take_pending_interrupt(&env) {
            return Some(self.dispatch_changed(frame));
        }
        frame.is_held_back = u8::from(self.hart.is_interrupt_held_back(&env));
        Some(self.dispatch(frame))
    }

    /// Has the second tier translate the block in which a slice has ended, if many do.
    fn note_heat(&mut self, frame: &Frame) {
        let code = self.state.spaces.code();
        let target =
            code.physical(self.hart.pc & !(PAGE_SIZE - 1)).map(|page| page + self.hart.pc % PAGE_SIZE);
        let Some(page) = code.physical(frame.page) else { return };
        let Some(heat) = self.state.heat.note(page + frame.ended, target) else { return };
        let cache = self.state.shared.cache();
        if cache.may_optimize(page + frame.ended) {
            let (bytes, epoch, heat) = (read_page(self.vm.memory(), page), cache.epoch(page), heat.clone());
            drop(cache);
            let entry = frame.ended as i32;
            self.state.shared.optimize(Box::new(Request { page, entry, bytes, epoch, heat }));
        }
    }

    /// See [`State::tracked`].
    fn tracked(&self) -> u32 {
        self.vm.memory().code_pages().map_or(0, |pages| pages.tracked())
    }

    fn enter_code(&mut self) {
        let now = self.tracked();
        let State { shared, spaces, hints, hart_index, tracked, .. } = &mut *self.state;
        let first = self.vm.memory().range().start.0;
        if now != *tracked {
            *tracked = now;
            spaces.protect_all();
        }
        let generation = shared.enter(*hart_index, |page| protect(spaces, hints, first, page));
        if generation != self.state.generation {
            self.state.generation = generation;
            self.state.spaces.forget_code();
            self.state.known.clear();
        }
    }

    /// Carries out fences since the last look, and makes the frame the one of the current context.
    pub fn refresh(&mut self, frame: &mut Frame) {
        let spaces = &mut self.state.spaces;
        let mut everything = false;
        self.hart.take_fences(|address, asid| {
            everything |= address.is_none() && asid.is_none();
            spaces.fence(address.map(|address| address.0), asid);
        });
        self.hart.take_guest_fences(|fence| spaces.fence_guest(&fence));
        if everything || self.hart.code_epoch() != self.state.epoch {
            self.state.epoch = self.hart.code_epoch();
            self.fence_instructions();
        }
        self.state.spaces.enter(self.hart.translation_context());
        let env = self.environment();
        let spaces = &mut self.state.spaces;
        if spaces.is_doubtful() {
            spaces.settle(|address| {
                self.hart.peek_code_page(&env, GuestVirtual(address)).as_ref().map(Mapping::of)
            });
        }
        frame.supervisor_tlbs = spaces.supervisor_tlbs();
        frame.tlb = spaces.data().tlb();
        frame.jumps = spaces.code().jumps();
        frame.jump_mask = spaces.code().jump_mask();
        frame.mappings = spaces.code().mappings;
        frame.zero_ready = u8::from(self.hart.check_cache_block(CacheBlock::Zero).is_ok());
        frame.is_supervisor = u8::from(self.hart.privilege == Privilege::Supervisor);
        frame.is_held_back = u8::from(self.hart.is_interrupt_held_back(&env));
        frame.csrs = std::ptr::from_mut(&mut self.hart.csr);
        let offset = if self.hart.virtualized { Csrs::VIRTUAL_OFFSET } else { 0 };
        frame.supervisor_csrs = frame.csrs.wrapping_byte_add(offset);
        self.refresh_float(frame);
    }

    fn refresh_float(&mut self, frame: &mut Frame) {
        /// MXCSR's field for each rounding mode of RISC-V that the host has too.
        const ROUNDING: [u32; 4] = [0, 3, 1, 2];
        /// All exceptions masked.
        const MASKED: u32 = 0x1f80;
        const ROUNDING_SHIFT: u32 = 13;
        let rounding = ROUNDING.get(usize::from(self.hart.csr.frm));
        frame.float_ready = u8::from(self.hart.is_float_dirty() && rounding.is_some());
        let is_outer_dirty = !self.hart.virtualized || self.hart.csr.mstatus & mstatus::FS == mstatus::FS;
        frame.rounding_ready = u8::from(is_outer_dirty && rounding.is_some());
        let flags = frame.guest_mxcsr & MXCSR_FLAGS;
        frame.guest_mxcsr = MASKED | rounding.unwrap_or(&0) << ROUNDING_SHIFT | flags;
    }

    /// Hands the flags that the host raised to `fflags`.
    pub fn take_flags(&mut self, frame: &mut Frame) {
        let raised = frame.guest_mxcsr & MXCSR_FLAGS;
        if raised != 0 {
            frame.guest_mxcsr &= !MXCSR_FLAGS;
            self.hart.raise_float_flags(frame.flags[raised as usize]);
        }
    }

    fn fence_instructions(&mut self) {
        let memory = self.vm.memory();
        let Some(pages) = memory.code_pages() else { return };
        let State { shared, spaces, hints, hart_index, .. } = &mut *self.state;
        let first = memory.range().start.0;
        shared.fence_instructions(
            *hart_index,
            pages,
            |page| protect(spaces, hints, first, page),
            |page| read_page(memory, page),
        );
    }

    /// The code at a virtual address; `None` where only the interpreter can go on. Makes its page the frame's.
    pub fn find(&mut self, frame: &mut Frame, pc: u64) -> Result<Option<u64>, Trap> {
        let page = pc & !(PAGE_SIZE - 1);
        frame.page = page;
        if let Some(code) = self.state.spaces.code().find(pc) {
            return Ok(Some(code));
        }
        if let Some(code) = self.known_code(pc) {
            self.state.spaces.code().insert(pc, code);
            return Ok(Some(code));
        }
        let found = self.find_block(pc)?;
        frame.mappings = self.state.spaces.code().mappings;
        Ok(found.map(|(_, code)| code))
    }

    /// The code at a virtual address whose page was reached, if this hart has used it of late: a new process has an empty
    /// jump cache, and runs the code of others.
    fn known_code(&mut self, pc: u64) -> Option<u64> {
        if self.hart.debugs_code(pc) {
            return None;
        }
        let page = self.state.spaces.code().physical(pc & !(PAGE_SIZE - 1))?;
        self.state.known.find(page + pc % PAGE_SIZE)
    }

    /// Forgets the code of a virtual address: it was removed.
    pub fn forget_known(&mut self, pc: u64) {
        if let Some(page) = self.state.spaces.code().physical(pc & !(PAGE_SIZE - 1)) {
            self.state.known.forget(page + pc % PAGE_SIZE);
        }
    }

    /// The block at a virtual address, and its code.
    pub fn find_block(&mut self, pc: u64) -> Result<Option<(BlockId, u64)>, Trap> {
        if self.hart.debugs_code(pc) {
            return Ok(None);
        }
        let Some(page) = self.code_page(pc)? else { return Ok(None) };
        let offset = pc % PAGE_SIZE;
        let half = |memory: &M, at| memory.load::<u16>(GuestPhysical(at)).unwrap_or(0);
        if offset == LAST && half(self.vm.memory(), page + LAST) & 3 == 3 {
            // The instruction's other half is in the next page.
            let Some(next) = self.code_page(pc.wrapping_add(2))? else { return Ok(None) };
            let find = |cache: &CodeCache| cache.find_across(page, next);
            return Ok(self.block(pc, &[page, next], find, |memory, cache| {
                cache.translate_across(page, next, half(memory, page + LAST), half(memory, next))
            }));
        }
        let find = |cache: &CodeCache| cache.find(page + offset);
        let found = self.block(pc, &[page], find, |memory, cache| {
            let bytes = read_page(memory, page);
            let block = cache.translate(page, offset as i32, &bytes);
            if cache.optimizes_always() {
                optimizer::at_once(cache, page, offset as i32, &bytes);
                return cache.find(page + offset);
            }
            Some(block)
        });
        if let Some((_, code)) = found {
            self.state.known.insert(page + offset, code);
        }
        Ok(found)
    }

    /// The block that `find` finds, else the one that `translate` makes from `pages`, which are watched before
    /// they are read. `None` where the cache is full, or the code is for the interpreter.
    fn block(
        &mut self,
        pc: u64,
        pages: &[u64],
        find: impl Fn(&CodeCache) -> Option<BlockId>,
        translate: impl FnOnce(&M, &mut CodeCache) -> Option<BlockId>,
    ) -> Option<(BlockId, u64)> {
        let shared = Arc::clone(&self.state.shared);
        let mut cache = shared.cache();
        let block = match find(&cache) {
            Some(block) => block,
            None if !cache.has_room() => {
                self.state.is_full = true;
                return None;
            }
            None => {
                for &page in pages {
                    if cache.is_empty(page) {
                        self.watch(page);
                    }
                }
                let started = self.state.profile.start();
                let block = translate(self.vm.memory(), &mut cache);
                self.state.profile.stop(Part::Translation, started);
                block?
            }
        };
        let code = cache.code(block);
        self.state.spaces.code().insert(pc, code);
        Some((block, code))
    }

    /// The physical page that code at a virtual address is in; `None` where it can't be translated.
    fn code_page(&mut self, pc: u64) -> Result<Option<u64>, Trap> {
        match self.state.spaces.code().physical(pc & !(PAGE_SIZE - 1)) {
            Some(physical) => Ok(Some(physical)),
            None => self.reach(pc),
        }
    }

    /// Translates the address of code, whose page becomes known to the space. `None` where the page isn't all
    /// RAM or not all alike.
    fn reach(&mut self, pc: u64) -> Result<Option<u64>, Trap> {
        let env = self.environment();
        let translation = self.hart.translate(&env, GuestVirtual(pc), Access::Execute, 2)?;
        let page = translation.physical.page();
        if !translation.whole_page || !is_ram(self.vm.memory(), page) {
            return Ok(None);
        }
        self.state.spaces.reach(pc & !(PAGE_SIZE - 1), Mapping::of(&translation));
        Ok(Some(page.0))
    }

    /// From now on stores to a page are noted.
    fn watch(&mut self, page: u64) {
        let memory = self.vm.memory();
        let Some(pages) = memory.code_pages() else { return };
        pages.watch(GuestPhysical(page));
        let State { shared, spaces, hints, hart_index, .. } = &mut *self.state;
        protect(spaces, hints, memory.range().start.0, page);
        shared.protect_elsewhere(*hart_index, page);
    }

    /// Executes one instruction in the interpreter, with all state in the frame, unless there is a breakpoint before
    /// it.
    pub fn step(&mut self, frame: &mut Frame) {
        let env = self.environment();
        self.take_flags(frame);
        self.hart.context_changed();
        frame.save(&mut self.hart.x, &mut self.hart.f);
        self.save_reservation(frame);
        let exit = self.hart.step_to_point(&env);
        if exit != Exit::Budget || self.hart.has_debug_hit() {
            self.exit = Some(exit);
        }
        frame.load(&self.hart.x, &self.hart.f);
        self.load_reservation(frame);
        self.refresh_float(frame);
    }

    fn save_reservation(&mut self, frame: &Frame) {
        let memory = self.vm.memory();
        self.hart.reservation = (frame.reserved != 0).then(|| {
            let offset = (frame.reserved & !1).wrapping_sub(memory.host_address().as_ptr() as u64);
            let (width, value) = if frame.reserved & 1 != 0 {
                (AtomicWidth::Double, frame.reserved_value)
            } else {
                (AtomicWidth::Word, u64::from(frame.reserved_value as u32))
            };
            Reservation { address: memory.range().start.offset(offset), value, width }
        });
    }

    fn load_reservation(&mut self, frame: &mut Frame) {
        let memory = self.vm.memory();
        frame.reserved = 0;
        if let Some(Reservation { address, value, width }) = self.hart.reservation {
            let offset = address.0.wrapping_sub(memory.range().start.0);
            let host = (memory.host_address().as_ptr() as u64).wrapping_add(offset);
            (frame.reserved, frame.reserved_value) = match width {
                AtomicWidth::Double => (host | 1, value),
                AtomicWidth::Word => (host, value as i32 as u64),
            };
        }
    }
}

const MXCSR_FLAGS: u32 = 0x3f;

/// Takes away the right to store to a page unseen.
fn protect(spaces: &mut Spaces, hints: &mut [u32], first: u64, page: u64) {
    let Some(hint) = hints.get_mut(((page - first) / PAGE_SIZE) as usize) else { return };
    match std::mem::take(hint) {
        0 => {}
        Hint::MANY => spaces.protect(page),
        one => {
            let (space, index) = Hint::parts(one);
            spaces.protect_entry(space, index, page);
        }
    }
}

/// Whether all of a page is RAM.
pub(super) fn is_ram<M: GuestMemory>(memory: &M, page: GuestPhysical) -> bool {
    let range = memory.range();
    range.contains(&page) && range.contains(&page.offset(PAGE_SIZE - 1))
}

fn read_page<M: GuestMemory>(memory: &M, page: u64) -> PageBytes {
    let mut bytes = PageBytes([0; PAGE_SIZE as usize]);
    // Only pages of RAM have code.
    let read = memory.read(GuestPhysical(page), &mut bytes.0);
    debug_assert!(read.is_ok());
    bytes
}
