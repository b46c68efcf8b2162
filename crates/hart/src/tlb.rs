//! Cache of translations.

use rvisor_waist::GuestVirtual;

/// Translations that loads, stores and fetches may use without a walk.
pub struct Tlb {}

impl Tlb {
    /// An empty cache.
    pub fn new() -> Self {
        Self {}
    }

    /// Forgets the translations of a page (or of all), of an address space (or of all; a given one spares
    /// global mappings).
    pub fn flush(&mut self, _address: Option<GuestVirtual>, _asid: Option<u16>) {}

    /// Called after anything but the page tables that decides what an access may do has changed: privilege,
    /// `satp`, `mstatus` (MPRV, MPP, SUM, MXR), PMP, `menvcfg` (PBMTE, ADUE).
    pub fn context_changed(&mut self) {}
}
