//! Conversions between formats, to and from integers, and rounding to integral values.

use super::{
    Class, Double, Flags, Format, Rounding, Unpacked, propagate, round_off, round_pack, shift_right_jam,
    signed, unpack,
};

/// Converts from one format to another.
#[must_use]
pub fn convert<From: Format, To: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let Unpacked { negative, class } = unpack::<From>(a);
    match class {
        Class::Nan { .. } => propagate(To::CANONICAL_NAN, [class], flags),
        Class::Infinity => signed::<To>(negative, To::INFINITY),
        Class::Zero => signed::<To>(negative, 0),
        Class::Finite { exponent, significand } => {
            round_pack::<To>(negative, exponent, significand, rounding, flags)
        }
    }
}

/// Converts from a 32-bit signed integer.
#[must_use]
pub fn from_i32<F: Format>(value: i32, rounding: Rounding, flags: &mut Flags) -> u64 {
    from_i64::<F>(value.into(), rounding, flags)
}

/// Converts from a 32-bit unsigned integer.
#[must_use]
pub fn from_u32<F: Format>(value: u32, rounding: Rounding, flags: &mut Flags) -> u64 {
    from_u64::<F>(value.into(), rounding, flags)
}

/// Converts from a 64-bit signed integer.
#[must_use]
pub fn from_i64<F: Format>(value: i64, rounding: Rounding, flags: &mut Flags) -> u64 {
    from_magnitude::<F>(value < 0, value.unsigned_abs(), rounding, flags)
}

/// Converts from a 64-bit unsigned integer.
#[must_use]
pub fn from_u64<F: Format>(value: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    from_magnitude::<F>(false, value, rounding, flags)
}

fn from_magnitude<F: Format>(negative: bool, magnitude: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    if magnitude == 0 {
        return 0;
    }
    let above = magnitude.leading_zeros();
    round_pack::<F>(negative, 63 - above as i32, magnitude << above, rounding, flags)
}

/// Converts to a 32-bit signed integer. What doesn't fit is invalid and saturates; NaN counts as positive.
#[must_use]
pub fn to_i32<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> i32 {
    to_integer::<F>(a, i32::MIN.into(), i32::MAX.into(), rounding, flags) as i32
}

/// Converts to a 32-bit unsigned integer. What doesn't fit is invalid and saturates; NaN counts as positive.
#[must_use]
pub fn to_u32<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> u32 {
    to_integer::<F>(a, 0, u32::MAX.into(), rounding, flags) as u32
}

/// Converts to a 64-bit signed integer. What doesn't fit is invalid and saturates; NaN counts as positive.
#[must_use]
pub fn to_i64<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> i64 {
    to_integer::<F>(a, i64::MIN.into(), i64::MAX.into(), rounding, flags) as i64
}

/// Converts to a 64-bit unsigned integer. What doesn't fit is invalid and saturates; NaN counts as positive.
#[must_use]
pub fn to_u64<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    to_integer::<F>(a, 0, u64::MAX.into(), rounding, flags) as u64
}

fn to_integer<F: Format>(a: u64, min: i128, max: i128, rounding: Rounding, flags: &mut Flags) -> i128 {
    let Unpacked { negative, class } = unpack::<F>(a);
    let rounded = match class {
        Class::Zero => return 0,
        Class::Finite { exponent, significand } if exponent < 64 => {
            let (magnitude, inexact) = integral(negative, exponent, significand, rounding);
            let value = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
            (min..=max).contains(&value).then_some((value, inexact))
        }
        _ => None,
    };
    if let Some((value, inexact)) = rounded {
        flags.raise(u8::from(inexact) * Flags::NX);
        return value;
    }
    flags.raise(Flags::NV);
    if negative && !matches!(class, Class::Nan { .. }) { min } else { max }
}

/// Rounds `significand / 2^63 * 2^exponent` with an exponent below 64 to an integer; tells whether that is
/// inexact.
fn integral(negative: bool, exponent: i32, significand: u64, rounding: Rounding) -> (u64, bool) {
    match 63 - exponent {
        0 => (significand, false),
        dropped @ 1..=63 => round_off(significand, dropped as u32, negative, rounding),
        // Below one: any number with the same relation to one half does.
        dropped => {
            let small = shift_right_jam(significand.into(), dropped as u32 - 62) as u64;
            round_off(small, 62, negative, rounding)
        }
    }
}

/// Truncates binary64 to an integer, modulo 2^32 (`fcvtmod.w.d`). Invalid if it is outside of `i32`.
#[must_use]
pub fn to_i32_modular(a: u64, flags: &mut Flags) -> i32 {
    let modular = |negative, magnitude: u64| {
        let low = magnitude as i32;
        if negative { low.wrapping_neg() } else { low }
    };
    let Unpacked { negative, class } = unpack::<Double>(a);
    match class {
        Class::Zero => 0,
        Class::Finite { exponent, significand } if exponent < 64 => {
            let (magnitude, inexact) = integral(negative, exponent, significand, Rounding::TowardZero);
            let fits = magnitude < 1 << 31 || negative && magnitude == 1 << 31;
            flags.raise(if fits { u8::from(inexact) * Flags::NX } else { Flags::NV });
            modular(negative, magnitude)
        }
        Class::Finite { exponent, significand } => {
            flags.raise(Flags::NV);
            modular(negative, significand.checked_shl(exponent as u32 - 63).unwrap_or(0))
        }
        Class::Infinity | Class::Nan { .. } => {
            flags.raise(Flags::NV);
            0
        }
    }
}

/// Rounds to an integral value of the same format (`fround`); only a signalling NaN raises anything.
#[must_use]
pub fn round_to_integral<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let mut raised = Flags::default();
    let result = round_to_integral_exact::<F>(a, rounding, &mut raised);
    flags.raise(raised.0 & !Flags::NX);
    result
}

/// Rounds to an integral value of the same format (`froundnx`); inexact if that changes the value.
#[must_use]
pub fn round_to_integral_exact<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let Unpacked { negative, class } = unpack::<F>(a);
    match class {
        Class::Nan { .. } => propagate(F::CANONICAL_NAN, [class], flags),
        Class::Finite { exponent, significand } if exponent < F::FRACTION as i32 => {
            let (magnitude, inexact) = integral(negative, exponent, significand, rounding);
            flags.raise(u8::from(inexact) * Flags::NX);
            signed::<F>(negative, from_u64::<F>(magnitude, rounding, flags))
        }
        _ => a,
    }
}

/// The constant that `fli` loads: entry `index` (0..=31) of the table in chapter "Zfa"; the table repeats.
#[must_use]
pub fn load_immediate<F: Format>(index: u8) -> u64 {
    const SMALLEST_NORMAL: usize = 1;
    #[rustfmt::skip]
    const CONSTANTS: [f64; 32] = [
        -1.0, 0.0, 1.0 / 65536.0, 1.0 / 32768.0, 1.0 / 256.0, 1.0 / 128.0, 0.0625, 0.125,
        0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875,
        1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0,
        8.0, 16.0, 128.0, 256.0, 32768.0, 65536.0, f64::INFINITY, f64::NAN,
    ];
    let index = usize::from(index & 31);
    if index == SMALLEST_NORMAL {
        return 1 << F::FRACTION;
    }
    // 65536 in binary16 becomes infinity, as the table has it.
    convert::<Double, F>(CONSTANTS[index].to_bits(), Rounding::NearestEven, &mut Flags::default())
}
