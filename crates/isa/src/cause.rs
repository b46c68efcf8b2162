//! Privilege modes and trap causes (Privileged ISA, "Machine Cause Register").

/// A privilege mode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Privilege {
    /// U-mode: applications.
    User = 0,
    /// S-mode: an operating system.
    Supervisor = 1,
    /// M-mode: firmware.
    Machine = 3,
}

impl Privilege {
    /// The mode of a two-bit encoding such as `mstatus.MPP`; `None` for the reserved one.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::User,
            1 => Self::Supervisor,
            3 => Self::Machine,
            _ => return None,
        })
    }
}

macro_rules! causes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)*
        }

        impl $name {
            /// All of them, by code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The exception code, without the interrupt bit.
            #[must_use]
            pub const fn code(self) -> u64 {
                self as u64
            }

            /// The cause with this code.
            #[must_use]
            pub const fn from_code(code: u64) -> Option<Self> {
                Some(match code {
                    $($code => Self::$variant,)*
                    _ => return None,
                })
            }
        }
    };
}

causes! {
    /// Synchronous traps.
    Exception {
        /// A jump to an address that isn't aligned to an instruction.
        InstructionAddressMisaligned = 0,
        /// A fetch that physical memory or PMP refuses.
        InstructionAccessFault = 1,
        /// An instruction that doesn't exist or isn't allowed here.
        IllegalInstruction = 2,
        /// `ebreak`, or a trigger.
        Breakpoint = 3,
        /// A load or LR at a misaligned address.
        LoadAddressMisaligned = 4,
        /// A load that physical memory or PMP refuses.
        LoadAccessFault = 5,
        /// A store or AMO at a misaligned address.
        StoreAddressMisaligned = 6,
        /// A store or AMO that physical memory or PMP refuses.
        StoreAccessFault = 7,
        /// `ecall` from U-mode.
        EnvironmentCallFromUser = 8,
        /// `ecall` from S-mode; with the hypervisor extension, from HS-mode.
        EnvironmentCallFromSupervisor = 9,
        /// `ecall` from VS-mode.
        EnvironmentCallFromVirtualSupervisor = 10,
        /// `ecall` from M-mode.
        EnvironmentCallFromMachine = 11,
        /// A fetch that the page tables refuse.
        InstructionPageFault = 12,
        /// A load that the page tables refuse.
        LoadPageFault = 13,
        /// A store or AMO that the page tables refuse.
        StorePageFault = 15,
        /// Software check (Zicfilp, Zicfiss).
        SoftwareCheck = 18,
        /// Hardware error.
        HardwareError = 19,
        /// A fetch that the second stage of translation refuses.
        InstructionGuestPageFault = 20,
        /// A load that the second stage refuses.
        LoadGuestPageFault = 21,
        /// An instruction of a virtual machine that its hypervisor has to carry out.
        VirtualInstruction = 22,
        /// A store or AMO that the second stage refuses.
        StoreGuestPageFault = 23,
    }
}

impl Exception {
    /// Whether a load, store or AMO raises it.
    #[must_use]
    pub const fn is_of_data(self) -> bool {
        matches!(
            self,
            Self::LoadAddressMisaligned
                | Self::LoadAccessFault
                | Self::LoadPageFault
                | Self::LoadGuestPageFault
                | Self::StoreAddressMisaligned
                | Self::StoreAccessFault
                | Self::StorePageFault
                | Self::StoreGuestPageFault
        )
    }
}

causes! {
    /// Interrupts; the code is the bit's position in `mip` and `mie`.
    Interrupt {
        /// Supervisor software interrupt.
        SupervisorSoftware = 1,
        /// Supervisor software interrupt of a virtual machine.
        VirtualSupervisorSoftware = 2,
        /// Machine software interrupt.
        MachineSoftware = 3,
        /// Supervisor timer interrupt.
        SupervisorTimer = 5,
        /// Supervisor timer interrupt of a virtual machine.
        VirtualSupervisorTimer = 6,
        /// Machine timer interrupt.
        MachineTimer = 7,
        /// Supervisor external interrupt.
        SupervisorExternal = 9,
        /// Supervisor external interrupt of a virtual machine.
        VirtualSupervisorExternal = 10,
        /// Machine external interrupt.
        MachineExternal = 11,
        /// External interrupt of a virtual machine, for its hypervisor.
        SupervisorGuestExternal = 12,
        /// Local counter overflow (Sscofpmf).
        CounterOverflow = 13,
    }
}

impl Interrupt {
    /// The interrupt's bit in `mip`, `mie`, `mideleg` and their supervisor views.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }
}
