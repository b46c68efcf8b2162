//! The state that an episode starts from.

use super::*;

impl World {
    pub(super) fn set_state(&mut self, start: u64, block: &[u32]) {
        self.hart().virtualized = false;
        if self.stages.is_some() && self.random.chance(60) && self.set_guest_state(start, block) {
            return;
        }
        let random = &mut self.random;
        let supervisor_only = self.translated.hart.hart.config().supervisor_only;
        let modes = [Privilege::Machine, Privilege::Supervisor, Privilege::Supervisor, Privilege::User];
        let mut mode = random.pick(&modes);
        let number = random.below(self.tables.spaces.len() as u64) as usize;
        let mut satp = if random.chance(75) { self.tables.spaces[number].satp } else { 0 };
        let read = |entry| self.reference.read(entry);
        let mut pc = start;
        if mode != Privilege::Machine && satp != 0 {
            let page = start & !(PAGE - 1);
            let user = mode == Privilege::User;
            let aliases = self.tables.aliases(number, page, read);
            let good: Vec<u64> = aliases
                .iter()
                .copied()
                .filter(|&at| self.tables.is_executable(number, at, user, read))
                .collect();
            match (good.is_empty(), aliases.is_empty()) {
                (false, _) => pc = random.pick(&good) + start % PAGE,
                (true, false) if random.chance(10) => pc = random.pick(&aliases) + start % PAGE,
                _ => (mode, satp) = (Privilege::Machine, if random.chance(50) { satp } else { 0 }),
            }
        }
        if supervisor_only && mode == Privilege::Machine {
            (mode, satp) = (Privilege::Supervisor, 0);
            pc = start;
        }
        let mprv = mode == Privilege::Machine && satp != 0 && random.chance(60);
        let translated = satp != 0 && (mode != Privilege::Machine || mprv);
        self.set_csrs(mode, satp, mprv, pc);
        self.set_registers(pc, translated);
        if self.stages.is_some() {
            self.set_virtual_csrs(None);
            self.set_virtual_registers();
        }
        self.add_special(number, mode, satp, mprv, start, block);
    }

    pub(super) fn set_csrs(&mut self, mode: Privilege, satp: u64, mprv: bool, pc: u64) {
        let r = &mut self.random;
        let mut status =
            r.bits() & (mstatus::SUM | mstatus::MXR | mstatus::MIE | mstatus::SIE | mstatus::SPIE);
        if r.chance(10) {
            status |= r.bits() & (mstatus::TVM | mstatus::TW | mstatus::TSR);
        }
        status |= if r.chance(75) { mstatus::FS } else { r.bits() & mstatus::FS };
        if mprv {
            status |= mstatus::MPRV | if r.chance(70) { 1 << mstatus::MPP_SHIFT } else { 0 };
        } else {
            status |= r.pick(&[0, 1, 3]) << mstatus::MPP_SHIFT;
        }
        let interrupts = if r.chance(15) { r.bits() } else { 0 };
        let delegated = if r.chance(50) { 0 } else { r.bits() };
        let frm = if r.chance(85) { r.below(4) } else { 4 + r.below(4) };
        let values = [
            (MSTATUS, status | mstatus::FS),
            (FCSR, r.below(32) | frm << 5),
            (MTVEC, HANDLER | r.pick(&[0, 0, 1])),
            (STVEC, if satp == 0 { SUPERVISOR_HANDLER } else { GLOBAL }),
            (MIE, interrupts),
            (MIP, r.bits()),
            (MEDELEG, delegated),
            (MIDELEG, delegated),
            (SATP, satp),
            (MCOUNTEREN, r.bits()),
            (SCOUNTEREN, r.bits()),
            (SENVCFG, r.bits()),
            (STIMECMP, r.pick(&[0, u64::MAX, 1000, 1001])),
            (MCYCLE, r.value()),
            (MINSTRET, r.value()),
            (MCOUNTINHIBIT, r.pick(&[0, 0, 0, 1, 4, 5])),
            (MSCRATCH, r.value()),
            (SSCRATCH, r.value()),
            (MCAUSE, r.value()),
            (SCAUSE, r.value()),
            (MTVAL, r.value()),
            (STVAL, r.value()),
        ];
        for (number, value) in values {
            self.set(number, value);
        }
        // `mret` makes the hart notice that its mode changed.
        let (mepc, sepc) = (self.random.value() & !1, self.random.value() & !1);
        let hart = self.hart();
        let status_before = hart.csr.mstatus & !mstatus::FS & !mstatus::MPP & !mstatus::MPRV
            | status & (mstatus::FS | mstatus::MPP | mstatus::MPRV);
        hart.privilege = Privilege::Machine;
        hart.csr.mepc = pc;
        hart.mret().expect("the mode is M");
        hart.privilege = mode;
        hart.csr.mstatus = status_before;
        hart.csr.mepc = mepc;
        hart.csr.sepc = sepc;
    }

    pub(super) fn set_registers(&mut self, pc: u64, translated: bool) {
        for register in 1..32 {
            let value = self.random.value();
            let float = self.random.float();
            let hart = self.hart();
            hart.x[register] = value;
            hart.f[register] = float;
        }
        self.hart().f[0] = 0;
        for register in POINTERS {
            let offset = self.tables.offset(&mut self.random);
            let r = &mut self.random;
            let value = match r.below(40) {
                0 => r.value(),
                1 => r.pick(&[0x1000_0000, 0x200_bff8, 0x10_0000, 0]) + r.below(16),
                2 => r.pick(&[END, RAM]).wrapping_sub(r.below(12)),
                3 => 1 << 55 | DATA,
                4 | 5 => DATA + r.below(DATA_PAGES) * PAGE + offset,
                _ if translated => self.tables.address(r),
                _ => DATA + r.below(DATA_PAGES) * PAGE + offset,
            };
            self.hart().x[usize::from(register)] = value;
        }
        for register in CODE_POINTERS {
            let distance = self.random.below(512).wrapping_sub(256) & !1;
            let other = self.random.pick(&self.blocks);
            let value = if translated || self.random.chance(50) { pc.wrapping_add(distance) } else { other };
            self.hart().x[usize::from(register)] = value;
        }
        let space = self.random.below(self.tables.spaces.len() as u64) as usize;
        self.hart().x[usize::from(SATP_HOLDER)] = match self.random.below(5) {
            0 => 0,
            _ => self.tables.spaces[space].satp,
        };
        let hart = self.hart();
        hart.reservation = None;
    }

    /// Begins the block with a store to code or to a page table, and the fence that belongs to it.
    pub(super) fn add_special(
        &mut self,
        number: usize,
        mode: Privilege,
        satp: u64,
        mprv: bool,
        start: u64,
        block: &[u32],
    ) {
        const ADDRESS: u8 = 12;
        const VALUE: u8 = 13;
        const PLACE: u8 = 9;
        const ASID: u8 = 11;
        self.announced = None;
        let csr = &self.hart().csr;
        let traps_fences = csr.mstatus & mstatus::TVM != 0 || csr.hstatus & hstatus::VTVM != 0;
        let is_plain = csr.mie == 0 && !mprv && mode != Privilege::User && !traps_fences;
        let (vmid, virtualized) = ((csr.hgatp >> hgatp::VMID_SHIFT & 0x3fff) as u16, self.hart().virtualized);
        if !is_plain || block.len() < 4 || start % PAGE > PAGE - 64 || !self.random.chance(25) {
            return;
        }
        let is_translated = mode != Privilege::Machine && satp != 0;
        let reach = |physical: u64| if is_translated { LARGE + (physical - RAM) } else { physical };
        let store = |op| Instruction { rs1: ADDRESS, rs2: VALUE, ..Instruction::new(op, 4) };
        let (store, fence) = if self.random.chance(50) {
            let target = start + 8 + 4 * self.random.below(4);
            let count = 1 + self.random.below(2);
            let new = bytes(&self.generator.block(&mut self.random, count));
            let mut value = [0x13, 0, 0, 0];
            value[..new.len().min(4)].copy_from_slice(&new[..new.len().min(4)]);
            self.hart().x[usize::from(ADDRESS)] = reach(target);
            self.hart().x[usize::from(VALUE)] = u32::from_le_bytes(value).into();
            (store(Op::Sw), Instruction::new(Op::FenceI, 4))
        } else if self.stages.is_some()
            && !virtualized
            && self.random.chance(40)
            && let Some((entry, pte, address, vmid)) = self.pick_second_change()
        {
            let rs1 = if self.random.chance(60) { PLACE } else { 0 };
            let rs2 = if self.random.chance(50) { ASID } else { 0 };
            self.announced = Some(Announced { entry, pte: pte & !ACCESSED, first_stage: None });
            let hart = self.hart();
            hart.x[usize::from(ADDRESS)] = reach(entry);
            hart.x[usize::from(VALUE)] = pte;
            hart.x[usize::from(PLACE)] = address >> 2;
            hart.x[usize::from(ASID)] = vmid.into();
            (store(Op::Sd), Instruction { rs1, rs2, ..Instruction::new(Op::HfenceGvma, 4) })
        } else {
            let Some((entry, pte, address, asid)) = self.tables.small_change(&mut self.random, number) else {
                return;
            };
            if self.hart().pc & !(PAGE - 1) == address {
                // Whether the fence itself is still fetched would be open.
                return;
            }
            let rs1 = if self.random.chance(60) { PLACE } else { 0 };
            let rs2 = if self.random.chance(50) { ASID } else { 0 };
            let is_for_guest = self.stages.is_some() && !virtualized && self.random.chance(30);
            let op = if is_for_guest { Op::HfenceVvma } else { Op::SfenceVma };
            let whose = (virtualized || is_for_guest).then_some(vmid);
            let first_stage = Some((address, asid, whose));
            self.announced = Some(Announced { entry, pte: pte & !ACCESSED, first_stage });
            let hart = self.hart();
            hart.x[usize::from(ADDRESS)] = reach(entry);
            hart.x[usize::from(VALUE)] = pte;
            hart.x[usize::from(PLACE)] = address;
            hart.x[usize::from(POINTERS[0])] = address;
            hart.x[usize::from(ASID)] = asid.into();
            (store(Op::Sd), Instruction { rs1, rs2, ..Instruction::new(op, 4) })
        };
        for (at, instruction) in [(start, store), (start + 4, fence)] {
            let bits = encode(&instruction).expect("operands fit");
            self.write(at, &bits.to_le_bytes());
        }
    }
}
