//! Control and status registers: numbers, names and fields (Privileged ISA, "CSR Listing" and each register's
//! section; Unprivileged ISA for the floating-point ones).
//!
//! Which of them exist, and what their fields hold, is the hart's to say.

use crate::Privilege;

mod fields;

pub use fields::*;

macro_rules! csrs {
    ($($constant:ident $number:literal $name:literal;)*) => {
        $(#[doc = concat!("`", $name, "`")] pub const $constant: u16 = $number;)*

        /// Every register that has a constant: its number and name, in the order of the numbers, without the
        /// numbered families (see [`name`]).
        const NAMES: &[(u16, &str)] = &[$(($number, $name),)*];
    };
}

csrs! {
    FFLAGS 0x001 "fflags";
    FRM 0x002 "frm";
    FCSR 0x003 "fcsr";
    VSTART 0x008 "vstart";
    VXSAT 0x009 "vxsat";
    VXRM 0x00a "vxrm";
    VCSR 0x00f "vcsr";
    SSP 0x011 "ssp";
    SEED 0x015 "seed";
    JVT 0x017 "jvt";
    SSTATUS 0x100 "sstatus";
    SIE 0x104 "sie";
    STVEC 0x105 "stvec";
    SCOUNTEREN 0x106 "scounteren";
    SENVCFG 0x10a "senvcfg";
    SSTATEEN0 0x10c "sstateen0";
    SSTATEEN1 0x10d "sstateen1";
    SSTATEEN2 0x10e "sstateen2";
    SSTATEEN3 0x10f "sstateen3";
    SCOUNTINHIBIT 0x120 "scountinhibit";
    SSCRATCH 0x140 "sscratch";
    SEPC 0x141 "sepc";
    SCAUSE 0x142 "scause";
    STVAL 0x143 "stval";
    SIP 0x144 "sip";
    STIMECMP 0x14d "stimecmp";
    SISELECT 0x150 "siselect";
    SIREG 0x151 "sireg";
    SIREG2 0x152 "sireg2";
    SIREG3 0x153 "sireg3";
    SIREG4 0x155 "sireg4";
    SIREG5 0x156 "sireg5";
    SIREG6 0x157 "sireg6";
    STOPEI 0x15c "stopei";
    SATP 0x180 "satp";
    SRMCFG 0x181 "srmcfg";
    VSSTATUS 0x200 "vsstatus";
    VSIE 0x204 "vsie";
    VSTVEC 0x205 "vstvec";
    VSSCRATCH 0x240 "vsscratch";
    VSEPC 0x241 "vsepc";
    VSCAUSE 0x242 "vscause";
    VSTVAL 0x243 "vstval";
    VSIP 0x244 "vsip";
    VSTIMECMP 0x24d "vstimecmp";
    VSISELECT 0x250 "vsiselect";
    VSIREG 0x251 "vsireg";
    VSIREG2 0x252 "vsireg2";
    VSIREG3 0x253 "vsireg3";
    VSIREG4 0x255 "vsireg4";
    VSIREG5 0x256 "vsireg5";
    VSIREG6 0x257 "vsireg6";
    VSTOPEI 0x25c "vstopei";
    VSATP 0x280 "vsatp";
    MSTATUS 0x300 "mstatus";
    MISA 0x301 "misa";
    MEDELEG 0x302 "medeleg";
    MIDELEG 0x303 "mideleg";
    MIE 0x304 "mie";
    MTVEC 0x305 "mtvec";
    MCOUNTEREN 0x306 "mcounteren";
    MVIEN 0x308 "mvien";
    MVIP 0x309 "mvip";
    MENVCFG 0x30a "menvcfg";
    MSTATEEN0 0x30c "mstateen0";
    MSTATEEN1 0x30d "mstateen1";
    MSTATEEN2 0x30e "mstateen2";
    MSTATEEN3 0x30f "mstateen3";
    MCOUNTINHIBIT 0x320 "mcountinhibit";
    MSCRATCH 0x340 "mscratch";
    MEPC 0x341 "mepc";
    MCAUSE 0x342 "mcause";
    MTVAL 0x343 "mtval";
    MIP 0x344 "mip";
    MTINST 0x34a "mtinst";
    MTVAL2 0x34b "mtval2";
    MISELECT 0x350 "miselect";
    MIREG 0x351 "mireg";
    MIREG2 0x352 "mireg2";
    MIREG3 0x353 "mireg3";
    MIREG4 0x355 "mireg4";
    MIREG5 0x356 "mireg5";
    MIREG6 0x357 "mireg6";
    MTOPEI 0x35c "mtopei";
    SCONTEXT 0x5a8 "scontext";
    HSTATUS 0x600 "hstatus";
    HEDELEG 0x602 "hedeleg";
    HIDELEG 0x603 "hideleg";
    HIE 0x604 "hie";
    HTIMEDELTA 0x605 "htimedelta";
    HCOUNTEREN 0x606 "hcounteren";
    HGEIE 0x607 "hgeie";
    HVIEN 0x608 "hvien";
    HVICTL 0x609 "hvictl";
    HENVCFG 0x60a "henvcfg";
    HSTATEEN0 0x60c "hstateen0";
    HSTATEEN1 0x60d "hstateen1";
    HSTATEEN2 0x60e "hstateen2";
    HSTATEEN3 0x60f "hstateen3";
    HTVAL 0x643 "htval";
    HIP 0x644 "hip";
    HVIP 0x645 "hvip";
    HVIPRIO1 0x646 "hviprio1";
    HVIPRIO2 0x647 "hviprio2";
    HTINST 0x64a "htinst";
    HGATP 0x680 "hgatp";
    HCONTEXT 0x6a8 "hcontext";
    MNSCRATCH 0x740 "mnscratch";
    MNEPC 0x741 "mnepc";
    MNCAUSE 0x742 "mncause";
    MNSTATUS 0x744 "mnstatus";
    MSECCFG 0x747 "mseccfg";
    TSELECT 0x7a0 "tselect";
    TDATA1 0x7a1 "tdata1";
    TDATA2 0x7a2 "tdata2";
    TDATA3 0x7a3 "tdata3";
    TINFO 0x7a4 "tinfo";
    TCONTROL 0x7a5 "tcontrol";
    MCONTEXT 0x7a8 "mcontext";
    DCSR 0x7b0 "dcsr";
    DPC 0x7b1 "dpc";
    DSCRATCH0 0x7b2 "dscratch0";
    DSCRATCH1 0x7b3 "dscratch1";
    MCYCLE 0xb00 "mcycle";
    MINSTRET 0xb02 "minstret";
    CYCLE 0xc00 "cycle";
    TIME 0xc01 "time";
    INSTRET 0xc02 "instret";
    VL 0xc20 "vl";
    VTYPE 0xc21 "vtype";
    VLENB 0xc22 "vlenb";
    SCOUNTOVF 0xda0 "scountovf";
    STOPI 0xdb0 "stopi";
    HGEIP 0xe12 "hgeip";
    VSTOPI 0xeb0 "vstopi";
    MVENDORID 0xf11 "mvendorid";
    MARCHID 0xf12 "marchid";
    MIMPID 0xf13 "mimpid";
    MHARTID 0xf14 "mhartid";
    MCONFIGPTR 0xf15 "mconfigptr";
    MTOPI 0xfb0 "mtopi";
}

/// `mhpmevent3`, the first of 29.
pub const MHPMEVENT3: u16 = 0x323;
/// `pmpcfg0`, the first of 16; in RV64 only the even ones exist.
pub const PMPCFG0: u16 = 0x3a0;
/// `pmpaddr0`, the first of 64.
pub const PMPADDR0: u16 = 0x3b0;
/// `mhpmcounter3`, the first of 29.
pub const MHPMCOUNTER3: u16 = 0xb03;
/// `hpmcounter3`, the first of 29.
pub const HPMCOUNTER3: u16 = 0xc03;

/// Families of registers: first number, count, stem of the name, index of the first.
const FAMILIES: [(u16, u16, &str, u16); 5] = [
    (MHPMEVENT3, 29, "mhpmevent", 3),
    (PMPCFG0, 16, "pmpcfg", 0),
    (PMPADDR0, 64, "pmpaddr", 0),
    (MHPMCOUNTER3, 29, "mhpmcounter", 3),
    (HPMCOUNTER3, 29, "hpmcounter", 3),
];

/// The name of a register; what [`name`] returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    stem: &'static str,
    index: Option<u16>,
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.stem)?;
        self.index.map_or(Ok(()), |index| write!(f, "{index}"))
    }
}

/// The name of the register with this number; `None` where the standard has none.
#[must_use]
pub fn name(number: u16) -> Option<Name> {
    if let Ok(at) = NAMES.binary_search_by_key(&number, |&(number, _)| number) {
        return Some(Name { stem: NAMES[at].1, index: None });
    }
    FAMILIES.iter().find_map(|&(first, count, stem, first_index)| {
        let offset = number.checked_sub(first).filter(|&offset| offset < count)?;
        Some(Name { stem, index: Some(first_index + offset) })
    })
}

/// Whether the number says that the register is read-only (bits 11:10 both set).
#[must_use]
pub const fn is_read_only(number: u16) -> bool {
    number >> 10 & 3 == 3
}

/// The least privileged mode that may access the register, from bits 9:8 of its number. The hypervisor's
/// registers (2) need M-mode on a hart without that extension.
#[must_use]
pub const fn privilege(number: u16) -> Privilege {
    match number >> 8 & 3 {
        0 => Privilege::User,
        1 => Privilege::Supervisor,
        _ => Privilege::Machine,
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_are_ordered_by_number() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn numbered_register_has_its_index() {
        let text = |number| name(number).unwrap().to_string();
        assert_eq!(text(PMPADDR0 + 63), "pmpaddr63");
        assert_eq!(text(MHPMCOUNTER3), "mhpmcounter3");
        assert_eq!(text(HPMCOUNTER3 + 28), "hpmcounter31");
        assert_eq!(text(SATP), "satp");
        assert_eq!(name(0xfff), None);
    }

    #[test]
    fn number_gives_privilege_and_access() {
        assert_eq!(privilege(CYCLE), Privilege::User);
        assert_eq!(privilege(SATP), Privilege::Supervisor);
        assert_eq!(privilege(MHARTID), Privilege::Machine);
        assert!(is_read_only(CYCLE) && is_read_only(MHARTID) && !is_read_only(MCYCLE));
    }
}
