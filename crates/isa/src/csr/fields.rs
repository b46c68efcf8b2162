//! Fields of the registers: masks in place unless named `_SHIFT`.

/// Fields of `mstatus`; `sstatus` is its subset [`SSTATUS_MASK`](super::SSTATUS_MASK).
pub mod mstatus {
    /// Supervisor interrupts enabled.
    pub const SIE: u64 = 1 << 1;
    /// Machine interrupts enabled.
    pub const MIE: u64 = 1 << 3;
    /// SIE before the trap to S-mode.
    pub const SPIE: u64 = 1 << 5;
    /// Big-endian data in U-mode.
    pub const UBE: u64 = 1 << 6;
    /// MIE before the trap to M-mode.
    pub const MPIE: u64 = 1 << 7;
    /// Mode before the trap to S-mode.
    pub const SPP: u64 = 1 << 8;
    /// Vector state.
    pub const VS: u64 = 3 << 9;
    /// Position of MPP.
    pub const MPP_SHIFT: u32 = 11;
    /// Mode before the trap to M-mode.
    pub const MPP: u64 = 3 << MPP_SHIFT;
    /// Position of FS.
    pub const FS_SHIFT: u32 = 13;
    /// Floating-point state; off, initial, clean, dirty. All bits set: dirty.
    pub const FS: u64 = 3 << FS_SHIFT;
    /// FS: initial.
    pub const FS_INITIAL: u64 = 1 << FS_SHIFT;
    /// FS: clean.
    pub const FS_CLEAN: u64 = 2 << FS_SHIFT;
    /// State of other extensions.
    pub const XS: u64 = 3 << 15;
    /// Loads and stores with the privilege of MPP.
    pub const MPRV: u64 = 1 << 17;
    /// Supervisor may access user pages.
    pub const SUM: u64 = 1 << 18;
    /// Loads from executable pages.
    pub const MXR: u64 = 1 << 19;
    /// Trap `satp` and `sfence.vma` in S-mode.
    pub const TVM: u64 = 1 << 20;
    /// Trap `wfi` below M-mode.
    pub const TW: u64 = 1 << 21;
    /// Trap `sret` in S-mode.
    pub const TSR: u64 = 1 << 22;
    /// Landing pad expected before the trap to S-mode.
    pub const SPELP: u64 = 1 << 23;
    /// Double trap in S-mode.
    pub const SDT: u64 = 1 << 24;
    /// Position of UXL.
    pub const UXL_SHIFT: u32 = 32;
    /// Width of registers in U-mode.
    pub const UXL: u64 = 3 << UXL_SHIFT;
    /// Position of SXL.
    pub const SXL_SHIFT: u32 = 34;
    /// Width of registers in S-mode.
    pub const SXL: u64 = 3 << SXL_SHIFT;
    /// Big-endian data in S-mode.
    pub const SBE: u64 = 1 << 36;
    /// Big-endian data in M-mode.
    pub const MBE: u64 = 1 << 37;
    /// Guest virtual address in `mtval`.
    pub const GVA: u64 = 1 << 38;
    /// Virtualization mode before the trap to M-mode.
    pub const MPV: u64 = 1 << 39;
    /// Landing pad expected before the trap to M-mode.
    pub const MPELP: u64 = 1 << 41;
    /// Double trap in M-mode.
    pub const MDT: u64 = 1 << 42;
    /// Some state is dirty: FS, VS or XS has all bits set.
    pub const SD: u64 = 1 << 63;
}

/// The bits of `mstatus` that `sstatus` shows.
pub const SSTATUS_MASK: u64 = mstatus::SIE
    | mstatus::SPIE
    | mstatus::UBE
    | mstatus::SPP
    | mstatus::VS
    | mstatus::FS
    | mstatus::XS
    | mstatus::SUM
    | mstatus::MXR
    | mstatus::SPELP
    | mstatus::SDT
    | mstatus::UXL
    | mstatus::SD;

/// Values of UXL, SXL and `misa.MXL` for 64-bit registers.
pub const XLEN_64: u64 = 2;

/// Fields of `hstatus`.
pub mod hstatus {
    /// Big-endian data in VS-mode.
    pub const VSBE: u64 = 1 << 5;
    /// Guest virtual address in `stval`.
    pub const GVA: u64 = 1 << 6;
    /// Virtualization mode before the trap to HS-mode.
    pub const SPV: u64 = 1 << 7;
    /// Mode before the trap to HS-mode, where it came from a virtual machine: that of `hlv` and `hsv`.
    pub const SPVP: u64 = 1 << 8;
    /// `hlv` and `hsv` in U-mode.
    pub const HU: u64 = 1 << 9;
    /// Which guest external interrupt is VS-mode's.
    pub const VGEIN: u64 = 0x3f << 12;
    /// Trap `satp` and `sfence.vma` in VS-mode.
    pub const VTVM: u64 = 1 << 20;
    /// Trap `wfi` in VS-mode.
    pub const VTW: u64 = 1 << 21;
    /// Trap `sret` in VS-mode.
    pub const VTSR: u64 = 1 << 22;
    /// Position of VSXL.
    pub const VSXL_SHIFT: u32 = 32;
    /// Width of registers in VS-mode.
    pub const VSXL: u64 = 3 << VSXL_SHIFT;
}

/// Fields of `hgatp`; MODE is where `satp` has it, with the same values: Sv39x4, Sv48x4, Sv57x4.
pub mod hgatp {
    /// Physical page number of the root table, which is aligned to 16 KiB.
    pub const PPN: u64 = (1 << 44) - 4;
    /// Position of VMID.
    pub const VMID_SHIFT: u32 = 44;
    /// Virtual-machine identifier.
    pub const VMID: u64 = 0x3fff << VMID_SHIFT;
    /// MODE.
    pub const MODE: u64 = 0xf << super::satp::MODE_SHIFT;
}

/// Fields of `misa`.
pub mod misa {
    /// Position of MXL.
    pub const MXL_SHIFT: u32 = 62;

    /// The bit of a single-letter extension, an upper-case letter.
    #[must_use]
    pub const fn extension(letter: u8) -> u64 {
        1 << (letter - b'A')
    }
}

/// Bits of `mip`, `mie`, `mideleg`, `sip` and `sie`.
pub mod mip {
    /// Supervisor software interrupt.
    pub const SSIP: u64 = 1 << 1;
    /// Supervisor software interrupt of a virtual machine.
    pub const VSSIP: u64 = 1 << 2;
    /// Machine software interrupt.
    pub const MSIP: u64 = 1 << 3;
    /// Supervisor timer interrupt.
    pub const STIP: u64 = 1 << 5;
    /// Supervisor timer interrupt of a virtual machine.
    pub const VSTIP: u64 = 1 << 6;
    /// Machine timer interrupt.
    pub const MTIP: u64 = 1 << 7;
    /// Supervisor external interrupt.
    pub const SEIP: u64 = 1 << 9;
    /// Supervisor external interrupt of a virtual machine.
    pub const VSEIP: u64 = 1 << 10;
    /// Machine external interrupt.
    pub const MEIP: u64 = 1 << 11;
    /// External interrupt of a virtual machine, for its hypervisor.
    pub const SGEIP: u64 = 1 << 12;
    /// Local counter overflow.
    pub const LCOFIP: u64 = 1 << 13;
}

/// Fields of `mcause` and `scause`.
pub mod mcause {
    /// The trap was an interrupt.
    pub const INTERRUPT: u64 = 1 << 63;
}

/// Fields of `mtvec` and `stvec`.
pub mod mtvec {
    /// How the target is formed: 0 direct, 1 vectored.
    pub const MODE: u64 = 3;
    /// Interrupts go to BASE + 4 × cause.
    pub const VECTORED: u64 = 1;
    /// Address, as it stands.
    pub const BASE: u64 = !MODE;
}

/// Bits of `mcounteren`, `scounteren` and `mcountinhibit`.
pub mod counters {
    /// `cycle`.
    pub const CY: u64 = 1;
    /// `time`; not in `mcountinhibit`.
    pub const TM: u64 = 1 << 1;
    /// `instret`.
    pub const IR: u64 = 1 << 2;
    /// `hpmcounter3` to `hpmcounter31`.
    pub const HPM: u64 = 0xffff_fff8;
}

/// Fields of `menvcfg` and `senvcfg`.
pub mod envcfg {
    /// Fences of I/O imply memory.
    pub const FIOM: u64 = 1;
    /// Landing pads enabled.
    pub const LPE: u64 = 1 << 2;
    /// Shadow stacks enabled.
    pub const SSE: u64 = 1 << 3;
    /// Position of CBIE.
    pub const CBIE_SHIFT: u32 = 4;
    /// `cbo.inval`: 0 illegal, 1 acts as flush, 3 allowed.
    pub const CBIE: u64 = 3 << CBIE_SHIFT;
    /// `cbo.clean` and `cbo.flush` allowed.
    pub const CBCFE: u64 = 1 << 6;
    /// `cbo.zero` allowed.
    pub const CBZE: u64 = 1 << 7;
    /// Pointer masking.
    pub const PMM: u64 = 3 << 32;
    /// Double trap enabled; `menvcfg` only.
    pub const DTE: u64 = 1 << 59;
    /// Counter delegation enabled; `menvcfg` only.
    pub const CDE: u64 = 1 << 60;
    /// Hardware updates A and D (Svadu); `menvcfg` only.
    pub const ADUE: u64 = 1 << 61;
    /// Page-based memory types (Svpbmt); `menvcfg` only.
    pub const PBMTE: u64 = 1 << 62;
    /// `stimecmp` enabled (Sstc); `menvcfg` only.
    pub const STCE: u64 = 1 << 63;
}

/// Fields of `mstateen0` and `sstateen0` (Smstateen).
pub mod stateen {
    /// Custom state.
    pub const C: u64 = 1;
    /// `fcsr` where floating point is in integer registers (Zfinx).
    pub const FCSR: u64 = 1 << 1;
    /// `jvt` (Zcmt).
    pub const JVT: u64 = 1 << 2;
    /// Control transfer records; `mstateen0` only, as are those below.
    pub const CTR: u64 = 1 << 54;
    /// `srmcfg`.
    pub const SRMCFG: u64 = 1 << 55;
    /// Version 1.13 of the privileged architecture.
    pub const P1P13: u64 = 1 << 56;
    /// `hcontext` and `scontext`.
    pub const CONTEXT: u64 = 1 << 57;
    /// IMSIC state.
    pub const IMSIC: u64 = 1 << 58;
    /// Other state of the interrupt architecture.
    pub const AIA: u64 = 1 << 59;
    /// `siselect` and `sireg*`.
    pub const CSRIND: u64 = 1 << 60;
    /// `henvcfg` and `senvcfg`.
    pub const ENVCFG: u64 = 1 << 62;
    /// `sstateen0`; the other registers have it too.
    pub const SE0: u64 = 1 << 63;
}

/// Fields of `satp`.
pub mod satp {
    /// Physical page number of the root table.
    pub const PPN: u64 = (1 << 44) - 1;
    /// Position of ASID.
    pub const ASID_SHIFT: u32 = 44;
    /// Address-space identifier.
    pub const ASID: u64 = 0xffff << ASID_SHIFT;
    /// Position of MODE.
    pub const MODE_SHIFT: u32 = 60;
    /// MODE: no translation.
    pub const BARE: u64 = 0;
    /// MODE: 39-bit addresses, three levels.
    pub const SV39: u64 = 8;
    /// MODE: 48-bit addresses, four levels.
    pub const SV48: u64 = 9;
    /// MODE: 57-bit addresses, five levels.
    pub const SV57: u64 = 10;
}

/// Fields of one byte of `pmpcfg`.
pub mod pmpcfg {
    /// Reads allowed.
    pub const R: u8 = 1;
    /// Writes allowed.
    pub const W: u8 = 1 << 1;
    /// Fetches allowed.
    pub const X: u8 = 1 << 2;
    /// Position of A.
    pub const A_SHIFT: u32 = 3;
    /// How addresses match: off, TOR, NA4, NAPOT.
    pub const A: u8 = 3 << A_SHIFT;
    /// A: off.
    pub const OFF: u8 = 0;
    /// A: from the entry before up to this one.
    pub const TOR: u8 = 1;
    /// A: 4 bytes.
    pub const NA4: u8 = 2;
    /// A: a naturally aligned power of two, 8 bytes or more.
    pub const NAPOT: u8 = 3;
    /// Locked until reset, and binding for M-mode.
    pub const L: u8 = 1 << 7;
}

/// Fields of `fcsr`; `fflags` is the low part, `frm` the rest.
pub mod fcsr {
    /// Inexact.
    pub const NX: u64 = 1;
    /// Underflow.
    pub const UF: u64 = 1 << 1;
    /// Overflow.
    pub const OF: u64 = 1 << 2;
    /// Division by zero.
    pub const DZ: u64 = 1 << 3;
    /// Invalid operation.
    pub const NV: u64 = 1 << 4;
    /// All flags.
    pub const FLAGS: u64 = 0x1f;
    /// Position of FRM.
    pub const FRM_SHIFT: u32 = 5;
    /// Rounding mode.
    pub const FRM: u64 = 7 << FRM_SHIFT;
}
