//! IEEE 754 arithmetic on binary16, binary32 and binary64, exact to the bit and to the flag, as the F, D, Zfh
//! and Zfa extensions define it (Unprivileged ISA, chapters "F", "D", "Zfh" and "Zfa").
//!
//! Values are raw bits in the low end of a `u64`; a [`Format`] names their layout. Every function is pure: the
//! rounding mode comes in as an argument and raised exceptions are ored into a [`Flags`]. Results that are NaN
//! are always the canonical one; tininess is detected after rounding.
//!
//! This module knows neither registers nor instructions; sign injection is left to the caller.

mod arithmetic;
mod compare;
mod convert;
mod fast;
#[cfg(test)]
mod tests;

pub use arithmetic::{add, div, fused_multiply_add, mul, sqrt, sub};
pub use compare::{
    classify, equal, less, less_or_equal, less_or_equal_quiet, less_quiet, maximum, maximum_number, minimum,
    minimum_number,
};
pub use convert::{
    convert, from_i32, from_i64, from_u32, from_u64, load_immediate, round_to_integral,
    round_to_integral_exact, to_i32, to_i32_modular, to_i64, to_u32, to_u64,
};

/// How an inexact result is rounded, with the encoding of `frm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rounding {
    /// To nearest, ties to even (RNE).
    NearestEven = 0,
    /// Towards zero (RTZ).
    TowardZero = 1,
    /// Towards negative infinity (RDN).
    Down = 2,
    /// Towards positive infinity (RUP).
    Up = 3,
    /// To nearest, ties away from zero (RMM).
    NearestMaxMagnitude = 4,
}

impl Rounding {
    /// The mode with this encoding; `None` for the reserved ones.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::NearestEven,
            1 => Self::TowardZero,
            2 => Self::Down,
            3 => Self::Up,
            4 => Self::NearestMaxMagnitude,
            _ => return None,
        })
    }
}

/// Raised exceptions, with the encoding of `fflags`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub u8);

impl Flags {
    /// Inexact.
    pub const NX: u8 = 1;
    /// Underflow: tiny after rounding, and inexact.
    pub const UF: u8 = 2;
    /// Overflow.
    pub const OF: u8 = 4;
    /// Division of a finite number by zero.
    pub const DZ: u8 = 8;
    /// Invalid operation.
    pub const NV: u8 = 16;

    /// Adds exceptions.
    #[inline]
    pub const fn raise(&mut self, flags: u8) {
        self.0 |= flags;
    }
}

/// Layout of an interchange format (IEEE 754-2019, 3.4).
pub trait Format: Copy {
    /// Width of the format in bits.
    const BITS: u32;
    /// Width of the stored fraction in bits.
    const FRACTION: u32;

    /// Exponent of the largest binade; also the bias.
    const MAX_EXPONENT: i32 = (1 << (Self::BITS - Self::FRACTION - 2)) - 1;
    /// Exponent of the smallest normal number.
    const MIN_EXPONENT: i32 = 1 - Self::MAX_EXPONENT;
    /// The sign bit.
    const SIGN: u64 = 1 << (Self::BITS - 1);
    /// Positive infinity, which is also the mask of the exponent field.
    const INFINITY: u64 = (Self::SIGN - 1) >> Self::FRACTION << Self::FRACTION;
    /// The NaN that every invalid operation gives: positive, quiet, no payload.
    const CANONICAL_NAN: u64 = Self::INFINITY | Self::QUIET;
    /// The fraction bit that tells quiet NaNs from signalling ones.
    const QUIET: u64 = 1 << (Self::FRACTION - 1);
}

/// binary16, half precision.
#[derive(Clone, Copy, Debug)]
pub struct Half;
/// binary32, single precision.
#[derive(Clone, Copy, Debug)]
pub struct Single;
/// binary64, double precision.
#[derive(Clone, Copy, Debug)]
pub struct Double;

impl Format for Half {
    const BITS: u32 = 16;
    const FRACTION: u32 = 10;
}
impl Format for Single {
    const BITS: u32 = 32;
    const FRACTION: u32 = 23;
}
impl Format for Double {
    const BITS: u32 = 64;
    const FRACTION: u32 = 52;
}

/// A value as a 64-bit register holds it: the bits above the format are ones.
#[inline]
#[must_use]
pub const fn nan_box<F: Format>(bits: u64) -> u64 {
    bits | !(u64::MAX >> (64 - F::BITS))
}

/// The value in a 64-bit register; the canonical NaN if it isn't NaN-boxed.
#[inline]
#[must_use]
pub const fn unbox<F: Format>(register: u64) -> u64 {
    let mask = u64::MAX >> (64 - F::BITS);
    if register | mask == u64::MAX { register & mask } else { F::CANONICAL_NAN }
}

/// A number taken apart.
#[derive(Clone, Copy)]
struct Unpacked {
    negative: bool,
    class: Class,
}

#[derive(Clone, Copy)]
enum Class {
    Zero,
    /// `significand / 2^63 * 2^exponent`; the significand's bit 63 is set, for subnormal numbers too.
    Finite {
        exponent: i32,
        significand: u64,
    },
    Infinity,
    Nan {
        signalling: bool,
    },
}

fn unpack<F: Format>(bits: u64) -> Unpacked {
    let field = ((bits & F::INFINITY) >> F::FRACTION) as i32;
    let fraction = bits & ((1 << F::FRACTION) - 1);
    let class = if bits & F::INFINITY == F::INFINITY {
        if fraction == 0 { Class::Infinity } else { Class::Nan { signalling: bits & F::QUIET == 0 } }
    } else if field != 0 {
        let significand = (fraction | 1 << F::FRACTION) << (63 - F::FRACTION);
        Class::Finite { exponent: field - F::MAX_EXPONENT, significand }
    } else if fraction == 0 {
        Class::Zero
    } else {
        let above = fraction.leading_zeros();
        let exponent = F::MIN_EXPONENT + 63 - F::FRACTION as i32 - above as i32;
        Class::Finite { exponent, significand: fraction << above }
    };
    Unpacked { negative: bits & F::SIGN != 0, class }
}

const fn signed<F: Format>(negative: bool, magnitude: u64) -> u64 {
    if negative { magnitude | F::SIGN } else { magnitude }
}

/// The NaN of an operation some of whose operands are NaN: invalid if one of them is signalling.
fn propagate<const N: usize>(nan: u64, operands: [Class; N], flags: &mut Flags) -> u64 {
    if operands.iter().any(|class| matches!(class, Class::Nan { signalling: true })) {
        flags.raise(Flags::NV);
    }
    nan
}

fn invalid<F: Format>(flags: &mut Flags) -> u64 {
    flags.raise(Flags::NV);
    F::CANONICAL_NAN
}

/// Exponent and significand of a normal number, as in [`Class::Finite`].
#[inline]
fn normal<F: Format>(bits: u64) -> Option<(i32, u64)> {
    let field = ((bits & F::INFINITY) >> F::FRACTION) as i32;
    let is_normal = field != 0 && field <= 2 * F::MAX_EXPONENT;
    let significand = (bits << (63 - F::FRACTION)) | 1 << 63;
    is_normal.then_some((field - F::MAX_EXPONENT, significand))
}

/// Shifts right; ones that fall out stay visible in the lowest bit, so that a later rounding is still right.
#[inline]
const fn shift_right_jam(value: u128, distance: u32) -> u128 {
    if distance > 127 {
        (value != 0) as u128
    } else {
        value >> distance | (value & !(u128::MAX << distance) != 0) as u128
    }
}

/// Drops the low `dropped` bits (1..=63) of a magnitude; returns the rounded rest and whether it is inexact.
#[inline]
fn round_off(magnitude: u64, dropped: u32, negative: bool, rounding: Rounding) -> (u64, bool) {
    let (kept, rest, half) = (magnitude >> dropped, magnitude & ((1 << dropped) - 1), 1 << (dropped - 1));
    let up = match rounding {
        Rounding::NearestEven => rest > half || rest == half && kept & 1 != 0,
        Rounding::TowardZero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::NearestMaxMagnitude => rest >= half,
    };
    (kept + u64::from(up), rest != 0)
}

/// Rounds `significand / 2^63 * 2^exponent` (bit 63 set, bit 0 may stand for smaller ones) into a format.
#[inline]
fn round_pack<F: Format>(
    negative: bool,
    exponent: i32,
    significand: u64,
    rounding: Rounding,
    flags: &mut Flags,
) -> u64 {
    let dropped = 63 - F::FRACTION;
    let (magnitude, inexact) = if exponent < F::MIN_EXPONENT {
        let denormalized = shift_right_jam(significand.into(), F::MIN_EXPONENT.abs_diff(exponent)) as u64;
        let (magnitude, inexact) = round_off(denormalized, dropped, negative, rounding);
        // Rounded to full precision with an unbounded exponent, it may still reach the smallest normal number.
        let reaches_normal = exponent == F::MIN_EXPONENT - 1
            && round_off(significand, dropped, negative, rounding).0 >> (F::FRACTION + 1) != 0;
        if inexact && !reaches_normal {
            flags.raise(Flags::UF);
        }
        (magnitude, inexact)
    } else {
        let (rounded, inexact) = round_off(significand, dropped, negative, rounding);
        // The integer bit adds one to the exponent field, and so does a carry out of the rounding.
        let field = F::MIN_EXPONENT.abs_diff(exponent).min(F::MAX_EXPONENT as u32 * 2);
        ((u64::from(field) << F::FRACTION) + rounded, inexact)
    };
    if magnitude >= F::INFINITY {
        flags.raise(Flags::OF | Flags::NX);
        let to_infinity = match rounding {
            Rounding::NearestEven | Rounding::NearestMaxMagnitude => true,
            Rounding::TowardZero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        return signed::<F>(negative, F::INFINITY - u64::from(!to_infinity));
    }
    if inexact {
        flags.raise(Flags::NX);
    }
    signed::<F>(negative, magnitude)
}

/// Rounds `significand / 2^127 * 2^exponent`, not zero, into a format.
#[inline]
fn normalize_round_pack<F: Format>(
    negative: bool,
    exponent: i32,
    significand: u128,
    rounding: Rounding,
    flags: &mut Flags,
) -> u64 {
    let above = significand.leading_zeros();
    let normalized = significand << above;
    let jammed = (normalized >> 64) as u64 | u64::from(normalized as u64 != 0);
    round_pack::<F>(negative, exponent - above as i32, jammed, rounding, flags)
}
