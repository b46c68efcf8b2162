//! What translated code calls. See [`Helpers`](crate::backend::x64::thunks::Helpers) for the two kinds.

use rvisor_hart::{Access, Environment, Trap};
use rvisor_isa::{Op, decode};
use rvisor_waist::{GuestVirtual, PAGE_SIZE};

use crate::backend::x64::thunks::Helpers;
use crate::runtime::frame::Frame;
use crate::runtime::profile::Part;
use crate::runtime::run::{DirectMemory, Hint, RELINK, Run, is_ram};
use crate::runtime::site::Site;
use crate::runtime::space::{TlbEntry, tlb_index};

/// What a finisher returns.
#[repr(C)]
pub struct Finished {
    value: u64,
    leave: u64,
}

impl Finished {
    const LEAVE: Self = Self { value: 0, leave: 1 };
    /// See [`AGAIN`](crate::backend::x64::thunks::AGAIN).
    const AGAIN: Self = Self { value: 0, leave: 2 };

    const fn value(value: u64) -> Self {
        Self { value, leave: 0 }
    }
}

/// The helpers for a kind of memory.
pub fn helpers<M: DirectMemory + 'static>() -> Helpers {
    Helpers {
        slice: slice::<M> as *const () as u64,
        lookup: lookup::<M> as *const () as u64,
        link: link::<M> as *const () as u64,
        system: system::<M> as *const () as u64,
        step: step::<M> as *const () as u64,
        load: load::<M> as *const () as u64,
        store: store::<M> as *const () as u64,
        atomic: atomic::<M> as *const () as u64,
        interpret: interpret::<M> as *const () as u64,
        pause: pause::<M> as *const () as u64,
    }
}

/// The frame and run of a call from translated code.
///
/// # Safety
/// `frame` is the one that translated code runs with: it belongs to this thread alone, and its run outlives
/// the call.
unsafe fn context<'a, M>(frame: *mut Frame) -> (&'a mut Frame, &'a mut Run<'a, M>) {
    // SAFETY: as the caller promises; frame and run don't overlap.
    unsafe {
        let frame = &mut *frame;
        let run = &mut *frame.run.cast();
        (frame, run)
    }
}

extern "C" fn slice<M: DirectMemory + 'static>(frame: *mut Frame, target: u64, ended: u64) -> u64 {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.hart.pc = target;
    frame.ended = ended;
    run.next_slice(frame).unwrap_or_else(|| {
        frame.pc = target;
        0
    })
}

extern "C" fn lookup<M: DirectMemory + 'static>(frame: *mut Frame, target: u64) -> u64 {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Linking, |run| {
        // As `jalr` has it.
        let target = target & !1;
        run.hart.pc = target;
        if frame.is_over() {
            return 0;
        }
        // Not from the jump cache: that misses, or has code that was removed.
        if run.state.spaces.code().find(target).is_some() {
            run.forget_known(target);
        }
        run.state.spaces.code().forget(target);
        run.state.profile.lookups += 1;
        run.dispatch(frame)
    })
}

extern "C" fn link<M: DirectMemory + 'static>(frame: *mut Frame, target: u64, link: u64) -> u64 {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Linking, |run| {
        frame.relink = RELINK;
        run.state.profile.links += 1;
        run.hart.pc = target;
        if frame.is_over() {
            return 0;
        }
        match run.find_block(target) {
            Ok(Some((block, code))) => {
                let space = run.state.spaces.code();
                let (may_link, mappings) = (space.may_link(), space.mappings);
                frame.mappings = mappings;
                let mut cache = run.state.shared.cache();
                if may_link || !cache.is_far(link as u32) {
                    cache.link(link as u32, block, mappings);
                }
                frame.page = target & !(PAGE_SIZE - 1);
                code
            }
            _ => run.dispatch(frame),
        }
    })
}

extern "C" fn system<M: DirectMemory + 'static>(frame: *mut Frame, _: u64, site: u64, bits: u64) -> u64 {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::System, |run| {
        run.arrive(frame, Site::from_bits(site as u32));
        run.take_flags(frame);
        let bits = bits as u32;
        let Some(instruction) = run.state.decode(bits) else { return 0 };
        run.state.profile.count(instruction.op);
        if matches!(instruction.op, Op::WrsNto | Op::WrsSto) {
            run.state.shared.pause();
        }
        for register in [instruction.rs1, instruction.rs2, instruction.rd] {
            run.hart.x[usize::from(register)] = frame.x(register);
        }
        if run.hart.is_observed() {
            // Whoever records system calls wants to know their arguments and results.
            frame.save_integers(&mut run.hart.x);
        }
        let env = run.environment();
        let before = run.hart.retired;
        let exit = run.hart.execute_system(&env, &instruction, bits);
        run.charge_trap(before);
        frame.set_x(instruction.rd, run.hart.x[usize::from(instruction.rd)]);
        run.settle(frame);
        if let Some(exit) = exit {
            run.exit = Some(exit);
            return 0;
        }
        run.hart.take_interrupt_as_seen(&env);
        run.dispatch_changed(frame)
    })
}

extern "C" fn step<M: DirectMemory + 'static>(frame: *mut Frame, _: u64, site: u64) -> u64 {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Interpretation, |run| {
        run.count_interpreted(frame.page + Site::from_bits(site as u32).offset());
        run.arrive(frame, Site::from_bits(site as u32));
        let before = run.hart.retired;
        run.step(frame);
        run.charge_trap(before);
        run.settle(frame);
        run.hart.take_interrupt_as_seen(&run.environment());
        run.dispatch_changed(frame)
    })
}

extern "C" fn interpret<M: DirectMemory + 'static>(frame: *mut Frame, _: u64, site: u64) -> Finished {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Interpretation, |run| {
        let site = Site::from_bits(site as u32);
        run.count_interpreted(frame.page + site.offset());
        run.interpret(frame, site)
    })
}

extern "C" fn pause<M: DirectMemory + 'static>(frame: *mut Frame) -> Finished {
    // SAFETY: called by the thunk, with its frame.
    let (_, run) = unsafe { context::<M>(frame) };
    run.state.shared.pause();
    Finished::value(0)
}

extern "C" fn atomic<M: DirectMemory + 'static>(frame: *mut Frame, address: u64, site: u64) -> Finished {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Memory, |run| {
        let site = Site::from_bits(site as u32);
        run.show_place(frame, site);
        run.state.profile.atomic_misses += 1;
        let access = if site.is_signed() { Access::Load } else { Access::Store };
        // What it fails with, the interpreter will find as well.
        if address.is_multiple_of(site.bytes())
            && let Ok(Some(_)) = run.translate(address, access, site.bytes())
            && run.state.spaces.data().answers(address, access == Access::Store)
        {
            return Finished::AGAIN;
        }
        run.interpret(frame, site)
    })
}

extern "C" fn load<M: DirectMemory + 'static>(frame: *mut Frame, address: u64, site: u64) -> Finished {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Memory, |run| {
        let site = Site::from_bits(site as u32);
        let bytes = site.bytes();
        run.show_place(frame, site);
        run.state.profile.load_misses += 1;
        if address % PAGE_SIZE > PAGE_SIZE - bytes {
            return run.interpret_load(frame, site);
        }
        match run.translate(address, Access::Load, bytes) {
            Ok(Some(host)) => {
                let mut value = [0; 8];
                // SAFETY: inside RAM; copying bytes that others may be writing is what the guest asked for.
                unsafe { load_bytes(host, bytes, &mut value) };
                let value = u64::from_le_bytes(value);
                let unused = 64 - 8 * bytes as u32;
                if site.is_float() {
                    let boxed = if unused == 0 { value } else { value | u64::MAX << (64 - unused) };
                    frame.f[usize::from(site.register())] = boxed;
                    return Finished::value(0);
                }
                Finished::value(if site.is_signed() {
                    ((value << unused) as i64 >> unused) as u64
                } else {
                    value
                })
            }
            Ok(None) => run.interpret_load(frame, site),
            Err(_) if run.hart.config().hypervisor => run.interpret_load(frame, site),
            Err(trap) => run.trap(frame, site, trap),
        }
    })
}

extern "C" fn store<M: DirectMemory + 'static>(frame: *mut Frame, address: u64, site: u64) -> Finished {
    // SAFETY: called by the thunk, with its frame.
    let (frame, run) = unsafe { context::<M>(frame) };
    run.timed(Part::Memory, |run| {
        let site = Site::from_bits(site as u32);
        run.show_place(frame, site);
        run.state.profile.store_misses += 1;
        if address % PAGE_SIZE > PAGE_SIZE - site.bytes() {
            return run.interpret(frame, site);
        }
        match run.translate(address, Access::Store, site.bytes()) {
            Ok(Some(host)) => run.store(frame, site, host),
            Ok(None) => run.interpret(frame, site),
            // The interpreter knows how to describe the instruction.
            Err(_) if run.hart.config().hypervisor => run.interpret(frame, site),
            Err(trap) => run.trap(frame, site, trap),
        }
    })
}

/// Copies 1, 2, 4 or 8 bytes, in one access where they are aligned.
///
/// # Safety
/// The bytes at `host` are mapped.
unsafe fn load_bytes(host: u64, bytes: u64, value: &mut [u8; 8]) {
    // SAFETY: as the caller promises.
    unsafe {
        match bytes {
            1 => value[..1].copy_from_slice(&(host as *const [u8; 1]).read_volatile()),
            2 => value[..2].copy_from_slice(&(host as *const u16).read_unaligned().to_le_bytes()),
            4 => value[..4].copy_from_slice(&(host as *const u32).read_unaligned().to_le_bytes()),
            _ => *value = (host as *const u64).read_unaligned().to_le_bytes(),
        }
    }
}

impl<M: DirectMemory + 'static> Run<'_, M> {
    /// Does something, and counts the time it takes.
    fn timed<T>(&mut self, part: Part, work: impl FnOnce(&mut Self) -> T) -> T {
        let started = self.state.profile.start();
        let answer = work(self);
        self.state.profile.stop(part, started);
        answer
    }

    /// Makes the hart's program counter that of a site, where somebody hears of translations.
    fn show_place(&mut self, frame: &Frame, site: Site) {
        if self.hart.is_observed() {
            self.hart.pc = frame.page + site.offset();
        }
    }

    /// Makes the hart stand at a site.
    fn arrive(&mut self, frame: &mut Frame, site: Site) {
        frame.budget -= site.index() as i32;
        self.hart.pc = frame.page + site.offset();
        self.hart.retired = self.base.wrapping_sub(frame.budget as i64 as u64);
    }

    /// Makes the budget what the hart has retired.
    fn settle(&self, frame: &mut Frame) {
        frame.budget = self.base.wrapping_sub(self.hart.retired) as i32;
    }

    /// Takes from the budget if nothing was retired: traps that lead to traps must not keep the hart here.
    fn charge_trap(&mut self, before: u64) {
        if self.hart.retired == before {
            self.base = self.base.wrapping_sub(1);
        }
    }

    /// The code to go on with at the hart's program counter, after its state may have changed.
    pub fn dispatch_changed(&mut self, frame: &mut Frame) -> u64 {
        if self.exit.is_some() || frame.budget <= 0 || self.environment().attention() {
            return 0;
        }
        self.refresh(frame);
        self.dispatch(frame)
    }

    /// The code to go on with at the hart's program counter; 0 to leave.
    pub fn dispatch(&mut self, frame: &mut Frame) -> u64 {
        let pc = self.hart.pc;
        match self.find(frame, pc) {
            Ok(Some(code)) => code,
            Ok(None) => 0,
            Err(trap) => {
                self.hart.retired = self.base.wrapping_sub(frame.budget as i64 as u64);
                self.hart.take_trap(trap);
                0
            }
        }
    }

    /// Counts the instruction at a virtual address, for a profile.
    fn count_interpreted(&mut self, pc: u64) {
        if !self.state.profile.is_timed {
            return;
        }
        let Some(physical) = self.state.spaces.code().physical(pc & !(PAGE_SIZE - 1)) else { return };
        let at = rvisor_waist::GuestPhysical(physical + pc % PAGE_SIZE);
        if let Some(instruction) =
            rvisor_waist::GuestMemory::load::<u32>(self.vm.memory(), at).ok().and_then(decode)
        {
            self.state.profile.count(instruction.op);
        }
    }

    /// Carries a store to a host address out, so that whoever has to know of it does.
    fn store(&self, frame: &Frame, site: Site, host: u64) -> Finished {
        let memory = self.vm.memory();
        let register = site.register();
        let value = if site.is_float() { frame.f[usize::from(register)] } else { frame.x(register) };
        let offset = host - memory.host_address().as_ptr() as u64;
        let at = memory.range().start.offset(offset);
        let stored = match site.bytes() {
            1 => memory.store(at, value as u8),
            2 => memory.store(at, value as u16),
            4 => memory.store(at, value as u32),
            _ => memory.store(at, value),
        };
        debug_assert!(stored.is_ok(), "RAM, as it was translated");
        Finished::value(0)
    }

    fn trap(&mut self, frame: &mut Frame, site: Site, trap: Trap) -> Finished {
        self.arrive(frame, site);
        self.state.profile.traps += 1;
        self.hart.take_trap(trap);
        Finished::LEAVE
    }

    /// Lets the interpreter execute an instruction in the middle of a block.
    fn interpret(&mut self, frame: &mut Frame, site: Site) -> Finished {
        let budget = frame.budget;
        self.arrive(frame, site);
        let (pc, retired) = (self.hart.pc, self.hart.retired);
        self.step(frame);
        // An instruction that has changed since may have another length: the block doesn't fit it then.
        let next = pc.wrapping_add(site.length());
        let is_done = self.exit.is_none() && self.hart.retired == retired + 1 && self.hart.pc == next;
        if is_done {
            frame.budget = budget;
            Finished::value(0)
        } else {
            self.settle(frame);
            Finished::LEAVE
        }
    }

    fn interpret_load(&mut self, frame: &mut Frame, site: Site) -> Finished {
        let finished = self.interpret(frame, site);
        if site.is_float() || finished.leave != 0 {
            return finished;
        }
        Finished::value(frame.x(site.register()))
    }

    /// Translates an access inside a page, and remembers the translation. The host address, or `None` where
    /// the access isn't to a whole page of RAM.
    fn translate(&mut self, address: u64, access: Access, bytes: u64) -> Result<Option<u64>, Trap> {
        let (env, memory) = (self.environment(), self.vm.memory());
        let translation = self.hart.translate(&env, GuestVirtual(address), access, bytes)?;
        // SUM may have been changed without a helper.
        self.state.spaces.enter(self.hart.translation_context());
        let physical = translation.physical.page();
        if !translation.whole_page || !is_ram(memory, physical) || self.hart.debugs_data(address) {
            return Ok(None);
        }
        let page = address & !(PAGE_SIZE - 1);
        let offset = physical.0 - memory.range().start.0;
        let host = memory.host_address().as_ptr() as u64 + offset;
        let index = tlb_index(address);
        let spaces = &mut self.state.spaces;
        let is_noted = memory.code_pages().is_none_or(|pages| pages.notes_writes(physical));
        let can_load = translation.readable || access == Access::Load;
        let can_store = (translation.writable || access == Access::Store) && !is_noted;
        let large = (translation.fenced_size > PAGE_SIZE).then_some(translation.fenced_size);
        let entry = TlbEntry {
            load: if can_load { page } else { TlbEntry::no_page(index) },
            store: if can_store { page } else { TlbEntry::no_page(index) },
            addend: host.wrapping_sub(page),
            physical: physical.0,
        };
        spaces.data().insert(address, entry, large);
        if !translation.global {
            spaces.note_private_data();
        }
        if can_store {
            let hint = &mut self.state.hints[(offset / PAGE_SIZE) as usize];
            let here = Hint::at(spaces.data_number(), index);
            *hint = if *hint == 0 || *hint == here { here } else { Hint::MANY };
        }
        Ok(Some(host + address % PAGE_SIZE))
    }
}
