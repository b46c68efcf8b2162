//! Extensions of the base instruction set.

macro_rules! extensions {
    ($($variant:ident $name:literal $doc:literal;)*) => {
        /// An extension that introduces instructions.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Extension {
            $(#[doc = $doc] $variant,)*
        }

        impl Extension {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name as an ISA string spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

extensions! {
    I "i" "The base integer instructions, RV64I.";
    M "m" "Multiplication and division.";
    A "a" "Atomics.";
    F "f" "Single-precision floating point.";
    D "d" "Double-precision floating point.";
    C "c" "Compressed instructions.";
    Zicsr "zicsr" "Control and status registers.";
    Zifencei "zifencei" "Instruction-fetch fence.";
    Zba "zba" "Address generation.";
    Zbb "zbb" "Basic bit manipulation.";
    Zbc "zbc" "Carry-less multiplication.";
    Zbs "zbs" "Single-bit instructions.";
    Zicond "zicond" "Integer conditional operations.";
    Zicbom "zicbom" "Cache-block management.";
    Zicboz "zicboz" "Cache-block zero.";
    Zicbop "zicbop" "Cache-block prefetch.";
    Zihintpause "zihintpause" "Pause hint.";
    Zawrs "zawrs" "Wait on reservation set.";
    Zfhmin "zfhmin" "Half-precision loads, stores, moves and conversions.";
    Zfh "zfh" "Half-precision floating point.";
    Zfa "zfa" "Additional floating-point instructions.";
    Zcb "zcb" "Additional compressed instructions.";
    Zacas "zacas" "Atomic compare-and-swap.";
    Privileged "privileged" "Instructions of the privileged architecture.";
    Svinval "svinval" "Fine-grained address-translation cache invalidation.";
    H "h" "Hypervisor.";
}
