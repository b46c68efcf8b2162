//! Page faults of the hardware: the guest's own, pages that the shadow tables lack, and device accesses.

use rvisor_hart::{Access, Environment, Exit, Hart, Translation};
use rvisor_isa::Exception;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual};

use super::{Deprivileged, Outside, key};
use crate::arch::Partition;
use crate::copies::{Original, PAGE};
use crate::processor::Processor;
use crate::pte::Pte;
use crate::shadow::{Key, Page};

const LARGE: u64 = 2 << 20;

impl<P: Processor> Deprivileged<'_, P> {
    /// The hardware found no page at `address`, or not the rights.
    pub(super) fn page_fault(
        &mut self,
        hart: &mut Hart,
        outside: &Outside<'_>,
        fault: Exception,
        address: u64,
    ) -> Option<Exit> {
        let access = match fault {
            Exception::InstructionPageFault => Access::Execute,
            Exception::StorePageFault => Access::Store,
            _ => Access::Load,
        };
        let address = GuestVirtual(address);
        let translation = match hart.translate(outside, address, access, 1) {
            Ok(translation) => translation,
            Err(trap) => {
                hart.take_trap(trap);
                return None;
            }
        };
        let key = key(hart);
        let Some(page) = page(outside.memory(), &key, address, access, &translation) else {
            return self.step(hart, outside);
        };
        match outside.memory().copies() {
            None => self.shadow.fill(key, &page, self.processor),
            Some(copies) => {
                let own = GuestPhysical(translation.physical.0 & !(PAGE - 1));
                let size = if page.is_large { LARGE } else { PAGE };
                let mut near = copies.near(own, size);
                let is_stored_to = |original: &&Original| access == Access::Store && original.page == own;
                let mut gone = self.shadow.displaced(&key, &page);
                gone.extend(near.iter().find(is_stored_to));
                if !gone.is_empty() {
                    gone.iter().for_each(|original| copies.remove(original.page));
                    near = copies.near(own, size);
                }
                if access == Access::Load
                    && near.iter().any(|original| original.page == own)
                    && self.shadow.executes_copy(&key, address.0, copies)
                {
                    // The copy can't be read: that would be another instruction.
                    copies.loaded(own);
                    return self.step(hart, outside);
                }
                if near.is_empty() {
                    self.shadow.fill(key, &page, self.processor);
                } else {
                    self.shadow.fill_near(key, &page, &near, self.processor);
                }
            }
        }
        self.filled = Some(page);
        None
    }
}

/// The page to map for an access that the guest's tables allow; `None` where no RAM is.
fn page(
    memory: &Partition,
    key: &Key,
    address: GuestVirtual,
    access: Access,
    translation: &Translation,
) -> Option<Page> {
    let (machine, _) = memory.machine(translation.physical)?;
    let ram = memory.range();
    let start = translation.physical.0 & !(LARGE - 1);
    // Without translation, neighbours are mapped alike.
    let guest_size = if key.satp == 0 { LARGE } else { translation.page_size };
    let is_large = guest_size >= LARGE
        && (translation.physical.0 ^ machine.0).is_multiple_of(LARGE)
        && start >= ram.start.0
        && start + LARGE <= ram.end.0;
    let mut rights = match access {
        Access::Load => Pte::R,
        Access::Store => Pte::R | Pte::W,
        Access::Execute => Pte::X,
    };
    if translation.readable {
        rights |= Pte::R;
        if translation.writable {
            rights |= Pte::W;
        }
    }
    if key.satp == 0 {
        rights |= Pte::X;
    }
    Some(Page { address, machine, rights, guest_size, is_large })
}
