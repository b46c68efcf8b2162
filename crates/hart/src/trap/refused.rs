//! What an instruction raises that isn't allowed: illegal instruction, or virtual instruction where a hypervisor
//! might allow it or carry it out (Privileged ISA, "Hypervisor Extension", section "Trap Cause Codes"; Sstc,
//! Smstateen, Zicbom, Zicboz for theirs).

use rvisor_isa::csr::{FCSR, FFLAGS, FRM, envcfg, mstatus};
use rvisor_isa::{Exception, Extension, Instruction, Op, Privilege, decode};

use crate::exit::Environment;
use crate::state::Hart;

impl Hart {
    /// The exception of a refused instruction, given its encoding. The hart is as it was before it.
    pub(crate) fn refusal<E: Environment>(&mut self, env: &E, bits: u32) -> Exception {
        let is_virtual = self.virtualized
            && decode(bits).is_some_and(|instruction| self.would_be_allowed_in_hs(env, &instruction));
        if is_virtual { Exception::VirtualInstruction } else { Exception::IllegalInstruction }
    }

    /// Whether a refused instruction of VS- or VU-mode would be executed in HS-mode with TSR and TVM clear.
    fn would_be_allowed_in_hs<E: Environment>(&mut self, env: &E, instruction: &Instruction) -> bool {
        let Instruction { op, rs1, imm, .. } = *instruction;
        let menvcfg = self.csr.menvcfg;
        match op {
            Op::Wfi => self.csr.mstatus & mstatus::TW == 0,
            Op::Sret
            | Op::SfenceVma
            | Op::SinvalVma
            | Op::SfenceWInval
            | Op::SfenceInvalIr
            | Op::HinvalVvma
            | Op::HinvalGvma => true,
            Op::CboInval => menvcfg & envcfg::CBIE != 0,
            Op::CboClean | Op::CboFlush => menvcfg & envcfg::CBCFE != 0,
            Op::CboZero => menvcfg & envcfg::CBZE != 0,
            _ if op.extension() == Extension::H => true,
            _ if op.extension() == Extension::Zicsr => {
                let writes = matches!(op, Op::Csrrw | Op::Csrrwi) || rs1 != 0;
                self.would_access_csr_in_hs(env, imm as u16, writes)
            }
            _ => false,
        }
    }

    fn would_access_csr_in_hs<E: Environment>(&mut self, env: &E, number: u16, writes: bool) -> bool {
        if matches!(number, FFLAGS | FRM | FCSR) {
            return false;
        }
        let (privilege, status) = (self.privilege, self.csr.mstatus);
        (self.privilege, self.virtualized) = (Privilege::Supervisor, false);
        self.csr.mstatus &= !mstatus::TVM;
        let allowed = self.check_csr(number, writes).is_ok() && self.csr_value(env, number).is_ok();
        (self.privilege, self.virtualized) = (privilege, true);
        self.csr.mstatus = status;
        allowed
    }
}
