//! Address translation: the page-table walk of Sv39, Sv48 and Sv57, and `sfence.vma` (Privileged ISA,
//! "Supervisor-Level ISA"; Svnapot, Svpbmt, Svadu, Svade). Caching translations is [`tlb`](crate::tlb)'s.

use rvisor_isa::csr::{envcfg, mstatus, satp};
use rvisor_isa::{Exception, Privilege};
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE};

use crate::exit::Environment;
use crate::state::Hart;
use crate::trap::Trap;

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
    /// Size of the page that maps it, in bytes: 4096 or more, a power of two. With NAPOT, 64 KiB.
    pub page_size: u64,
    /// Whether the mapping is global; true without translation.
    pub global: bool,
    /// Whether every byte of the base page around `physical` may be accessed in the same way, so that the
    /// translation may be cached. False where a PMP boundary crosses the page.
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
    /// `mstatus.SUM`.
    pub sum: bool,
    /// `mstatus.MXR`.
    pub mxr: bool,
    /// `satp.ASID`; `None` where `satp.MODE` is Bare.
    pub asid: Option<u16>,
}

/// Why a translation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Page,
    Access,
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
        }
    }
}

/// A page-table entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pte(u64);

impl Pte {
    const V: u64 = 1 << 0;
    const R: u64 = 1 << 1;
    const W: u64 = 1 << 2;
    const X: u64 = 1 << 3;
    const U: u64 = 1 << 4;
    const G: u64 = 1 << 5;
    const A: u64 = 1 << 6;
    const D: u64 = 1 << 7;
    const RESERVED: u64 = 0x7f << 54;
    const PBMT: u64 = 3 << 61;
    const N: u64 = 1 << 63;

    const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Physical page number.
    const fn ppn(self) -> u64 {
        self.0 >> 10 & ((1 << 44) - 1)
    }

    const fn is_pointer(self) -> bool {
        !self.has(Self::R | Self::W | Self::X)
    }

    /// Whether no bit is set that must be clear, `memory_types` telling whether Svpbmt is enabled.
    const fn is_valid(self, memory_types: bool) -> bool {
        let legal_type = if memory_types { self.0 & Self::PBMT != Self::PBMT } else { !self.has(Self::PBMT) };
        let legal_pointer =
            !self.is_pointer() || !self.has(Self::A | Self::D | Self::U | Self::N | Self::PBMT);
        let write_only = self.has(Self::W) && !self.has(Self::R);
        self.has(Self::V) && !write_only && !self.has(Self::RESERVED) && legal_type && legal_pointer
    }

    /// The bits that the access needs to find set.
    const fn accessed_bits(access: Access) -> u64 {
        match access {
            Access::Store => Self::A | Self::D,
            Access::Load | Access::Execute => Self::A,
        }
    }
}

/// Remembers the last level's page table of some regions, so that most walks are one step long. Holds until the
/// next fence (Privileged ISA, "Supervisor Memory-Management Fence Instruction").
pub(crate) struct TableCache([KnownTable; TableCache::ENTRIES]);

#[derive(Clone, Copy)]
struct KnownTable {
    /// Virtual address of the region, and the `satp` and the count of fences at which the table was found.
    region: u64,
    satp: u64,
    fences: u64,
    table: GuestPhysical,
    /// Whether a pointer to the table is global.
    global: bool,
}

impl TableCache {
    const ENTRIES: usize = 64;
    /// Bits of the address inside what one table of the last level maps.
    const REGION_BITS: u32 = 21;

    pub(crate) const fn new() -> Self {
        let none = KnownTable { region: 1, satp: 0, fences: 0, table: GuestPhysical(0), global: false };
        Self([none; Self::ENTRIES])
    }

    const fn region(address: u64) -> u64 {
        address >> Self::REGION_BITS << Self::REGION_BITS
    }

    const fn index(address: u64) -> usize {
        (address >> Self::REGION_BITS) as usize % Self::ENTRIES
    }

    fn find(&self, address: u64, satp: u64, fences: u64) -> Option<(GuestPhysical, bool)> {
        let known = &self.0[Self::index(address)];
        (known.region == Self::region(address) && known.satp == satp && known.fences == fences)
            .then_some((known.table, known.global))
    }

    fn add(&mut self, address: u64, satp: u64, fences: u64, table: GuestPhysical, global: bool) {
        self.0[Self::index(address)] =
            KnownTable { region: Self::region(address), satp, fences, table, global };
    }
}

/// A mapping that a walk found.
struct Leaf {
    pte: Pte,
    /// Where the PTE is.
    address: GuestPhysical,
    /// Number of page tables below the one it is in.
    level: u32,
    /// Whether this PTE or a pointer to its table is global.
    global: bool,
}

impl Leaf {
    /// The first physical address of the page and the page's size; a fault where the page isn't aligned or
    /// the NAPOT size is reserved.
    fn page(&self) -> Result<(u64, u64), Fault> {
        const NAPOT_64K: u64 = 0b1000;
        let ppn = self.pte.ppn();
        let pages = 1 << (9 * self.level);
        if ppn & (pages - 1) != 0 {
            return Err(Fault::Page);
        }
        if !self.pte.has(Pte::N) {
            return Ok((ppn * PAGE_SIZE, pages * PAGE_SIZE));
        }
        if self.level == 0 && ppn & 0xf == NAPOT_64K {
            return Ok(((ppn & !0xf) * PAGE_SIZE, 16 * PAGE_SIZE));
        }
        Err(Fault::Page)
    }
}

impl Hart {
    /// The context of translations as it is now.
    #[inline]
    #[must_use]
    pub fn translation_context(&self) -> TranslationContext {
        let csr = &self.csr;
        let is_bare = csr.satp >> satp::MODE_SHIFT == satp::BARE;
        TranslationContext {
            fetch: self.privilege,
            data: self.effective_privilege(Access::Load),
            sum: csr.mstatus & mstatus::SUM != 0,
            mxr: csr.mstatus & mstatus::MXR != 0,
            asid: (!is_bare).then_some((csr.satp >> satp::ASID_SHIFT) as u16),
        }
    }

    /// The mode whose rights an access has.
    fn effective_privilege(&self, access: Access) -> Privilege {
        if access != Access::Execute && self.csr.mstatus & mstatus::MPRV != 0 {
            self.csr.previous_privilege()
        } else {
            self.privilege
        }
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
        let privilege = self.effective_privilege(access);
        self.map(env.memory(), address, access, privilege)
            .and_then(|translation| self.protect(translation, access, length, privilege))
            .inspect(|translation| self.tell_fill(address, access, translation))
            .map_err(|fault| Trap::exception(fault.exception(access), address.0))
    }

    /// What [`translate`](Self::translate) answers for the first byte of the page that fetches from an address go
    /// to, but changes nothing. `None` where a fetch would fault or set A, or where PMP tells parts of the page
    /// apart.
    pub fn peek_code_page<E: Environment>(&mut self, env: &E, address: GuestVirtual) -> Option<Translation> {
        let (access, privilege) = (Access::Execute, self.privilege);
        let mode = TranslationMode::of_satp(self.csr.satp).unwrap_or(TranslationMode::Bare);
        let (base, page_size, global) = if privilege == Privilege::Machine || mode == TranslationMode::Bare {
            (address.page().0, PAGE_SIZE, true)
        } else {
            let leaf = self.walk(env.memory(), address, mode).ok()?;
            self.check_permissions(leaf.pte, access, privilege).ok()?;
            let (base, size) = leaf.page().ok().filter(|_| leaf.pte.has(Pte::A))?;
            (base, size, leaf.global)
        };
        let physical = GuestPhysical(base);
        let is_allowed = self.csr.pmp.permissions(physical, page_size, privilege).allow(access);
        let (whole_page, writable, user, readable) = (true, false, false, false);
        is_allowed.then_some(Translation {
            physical,
            page_size,
            global,
            whole_page,
            writable,
            user,
            readable,
        })
    }

    /// Where the page tables map an address.
    fn map<M: GuestMemory>(
        &mut self,
        memory: &M,
        address: GuestVirtual,
        access: Access,
        privilege: Privilege,
    ) -> Result<Translation, Fault> {
        /// How often a PTE may change between our look at it and our update of it. Others' progress can't
        /// keep a hart in the walk forever; a page fault too many is allowed.
        const ATTEMPTS: u32 = 1000;
        let mode = TranslationMode::of_satp(self.csr.satp).unwrap_or(TranslationMode::Bare);
        if privilege == Privilege::Machine || mode == TranslationMode::Bare {
            return Ok(Translation {
                physical: GuestPhysical(address.0),
                page_size: PAGE_SIZE,
                global: true,
                whole_page: true,
                writable: true,
                user: false,
                readable: true,
            });
        }
        for _ in 0..ATTEMPTS {
            let leaf = self.walk(memory, address, mode)?;
            let (base, page_size) = leaf.page()?;
            self.check_permissions(leaf.pte, access, privilege)?;
            let needed = Pte::accessed_bits(access);
            if leaf.pte.0 & needed == needed || self.set_accessed(memory, &leaf, needed)? {
                return Ok(Translation {
                    physical: GuestPhysical(base | address.0 & (page_size - 1)),
                    page_size,
                    global: leaf.global,
                    whole_page: true,
                    writable: leaf.pte.has(Pte::W) && (leaf.pte.0 | needed) & Pte::D != 0,
                    user: leaf.pte.has(Pte::U),
                    readable: leaf.pte.has(Pte::R),
                });
            }
        }
        Err(Fault::Page)
    }

    /// Follows the page tables to the PTE that maps an address.
    fn walk<M: GuestMemory>(
        &mut self,
        memory: &M,
        address: GuestVirtual,
        mode: TranslationMode,
    ) -> Result<Leaf, Fault> {
        let levels = mode.levels();
        let unused = 64 - (12 + 9 * levels);
        if ((address.0 << unused) as i64 >> unused) as u64 != address.0 {
            return Err(Fault::Page);
        }
        let memory_types = self.csr.menvcfg & envcfg::PBMTE != 0;
        let (root, fences) = (self.csr.satp, self.tlb.fences);
        let known = self.tables.find(address.0, root, fences);
        let start = if known.is_some() { 1 } else { levels };
        let (mut table, mut global) = known.unwrap_or((GuestPhysical((root & satp::PPN) * PAGE_SIZE), false));
        for level in (0..start).rev() {
            let index = address.0 >> (12 + 9 * level) & 0x1ff;
            let entry = table.offset(8 * index);
            self.check_table_access(entry, Access::Load)?;
            let pte = Pte(memory.load::<u64>(entry).map_err(|_| Fault::Access)?);
            if !pte.is_valid(memory_types) {
                return Err(Fault::Page);
            }
            global |= pte.has(Pte::G);
            if !pte.is_pointer() {
                return Ok(Leaf { pte, address: entry, level, global });
            }
            table = GuestPhysical(pte.ppn() * PAGE_SIZE);
            if level == 1 {
                self.tables.add(address.0, root, fences, table, global);
            }
        }
        Err(Fault::Page)
    }

    /// Whether PMP lets the walk read or write a PTE.
    fn check_table_access(&self, entry: GuestPhysical, access: Access) -> Result<(), Fault> {
        let allowed = self.csr.pmp.permissions(entry, 8, Privilege::Supervisor).allow(access);
        if allowed { Ok(()) } else { Err(Fault::Access) }
    }

    /// Whether R, W, X and U let a mode make the access.
    fn check_permissions(&self, pte: Pte, access: Access, privilege: Privilege) -> Result<(), Fault> {
        let has_status = |field| self.csr.mstatus & field != 0;
        let right_kind = match access {
            Access::Load => pte.has(Pte::R) || pte.has(Pte::X) && has_status(mstatus::MXR),
            Access::Store => pte.has(Pte::W),
            Access::Execute => pte.has(Pte::X),
        };
        let right_mode = match (privilege, pte.has(Pte::U)) {
            (Privilege::User, user) => user,
            (_, true) => access != Access::Execute && has_status(mstatus::SUM),
            (_, false) => true,
        };
        if right_kind && right_mode { Ok(()) } else { Err(Fault::Page) }
    }

    /// Sets A and D where Svadu is enabled; otherwise software has to, after a page fault (Svade). False
    /// where the PTE has changed meanwhile.
    fn set_accessed<M: GuestMemory>(&self, memory: &M, leaf: &Leaf, bits: u64) -> Result<bool, Fault> {
        if self.csr.menvcfg & envcfg::ADUE == 0 {
            return Err(Fault::Page);
        }
        self.check_table_access(leaf.address, Access::Store)?;
        let old = leaf.pte.0;
        memory
            .compare_exchange(leaf.address, AtomicWidth::Double, old, old | bits)
            .map(|found| found == old)
            .map_err(|_| Fault::Access)
    }

    /// Applies PMP to a translation.
    fn protect(
        &self,
        translation: Translation,
        access: Access,
        length: u64,
        privilege: Privilege,
    ) -> Result<Translation, Fault> {
        let pmp = &self.csr.pmp;
        let page = pmp.page_permissions(translation.physical, privilege);
        let permissions = page.unwrap_or_else(|| pmp.permissions(translation.physical, length, privilege));
        if !permissions.allow(access) {
            return Err(Fault::Access);
        }
        Ok(Translation {
            whole_page: page.is_some(),
            writable: translation.writable && permissions.allow(Access::Store),
            readable: translation.readable && permissions.allow(Access::Load),
            ..translation
        })
    }

    /// `sfence.vma` and `sinval.vma`: forgets the translations of a page (or of all pages), of an address
    /// space (or of all address spaces).
    pub fn fence_vma(&mut self, address: Option<GuestVirtual>, asid: Option<u16>) {
        self.tlb.flush(address, asid);
    }

    /// For engines with cached translations of their own: gives each fence since the last call to `apply`,
    /// `(None, None)` standing for everything. After a reset, and after a change of PMP or `menvcfg`, that is
    /// what is given.
    pub fn take_fences(&mut self, apply: impl FnMut(Option<GuestVirtual>, Option<u16>)) {
        self.tlb.take_fences(apply);
    }
}

#[cfg(test)]
mod tests;
