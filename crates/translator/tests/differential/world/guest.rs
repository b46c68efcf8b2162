//! What the hypervisor extension adds: virtual machines to start in, to go to and to come from.

use super::*;

/// Where a piece of code is to run.
#[derive(Clone, Copy)]
struct Place {
    /// The value of `hgatp` in a virtual machine.
    guest: Option<u64>,
    /// `satp` or `vsatp`.
    root: u64,
    mode: Privilege,
}

impl World {
    /// A value of `satp`, one in four times without translation.
    fn pick_root(&mut self) -> u64 {
        let number = self.random.below(self.tables.spaces.len() as u64) as usize;
        if self.random.chance(75) { self.tables.spaces[number].satp } else { 0 }
    }

    fn pick_hgatp(&mut self) -> u64 {
        let values: Vec<u64> = self.stages.iter().flat_map(SecondStages::values).collect();
        self.random.pick(&values)
    }

    /// A virtual address at which code that stands at a physical one may be executed.
    fn entry(&mut self, place: Place, physical: u64) -> Option<u64> {
        let read = |entry| self.reference.read(entry);
        let page = physical & !(PAGE - 1);
        let seen = match (place.guest, &self.stages) {
            (Some(hgatp), Some(stages)) => stages.aliases(hgatp, page, read),
            _ => vec![page],
        };
        let is_translated = place.mode != Privilege::Machine && place.root != 0;
        let number = self.tables.spaces.iter().position(|space| is_translated && space.satp == place.root);
        let addresses: Vec<u64> = match number {
            None => seen,
            Some(number) => seen
                .into_iter()
                .flat_map(|page| self.tables.aliases(number, page, read))
                .filter(|&at| self.tables.is_executable(number, at, place.mode == Privilege::User, read))
                .collect(),
        };
        let at = (!addresses.is_empty()).then(|| self.random.pick(&addresses))?;
        Some(at + physical % PAGE)
    }

    /// Starts in a virtual machine, if one can execute the block.
    pub(super) fn set_guest_state(&mut self, start: u64, block: &[u32]) -> bool {
        let mode = self.random.pick(&[Privilege::Supervisor, Privilege::Supervisor, Privilege::User]);
        let (vsatp, hgatp, satp) = (self.pick_root(), self.pick_hgatp(), self.pick_root());
        let Some(pc) = self.entry(Place { guest: Some(hgatp), root: vsatp, mode }, start) else {
            return false;
        };
        self.set_csrs(mode, satp, false, pc);
        self.hart().virtualized = true;
        self.set_registers(pc, vsatp != 0);
        self.set_virtual_csrs(Some((vsatp, hgatp)));
        self.set_virtual_registers();
        let number = self.tables.spaces.iter().position(|space| space.satp == vsatp);
        let number = number.unwrap_or_else(|| self.random.below(self.tables.spaces.len() as u64) as usize);
        self.add_special(number, mode, vsatp, false, start, block);
        true
    }

    /// Sets the extension's CSRs; `roots` are `vsatp` and `hgatp` where they are decided.
    pub(super) fn set_virtual_csrs(&mut self, roots: Option<(u64, u64)>) {
        let (vsatp, hgatp) = roots.unwrap_or_else(|| (self.pick_root(), self.pick_hgatp()));
        let r = &mut self.random;
        let mut hypervisor = r.bits() & (hstatus::SPV | hstatus::SPVP | hstatus::HU | hstatus::GVA);
        if r.chance(10) {
            hypervisor |= r.bits() & (hstatus::VTVM | hstatus::VTW | hstatus::VTSR);
        }
        let status = r.bits()
            & (mstatus::SUM | mstatus::MXR | mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::FS);
        let float = if r.chance(75) { mstatus::FS } else { 0 };
        let mut delegated = || {
            let bits = r.bits();
            r.pick(&[0, bits, u64::MAX])
        };
        let (exceptions, interrupts) = (delegated(), delegated());
        let (again, interrupts_again) = (delegated(), delegated());
        let values = [
            (HSTATUS, hypervisor),
            (VSSTATUS, status | float),
            (VSTVEC, if vsatp == 0 { SUPERVISOR_HANDLER } else { GLOBAL } | r.pick(&[0, 0, 1])),
            (MEDELEG, exceptions),
            (MIDELEG, interrupts),
            (HEDELEG, again),
            (HIDELEG, interrupts_again),
            (HVIP, r.bits()),
            (HCOUNTEREN, r.bits()),
            (HSTATEEN0, r.bits()),
            (HTIMEDELTA, r.pick(&[0, 0, 1, u64::MAX])),
            (VSTIMECMP, r.pick(&[0, u64::MAX, 1000, 1001])),
            (VSSCRATCH, r.value()),
            (VSCAUSE, r.value()),
            (VSTVAL, r.value()),
            (HTVAL, r.value()),
            (HTINST, r.value()),
            (MTVAL2, r.value()),
            (MTINST, r.value()),
            (VSATP, vsatp),
            (HGATP, hgatp),
        ];
        for (number, value) in values {
            self.set(number, value);
        }
        let bits = self.random.bits() & (mstatus::MPV | mstatus::GVA);
        self.hart().csr.mstatus |= bits;
        self.set_returns();
    }

    /// Makes `sret` and `mret` lead to code of the modes that they return to.
    fn set_returns(&mut self) {
        let csr = &self.hart().csr;
        let (status, virtual_status, vsatp, satp) = (csr.mstatus, csr.vsstatus, csr.vsatp, csr.satp);
        let (hgatp, spv) = (csr.hgatp, csr.hstatus & hstatus::SPV != 0);
        let before =
            |status| if status & mstatus::SPP != 0 { Privilege::Supervisor } else { Privilege::User };
        let previous = Privilege::from_bits((status & mstatus::MPP) >> mstatus::MPP_SHIFT);
        let place = |is_guest: bool, mode| match is_guest {
            true => Place { guest: Some(hgatp), root: vsatp, mode },
            false => Place { guest: None, root: satp, mode },
        };
        let mode = previous.unwrap_or(Privilege::User);
        let is_guest = mode != Privilege::Machine && status & mstatus::MPV != 0;
        let mut at = |place| {
            let physical = self.random.pick(&self.blocks);
            self.entry(place, physical)
        };
        let returns = [
            at(place(spv, before(status))),
            at(place(true, before(virtual_status))),
            at(place(is_guest, mode)),
        ];
        let csr = &mut self.hart().csr;
        for (register, to) in [&mut csr.sepc, &mut csr.vsepc, &mut csr.mepc].into_iter().zip(returns) {
            *register = to.unwrap_or(*register);
        }
    }

    /// Pointers into virtual machines, and the value for `hgatp` that programs may write.
    pub(super) fn set_virtual_registers(&mut self) {
        self.hart().x[usize::from(HGATP_HOLDER)] = self.pick_hgatp();
        for register in POINTERS {
            if self.random.chance(25) {
                let page = DATA + self.random.below(DATA_PAGES) * PAGE;
                let offset = self.tables.offset(&mut self.random);
                let address = self.tables.address(&mut self.random);
                let value = self.random.pick(&[page + offset, page - RAM + HIGH + offset, address]);
                self.hart().x[usize::from(register)] = value;
            }
        }
    }

    /// Fences a change of a first stage's tables for all who may use them.
    pub(super) fn fence_first_stages(&mut self, address: Option<u64>, asid: Option<u16>) {
        let values: Vec<u64> = self.stages.iter().flat_map(SecondStages::values).collect();
        let hart = self.hart();
        let address = address.map(GuestVirtual);
        hart.fence_vma(address, asid);
        let hgatp = hart.csr.hgatp;
        for value in values {
            hart.csr.hgatp = value;
            hart.fence_guest(address, asid);
        }
        hart.csr.hgatp = hgatp;
    }

    /// Changes a few mappings of second stages, and fences them.
    pub(super) fn change_second_stages(&mut self) {
        for _ in 0..1 + self.random.below(3) {
            let Some((entry, pte, _, vmid)) = self.pick_second_change() else { return };
            self.write(entry, &pte.to_le_bytes());
            let vmid = self.random.chance(70).then_some(vmid);
            self.hart().fence_second_stage(vmid);
        }
    }

    /// See [`SecondStages::change`].
    pub(super) fn pick_second_change(&mut self) -> Option<(u64, u64, u64, u16)> {
        let stages = self.stages.as_ref()?;
        let number = self.random.below(stages.guests.len() as u64) as usize;
        Some(stages.change(&mut self.random, number))
    }

    /// Whether the reference uses tables under an ASID or a VMID that isn't theirs, or an address space whose change
    /// was fenced for others.
    pub(super) fn uses_odd_space(&self) -> bool {
        let Some(stages) = &self.stages else { return false };
        let hart = &self.reference.hart.hart;
        let (vsatp, hgatp) = (hart.csr.vsatp, hart.csr.hgatp);
        let is_known = vsatp == 0 || self.tables.spaces.iter().any(|space| space.satp == vsatp);
        let context = hart.translation_context();
        let is_translated = context.fetch != Privilege::Machine || context.data != Privilege::Machine;
        let change = self.announced.as_ref().and_then(|announced| announced.first_stage);
        let is_stale = change.is_some_and(|(_, asid, whose)| {
            is_translated && context.asid == Some(asid) && context.guest != whose
        });
        is_stale || !is_known || stages.values().all(|value| value != hgatp)
    }

    /// Counts a step of the reference that began in a virtual machine or not, with so many instructions retired.
    pub(super) fn count_virtual(&mut self, was_virtualized: bool, retired: u64, exit: Exit) {
        let hart = &self.reference.hart.hart;
        self.virtual_steps += u64::from(was_virtualized);
        self.crossings += u64::from(was_virtualized != hart.virtualized);
        if hart.retired == retired && exit == Exit::Budget {
            let cause = match (hart.privilege, hart.virtualized) {
                (Privilege::Machine, _) => hart.csr.mcause,
                (_, false) => hart.csr.scause,
                (_, true) => hart.csr.vscause,
            };
            /// Guest-page faults and virtual instructions.
            const FIRST: u64 = 20;
            const LAST: u64 = 23;
            self.guest_traps += u64::from((FIRST..=LAST).contains(&cause));
        }
    }
}
