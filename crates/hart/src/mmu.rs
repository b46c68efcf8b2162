//! Address translation: what an access is, where it goes, and the fences (Privileged ISA, "Supervisor-Level
//! ISA" and "Hypervisor Extension", section "Two-Stage Address Translation"). Following page tables is
//! [`walk`]'s; caching translations is [`tlb`](crate::tlb)'s.

mod pte;
mod tables;
mod walk;

use rvisor_isa::csr::{hgatp, hstatus, mstatus, satp};
use rvisor_isa::{Exception, Privilege};
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE};

use crate::exit::Environment;
use crate::state::Hart;
use crate::tlb::GuestFence;
use crate::trap::Trap;
pub(crate) use tables::TableCache;

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

/// How virtual addresses are translated: `satp.MODE`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TranslationMode {
    /// No translation.
    Bare,
    /// 39-bit virtual addresses, three levels.
    Sv39,
    /// 48-bit virtual addresses, four levels.
    Sv48,
    /// 57-bit virtual addresses, five levels.
    Sv57,
}

impl TranslationMode {
    /// What serves a machine of `memory` bytes of RAM best: each level of page tables costs the guest's kernel
    /// instructions, and whoever walks them loads. Linux maps all RAM at once, and has room for 128 GiB of it in 39 bits
    /// (its documentation, "Virtual Memory Layout on RISC-V Linux").
    #[must_use]
    pub const fn suiting(memory: u64) -> Self {
        const ROOM: u64 = 64 << 30;
        if memory <= ROOM { Self::Sv39 } else { Self::Sv48 }
    }

    /// The mode that a value of `satp` selects; `None` for reserved ones.
    #[must_use]
    pub const fn of_satp(value: u64) -> Option<Self> {
        Some(match value >> satp::MODE_SHIFT {
            satp::BARE => Self::Bare,
            satp::SV39 => Self::Sv39,
            satp::SV48 => Self::Sv48,
            satp::SV57 => Self::Sv57,
            _ => return None,
        })
    }

    /// Its number in `satp.MODE`.
    #[must_use]
    pub const fn satp_mode(self) -> u64 {
        match self {
            Self::Bare => satp::BARE,
            Self::Sv39 => satp::SV39,
            Self::Sv48 => satp::SV48,
            Self::Sv57 => satp::SV57,
        }
    }

    /// Number of levels of page tables.
    pub(crate) const fn levels(self) -> u32 {
        match self {
            Self::Bare => 0,
            Self::Sv39 => 3,
            Self::Sv48 => 4,
            Self::Sv57 => 5,
        }
    }
}

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Guest physical address.
    pub physical: GuestPhysical,
    /// Size of the page that maps it, in bytes: 4096 or more, a power of two. With NAPOT, 64 KiB. Of two stages,
    /// the smaller page's.
    pub page_size: u64,
    /// Size of the page that a fence with any address inside it is about: of two stages, the first one's.
    pub fenced_size: u64,
    /// Whether the mapping is global; true without translation.
    pub global: bool,
    /// Whether every byte of the base page around `physical` may be accessed in the same way, so that the
    /// translation may be cached. False where a PMP boundary crosses the page, and where a virtual machine loads
    /// from a page that is executable only, which two MXR bits have a say in.
    pub whole_page: bool,
    /// Whether stores may use the same translation without another walk (W and D are set, and PMP allows
    /// it).
    pub writable: bool,
    /// Whether the PTE is a user page's (U is set); false without translation.
    pub user: bool,
    /// Whether loads may use the same translation whatever MXR says (R is set, and PMP allows it).
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
    /// `mstatus.SUM`; in a virtual machine, `vsstatus.SUM`.
    pub sum: bool,
    /// `mstatus.MXR`; false in a virtual machine, where nothing cached depends on it.
    pub mxr: bool,
    /// `satp.ASID`; `None` where `satp.MODE` is Bare. In a virtual machine, that of `vsatp`.
    pub asid: Option<u16>,
    /// `hgatp.VMID` where accesses are a virtual machine's: those in VS- and VU-mode, and those that MPRV makes
    /// as if from there. Says nothing of accesses in M-mode.
    pub guest: Option<u16>,
}

/// Why a translation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Page,
    Access,
    /// The second stage doesn't map this guest physical address.
    Guest {
        /// The address.
        address: u64,
        /// Where it is a page table's, whether it is read or written.
        implicit: Option<Access>,
    },
}

impl Fault {
    const fn exception(self, access: Access) -> Exception {
        match (self, access) {
            (Self::Page, Access::Load) => Exception::LoadPageFault,
            (Self::Page, Access::Store) => Exception::StorePageFault,
            (Self::Page, Access::Execute) => Exception::InstructionPageFault,
            (Self::Access, Access::Load) => Exception::LoadAccessFault,
            (Self::Access, Access::Store) => Exception::StoreAccessFault,
            (Self::Access, Access::Execute) => Exception::InstructionAccessFault,
            (Self::Guest { .. }, Access::Load) => Exception::LoadGuestPageFault,
            (Self::Guest { .. }, Access::Store) => Exception::StoreGuestPageFault,
            (Self::Guest { .. }, Access::Execute) => Exception::InstructionGuestPageFault,
        }
    }
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Accessor {
    pub privilege: Privilege,
    /// Whether through the two stages of a virtual machine.
    pub guest: bool,
    /// Whether a load needs the permission to execute instead of that to read (`hlvx`).
    pub reads_code: bool,
}

impl Hart {
    /// The context of translations as it is now.
    #[inline]
    #[must_use]
    pub fn translation_context(&self) -> TranslationContext {
        let csr = &self.csr;
        let data = self.accessor(Access::Load);
        let guest = self.virtualized || data.guest;
        let (status, root) = if guest { (csr.vsstatus, csr.vsatp) } else { (csr.mstatus, csr.satp) };
        let is_bare = root >> satp::MODE_SHIFT == satp::BARE;
        TranslationContext {
            fetch: self.privilege,
            data: data.privilege,
            sum: status & mstatus::SUM != 0,
            mxr: !guest && status & mstatus::MXR != 0,
            asid: (!is_bare).then_some((root >> satp::ASID_SHIFT) as u16),
            guest: guest.then_some(csr.vmid()),
        }
    }

    /// Whose rights an access has: MPRV makes loads and stores those of the mode that MPP and MPV name.
    pub(crate) fn accessor(&self, access: Access) -> Accessor {
        let (privilege, guest) = if access != Access::Execute && self.csr.mstatus & mstatus::MPRV != 0 {
            let privilege = self.csr.previous_privilege();
            (privilege, privilege != Privilege::Machine && self.csr.mstatus & mstatus::MPV != 0)
        } else {
            (self.privilege, self.virtualized)
        };
        Accessor { privilege, guest, reads_code: false }
    }

    /// Whose rights `hlv`, `hlvx` and `hsv` have.
    pub(crate) fn guest_accessor(&self, reads_code: bool) -> Accessor {
        let is_supervisor = self.csr.hstatus & hstatus::SPVP != 0;
        let privilege = if is_supervisor { Privilege::Supervisor } else { Privilege::User };
        Accessor { privilege, guest: true, reads_code }
    }

    /// Translates the address of an access of `length` bytes (1 or more) that doesn't cross a page. Raises
    /// page and access faults with `address` as their value.
    ///
    /// The physical address need not be RAM.
    pub fn translate<E: Environment>(
        &mut self,
        env: &E,
        address: GuestVirtual,
        access: Access,
        length: u64,
    ) -> Result<Translation, Trap> {
        self.translate_as(env, address, access, length, self.accessor(access))
    }

    /// The same on somebody's behalf.
    pub(crate) fn translate_as<E: Environment>(
        &mut self,
        env: &E,
        address: GuestVirtual,
        access: Access,
        length: u64,
        accessor: Accessor,
    ) -> Result<Translation, Trap> {
        self.map(env.memory(), address, access, accessor)
            .and_then(|translation| self.protect(translation, access, length, accessor))
            .inspect(|translation| self.tell_fill(address, access, translation))
            .map_err(|fault| trap_of(fault, address.0, access, accessor))
    }

    /// What [`translate`](Self::translate) answers for the first byte of the page that fetches from an address go
    /// to, but changes nothing. `None` where a fetch would fault or set A, or where PMP tells parts of the page
    /// apart.
    pub fn peek_code_page<E: Environment>(&mut self, env: &E, address: GuestVirtual) -> Option<Translation> {
        let (access, accessor) = (Access::Execute, self.accessor(Access::Execute));
        let updates = core::mem::replace(&mut self.may_update_tables, false);
        let mapped = self.map(env.memory(), address, access, accessor);
        self.may_update_tables = updates;
        let found = mapped.ok()?;
        let physical = GuestPhysical(found.physical.0 & !(found.page_size - 1));
        let permissions = self.csr.pmp.permissions(physical, found.page_size, accessor.privilege);
        let (whole_page, writable, user, readable) = (true, false, false, false);
        permissions.allow(access).then_some(Translation {
            physical,
            whole_page,
            writable,
            user,
            readable,
            ..found
        })
    }

    /// Where the page tables map an address.
    fn map<M: GuestMemory>(
        &mut self,
        memory: &M,
        address: GuestVirtual,
        access: Access,
        accessor: Accessor,
    ) -> Result<Translation, Fault> {
        let physical = GuestPhysical(address.0);
        let same = Translation {
            physical,
            page_size: PAGE_SIZE,
            fenced_size: PAGE_SIZE,
            global: true,
            whole_page: true,
            writable: true,
            user: false,
            readable: true,
        };
        if accessor.privilege == Privilege::Machine {
            return Ok(same);
        }
        let stage = if accessor.guest { self.virtual_stage() } else { self.supervisor_stage() };
        let first = if stage.is_bare() {
            same
        } else {
            let page = self.page(memory, address.0, access, accessor, stage)?;
            Translation { physical: page.physical(address.0), ..page.translation() }
        };
        if !accessor.guest {
            return Ok(first);
        }
        let Some(second) = self.second_page(memory, first.physical, access, accessor.reads_code, None)?
        else {
            return Ok(first);
        };
        let over = second.translation();
        let page_size = if stage.is_bare() { over.page_size } else { first.page_size.min(over.page_size) };
        Ok(Translation {
            physical: second.physical(first.physical.0),
            page_size,
            writable: first.writable && over.writable,
            readable: first.readable && over.readable,
            ..first
        })
    }

    /// Applies PMP to a translation.
    fn protect(
        &self,
        translation: Translation,
        access: Access,
        length: u64,
        accessor: Accessor,
    ) -> Result<Translation, Fault> {
        let (pmp, privilege) = (&self.csr.pmp, accessor.privilege);
        let page = pmp.page_permissions(translation.physical, privilege);
        let permissions = page.unwrap_or_else(|| pmp.permissions(translation.physical, length, privilege));
        if !permissions.allow(access) {
            return Err(Fault::Access);
        }
        let readable = translation.readable && permissions.allow(Access::Load);
        let depends_on_status = accessor.guest && access == Access::Load && !readable;
        Ok(Translation {
            whole_page: page.is_some() && !depends_on_status,
            writable: translation.writable && permissions.allow(Access::Store),
            readable,
            ..translation
        })
    }

    /// `sfence.vma` and `sinval.vma` outside virtual machines: forgets the translations of a page (or of all pages),
    /// of an address space (or of all address spaces). `(None, None)` forgets those of virtual machines too.
    ///
    /// The hart may be in a virtual machine: other harts ask for such a fence whatever it does meanwhile.
    pub fn fence_vma(&mut self, address: Option<GuestVirtual>, asid: Option<u16>) {
        self.tlb.flush(address, asid);
    }

    /// `hfence.vvma` and `hinval.vvma`, and in a virtual machine `sfence.vma` and `sinval.vma`: the same for the
    /// virtual machine of `hgatp.VMID`.
    pub fn fence_guest(&mut self, address: Option<GuestVirtual>, asid: Option<u16>) {
        self.tlb.flush_guest(GuestFence {
            vmid: Some(self.csr.vmid()),
            is_second_stage: false,
            address,
            asid,
        });
    }

    /// `hfence.gvma` and `hinval.gvma`: forgets the second stage's translations of a virtual machine, or of all.
    /// One address is as much as all of them: what is cached is by the first stage's.
    pub fn fence_second_stage(&mut self, vmid: Option<u16>) {
        let vmid = vmid.map(|vmid| vmid & (hgatp::VMID >> hgatp::VMID_SHIFT) as u16);
        self.tlb.flush_guest(GuestFence { vmid, is_second_stage: true, address: None, asid: None });
    }

    /// For engines with cached translations of their own: gives each fence since the last call to `apply`,
    /// `(None, None)` standing for everything, virtual machines' included. After a reset, and after a change of
    /// PMP, `menvcfg` or `henvcfg`, that is what is given.
    pub fn take_fences(&mut self, apply: impl FnMut(Option<GuestVirtual>, Option<u16>)) {
        self.tlb.take_fences(apply);
    }

    /// The same for fences of virtual machines' translations.
    pub fn take_guest_fences(&mut self, apply: impl FnMut(GuestFence)) {
        self.tlb.take_guest_fences(apply);
    }
}

/// What a fault is for the program.
fn trap_of(fault: Fault, address: u64, access: Access, accessor: Accessor) -> Trap {
    /// Pseudoinstructions for accesses to page tables of the first stage (Privileged ISA, "Transformed
    /// Instruction or Pseudoinstruction for mtinst or htinst").
    const READ: u64 = 0x3000;
    const WRITE: u64 = 0x3020;
    let trap = Trap { is_guest: accessor.guest, ..Trap::exception(fault.exception(access), address) };
    let Fault::Guest { address, implicit } = fault else { return trap };
    let instruction = match implicit {
        Some(Access::Store) => WRITE,
        Some(_) => READ,
        None => 0,
    };
    Trap { guest_address: address, instruction, ..trap }
}

#[cfg(test)]
mod tests;
