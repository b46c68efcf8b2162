//! Word of what a hart does, for whoever records it: traps, returns from them, and translations that a TLB didn't
//! have. Nobody listens as a rule; then this costs a look at one pointer at each of these events, and nothing in
//! between.

use alloc::boxed::Box;

use rvisor_isa::Privilege;
use rvisor_waist::{GuestPhysical, GuestVirtual};

use crate::exit::DeviceAccess;
use crate::mmu::{Access, Translation};
use crate::state::Hart;
use crate::trap::Trap;

/// Something that a hart did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HartEvent {
    /// It took a trap.
    Trap {
        /// Why, and the value for `stval` or `mtval`.
        trap: Trap,
        /// Where it stood: the instruction that trapped, or the next one.
        pc: u64,
        /// The mode it was in.
        from: Privilege,
        /// The mode whose handler it is in now.
        to: Privilege,
        /// Where the handler is.
        handler: u64,
        /// `satp`: whose address space it is.
        satp: u64,
        /// Registers `a0` to `a7`. They are right for `ecall`; otherwise they may be what they were a while ago.
        arguments: [u64; 8],
    },
    /// It executed `sret` or `mret`.
    Return {
        /// The mode it was in.
        from: Privilege,
        /// The mode it is in now.
        to: Privilege,
        /// Where it goes on.
        pc: u64,
        /// `satp`: whose address space it is.
        satp: u64,
        /// Registers `a0` and `a1`.
        values: [u64; 2],
    },
    /// It is to access a device; again if somebody else was using it.
    Device {
        /// The access.
        access: DeviceAccess,
        /// Where the program counter is.
        pc: u64,
    },
    /// The device has answered.
    DeviceDone {
        /// What a load got; zero for a store. `None` for an access fault.
        value: Option<u64>,
    },
    /// It calls the monitor's SBI.
    SbiCall {
        /// Where the program counter is.
        pc: u64,
        /// Registers `a0` to `a7`: `a7` names the extension, `a6` the function.
        arguments: [u64; 8],
    },
    /// The SBI has answered.
    SbiReturn {
        /// Registers `a0` and `a1`.
        values: [u64; 2],
    },
    /// It waits for an interrupt.
    Wait,
    /// It waits no longer.
    Woke,
    /// A translation was not in the TLB, and was found in the page tables.
    Fill {
        /// What it was for.
        access: Access,
        /// The mode that the access was made in.
        from: Privilege,
        /// Where the program counter was; that of the block's start for a fetch.
        pc: u64,
        /// The guest virtual address.
        address: GuestVirtual,
        /// Where it leads.
        physical: GuestPhysical,
        /// Bytes of the page that maps it.
        page_size: u64,
        /// `satp`: whose address space it is.
        satp: u64,
    },
}

/// Who hears of it, on the hart's own thread: it must be quick.
pub trait Observer: Send {
    /// Something has happened.
    fn observe(&mut self, event: &HartEvent);
}

impl Hart {
    /// From now on tells `observer`, or nobody, what happens.
    pub fn set_observer(&mut self, observer: Option<Box<dyn Observer>>) {
        self.observer = observer;
    }

    /// Whether somebody hears.
    #[inline]
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    #[inline]
    pub(crate) fn tell_trap(&mut self, trap: Trap, pc: u64, from: Privilege) {
        if self.observer.is_some() {
            let mut arguments = [0; 8];
            arguments.copy_from_slice(&self.x[10..18]);
            let (to, handler, satp) = (self.privilege, self.pc, self.csr.satp);
            self.tell(&HartEvent::Trap { trap, pc, from, to, handler, satp, arguments });
        }
    }

    #[inline]
    pub(crate) fn tell_return(&mut self, from: Privilege) {
        if self.observer.is_some() {
            let (to, pc, satp) = (self.privilege, self.pc, self.csr.satp);
            self.tell(&HartEvent::Return { from, to, pc, satp, values: [self.x[10], self.x[11]] });
        }
    }

    #[inline]
    pub(crate) fn tell_fill(&mut self, address: GuestVirtual, access: Access, found: &Translation) {
        if self.observer.is_some() {
            let (from, pc, satp) = (self.privilege, self.pc, self.csr.satp);
            let &Translation { physical, page_size, .. } = found;
            self.tell(&HartEvent::Fill { access, from, pc, address, physical, page_size, satp });
        }
    }

    /// Tells whoever hears what the hart's owner has done for it.
    #[inline]
    pub fn tell(&mut self, event: &HartEvent) {
        if let Some(observer) = &mut self.observer {
            observer.observe(event);
        }
    }
}
