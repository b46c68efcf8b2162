//! Following page tables: the walk of Sv39, Sv48 and Sv57, and of their counterparts in the second stage
//! (Privileged ISA, "Supervisor-Level ISA", section "Virtual Address Translation Process", and "Hypervisor
//! Extension", section "Guest Physical Address Translation"; Svnapot, Svpbmt, Svadu, Svade).

use rvisor_isa::Privilege;
use rvisor_isa::csr::{envcfg, hgatp, mstatus, satp};
use rvisor_waist::{AtomicWidth, GuestMemory, GuestPhysical, PAGE_SIZE};

use super::pte::{Leaf, Pte};
use super::tables::{Roots, Table};
use super::{Access, Accessor, Fault, Translation, TranslationMode};
use crate::state::Hart;

/// Which of the translations it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The only one, by `satp`.
    Supervisor,
    /// The first one of a virtual machine, by `vsatp`: its tables are mapped by the second.
    Virtual,
    /// The second one of a virtual machine, by `hgatp`.
    Second,
}

/// One stage of translation.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    kind: Kind,
    mode: TranslationMode,
    root: GuestPhysical,
    roots: Roots,
    /// Whether PTEs have memory types (Svpbmt).
    memory_types: bool,
    /// Whether A and D are set here (Svadu) and not by software (Svade).
    updates: bool,
}

impl Stage {
    pub fn is_bare(&self) -> bool {
        self.mode == TranslationMode::Bare
    }

    /// Whether an address is one that the mode translates.
    fn takes(&self, address: u64) -> bool {
        let bits = 12 + 9 * self.mode.levels();
        match self.kind {
            Kind::Second => address >> (bits + 2) == 0,
            _ => ((address << (64 - bits)) as i64 >> (64 - bits)) as u64 == address,
        }
    }

    /// Index into a table of a level; the second stage's root is four times as large.
    fn index(&self, address: u64, level: u32) -> u64 {
        let is_large = self.kind == Kind::Second && level + 1 == self.mode.levels();
        address >> (12 + 9 * level) & if is_large { 0x7ff } else { 0x1ff }
    }
}

/// A page that a stage maps.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    base: u64,
    size: u64,
    /// As it is after the access.
    pte: u64,
    global: bool,
}

impl Page {
    /// Where an address in the page leads.
    pub fn physical(&self, address: u64) -> GuestPhysical {
        GuestPhysical(self.base | address & (self.size - 1))
    }

    /// What it says of accesses; to its first byte.
    pub fn translation(&self) -> Translation {
        let pte = Pte(self.pte);
        Translation {
            physical: GuestPhysical(self.base),
            page_size: self.size,
            fenced_size: self.size,
            global: self.global,
            whole_page: true,
            writable: pte.has(Pte::W) && pte.has(Pte::D),
            user: pte.has(Pte::U),
            readable: pte.has(Pte::R),
        }
    }
}

/// Stands for no stage beneath another: a value that `hgatp` never has.
const NO_STAGE: u64 = u64::MAX;
/// Beneath the second stage, so that what is remembered of it isn't taken for another's.
const MEMORY: u64 = u64::MAX - 1;

impl Hart {
    pub(super) fn supervisor_stage(&self) -> Stage {
        self.stage(Kind::Supervisor, self.csr.satp, satp::PPN, NO_STAGE, self.csr.menvcfg)
    }

    pub(super) fn virtual_stage(&self) -> Stage {
        self.stage(Kind::Virtual, self.csr.vsatp, satp::PPN, self.csr.hgatp, self.csr.henvcfg)
    }

    fn second_stage(&self) -> Stage {
        self.stage(Kind::Second, self.csr.hgatp, hgatp::PPN, MEMORY, self.csr.menvcfg)
    }

    fn stage(&self, kind: Kind, register: u64, ppn: u64, beneath: u64, environment: u64) -> Stage {
        Stage {
            kind,
            mode: TranslationMode::of_satp(register).unwrap_or(TranslationMode::Bare),
            root: GuestPhysical((register & ppn) * PAGE_SIZE),
            roots: Roots { table: register, beneath },
            memory_types: environment & envcfg::PBMTE != 0,
            updates: self.may_update_tables && environment & envcfg::ADUE != 0,
        }
    }

    /// The page to which a stage maps an address, for an access.
    pub(super) fn page<M: GuestMemory>(
        &mut self,
        memory: &M,
        address: u64,
        access: Access,
        accessor: Accessor,
        stage: Stage,
    ) -> Result<Page, Fault> {
        /// How often a PTE may change between our look at it and our update of it. Others' progress can't
        /// keep a hart in the walk forever; a page fault too many is allowed.
        const ATTEMPTS: u32 = 1000;
        for _ in 0..ATTEMPTS {
            let leaf = self.walk(memory, address, stage)?;
            let (base, size) = leaf.page()?;
            self.check_permissions(leaf.pte, access, accessor, stage.kind)?;
            let needed = Pte::accessed_bits(access);
            if leaf.pte.0 & needed == needed || self.set_accessed(memory, &leaf, needed, stage)? {
                return Ok(Page { base, size, pte: leaf.pte.0 | needed, global: leaf.global });
            }
        }
        Err(Fault::Page)
    }

    /// The page to which the second stage maps a guest physical address; `None` where there is no second stage.
    /// `implicit` tells what is done with it if it is a page table's.
    pub(super) fn second_page<M: GuestMemory>(
        &mut self,
        memory: &M,
        address: GuestPhysical,
        access: Access,
        reads_code: bool,
        implicit: Option<Access>,
    ) -> Result<Option<Page>, Fault> {
        let stage = self.second_stage();
        if stage.is_bare() {
            return Ok(None);
        }
        // All are accesses from U-mode.
        let accessor = Accessor { privilege: Privilege::User, guest: implicit.is_none(), reads_code };
        self.page(memory, address.0, access, accessor, stage).map(Some).map_err(|fault| match fault {
            Fault::Page => Fault::Guest { address: address.0, implicit },
            fault => fault,
        })
    }

    /// Where a page table's entry is in memory.
    fn locate_entry<M: GuestMemory>(
        &mut self,
        memory: &M,
        entry: GuestPhysical,
        access: Access,
        stage: Stage,
    ) -> Result<GuestPhysical, Fault> {
        if stage.kind != Kind::Virtual {
            return Ok(entry);
        }
        let page = self.second_page(memory, entry, access, false, Some(access))?;
        Ok(page.map_or(entry, |page| page.physical(entry.0)))
    }

    /// Follows the page tables to the PTE that maps an address.
    fn walk<M: GuestMemory>(&mut self, memory: &M, address: u64, stage: Stage) -> Result<Leaf, Fault> {
        if !stage.takes(address) {
            return Err(Fault::Page);
        }
        let fences = self.tlb.fences;
        let known = self.tables.find(address, stage.roots, fences);
        let (mut level, mut table, mut global) = match known {
            Some(table) => (1, table.address, table.global),
            None => (stage.mode.levels(), stage.root, false),
        };
        while level > 0 {
            level -= 1;
            let entry = table.offset(8 * stage.index(address, level));
            let located = match known {
                Some(known) => known.located.offset(8 * stage.index(address, level)),
                None => self.locate_entry(memory, entry, Access::Load, stage)?,
            };
            self.check_table_access(located, Access::Load)?;
            let pte = Pte(memory.load::<u64>(located).map_err(|_| Fault::Access)?);
            if !pte.is_valid(stage.memory_types) {
                return Err(Fault::Page);
            }
            if level == 0 && known.is_none() {
                let table = Table { address: table, located: located.page(), global };
                self.tables.add(address, stage.roots, fences, table);
            }
            global |= pte.has(Pte::G);
            if !pte.is_pointer() {
                return Ok(Leaf { pte, address: entry, located, level, global });
            }
            table = GuestPhysical(pte.ppn() * PAGE_SIZE);
        }
        Err(Fault::Page)
    }

    /// Whether PMP lets the walk read or write a PTE.
    fn check_table_access(&self, entry: GuestPhysical, access: Access) -> Result<(), Fault> {
        let allowed = self.csr.pmp.permissions(entry, 8, Privilege::Supervisor).allow(access);
        if allowed { Ok(()) } else { Err(Fault::Access) }
    }

    /// Whether R, W, X and U let the access be made. Where MXR counts, that of HS-mode counts for both stages of a
    /// virtual machine; what a walk reads of page tables isn't concerned.
    fn check_permissions(
        &self,
        pte: Pte,
        access: Access,
        accessor: Accessor,
        kind: Kind,
    ) -> Result<(), Fault> {
        let csr = &self.csr;
        let status = if kind == Kind::Virtual { csr.vsstatus } else { csr.mstatus };
        let mxr = match kind {
            Kind::Supervisor => csr.mstatus,
            Kind::Virtual => csr.mstatus | csr.vsstatus,
            Kind::Second if accessor.guest => csr.mstatus,
            Kind::Second => 0,
        } & mstatus::MXR;
        let right_kind = match access {
            Access::Load if accessor.reads_code => pte.has(Pte::X),
            Access::Load => pte.has(Pte::R) || pte.has(Pte::X) && mxr != 0,
            Access::Store => pte.has(Pte::W),
            Access::Execute => pte.has(Pte::X),
        };
        let right_mode = match (accessor.privilege, pte.has(Pte::U)) {
            (Privilege::User, user) => user,
            (_, true) => access != Access::Execute && status & mstatus::SUM != 0,
            (_, false) => true,
        };
        if right_kind && right_mode { Ok(()) } else { Err(Fault::Page) }
    }

    /// Sets A and D where Svadu is enabled; otherwise software has to, after a page fault (Svade). False
    /// where the PTE has changed meanwhile.
    fn set_accessed<M: GuestMemory>(
        &mut self,
        memory: &M,
        leaf: &Leaf,
        bits: u64,
        stage: Stage,
    ) -> Result<bool, Fault> {
        if !stage.updates {
            return Err(Fault::Page);
        }
        self.locate_entry(memory, leaf.address, Access::Store, stage)?;
        self.check_table_access(leaf.located, Access::Store)?;
        let old = leaf.pte.0;
        memory
            .compare_exchange(leaf.located, AtomicWidth::Double, old, old | bits)
            .map(|found| found == old)
            .map_err(|_| Fault::Access)
    }
}
