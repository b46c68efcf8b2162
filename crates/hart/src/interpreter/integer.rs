//! Values of integer instructions that aren't one operation of the host (M, Zbb, Zbc).

/// Sign-extends the low 32 bits.
#[inline(always)]
pub const fn word(value: u32) -> u64 {
    value as i32 as u64
}

/// `mulh`: the high half of the signed product.
#[inline(always)]
pub const fn mulh(a: u64, b: u64) -> u64 {
    ((a as i64 as i128 * b as i64 as i128) >> 64) as u64
}

/// `mulhsu`: the high half of signed times unsigned.
#[inline(always)]
pub const fn mulhsu(a: u64, b: u64) -> u64 {
    ((a as i64 as i128 * b as i128) >> 64) as u64
}

/// `mulhu`: the high half of the unsigned product.
#[inline(always)]
pub const fn mulhu(a: u64, b: u64) -> u64 {
    ((a as u128 * b as u128) >> 64) as u64
}

/// `div`: division by zero gives all ones, overflow the dividend.
#[inline(always)]
pub const fn div(a: u64, b: u64) -> u64 {
    if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }
}

/// `divu`
#[inline(always)]
pub const fn divu(a: u64, b: u64) -> u64 {
    match a.checked_div(b) {
        Some(quotient) => quotient,
        None => u64::MAX,
    }
}

/// `rem`: by zero gives the dividend, overflow zero.
#[inline(always)]
pub const fn rem(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
}

/// `remu`
#[inline(always)]
pub const fn remu(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { a % b }
}

/// `divw`
#[inline(always)]
pub const fn divw(a: u64, b: u64) -> u64 {
    let (a, b) = (a as i32, b as i32);
    if b == 0 { u64::MAX } else { a.wrapping_div(b) as u64 }
}

/// `divuw`
#[inline(always)]
pub const fn divuw(a: u64, b: u64) -> u64 {
    match (a as u32).checked_div(b as u32) {
        Some(quotient) => word(quotient),
        None => u64::MAX,
    }
}

/// `remw`
#[inline(always)]
pub const fn remw(a: u64, b: u64) -> u64 {
    let (a, b) = (a as i32, b as i32);
    if b == 0 { a as u64 } else { a.wrapping_rem(b) as u64 }
}

/// `remuw`
#[inline(always)]
pub const fn remuw(a: u64, b: u64) -> u64 {
    let (a, b) = (a as u32, b as u32);
    word(if b == 0 { a } else { a % b })
}

/// `orc.b`: each byte becomes all ones unless it is zero.
#[inline(always)]
pub const fn orc_b(value: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let any = value | value >> 4 & 0x0f0f_0f0f_0f0f_0f0f;
    let any = any | any >> 2 & 0x3333_3333_3333_3333;
    let any = any | any >> 1 & 0x5555_5555_5555_5555;
    (any & LOW) * 0xff
}

/// The 127-bit carry-less product.
const fn carryless(a: u64, b: u64) -> u128 {
    let mut product = 0;
    let mut i = 0;
    while i < 64 {
        if b >> i & 1 != 0 {
            product ^= (a as u128) << i;
        }
        i += 1;
    }
    product
}

/// `clmul`: the low half of the carry-less product.
pub const fn clmul(a: u64, b: u64) -> u64 {
    carryless(a, b) as u64
}

/// `clmulh`: the high half.
pub const fn clmulh(a: u64, b: u64) -> u64 {
    (carryless(a, b) >> 64) as u64
}

/// `clmulr`: bits 126 to 63.
pub const fn clmulr(a: u64, b: u64) -> u64 {
    (carryless(a, b) >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u64 = i64::MIN as u64;

    #[test]
    fn division_by_zero_and_overflow_give_the_manuals_values() {
        assert_eq!((div(7, 0), divu(7, 0), rem(7, 0), remu(7, 0)), (u64::MAX, u64::MAX, 7, 7));
        assert_eq!((div(MIN, u64::MAX), rem(MIN, u64::MAX)), (MIN, 0));
        let minw = word(1 << 31);
        assert_eq!((divw(minw, u64::MAX), remw(minw, u64::MAX)), (minw, 0));
        assert_eq!((divw(minw, 0), divuw(minw, 0)), (u64::MAX, u64::MAX));
        assert_eq!((remw(minw, 0), remuw(minw, 0)), (minw, minw));
    }

    #[test]
    fn high_products_respect_signs() {
        assert_eq!(mulh(u64::MAX, u64::MAX), 0);
        assert_eq!(mulhu(u64::MAX, u64::MAX), u64::MAX - 1);
        assert_eq!(mulhsu(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(mulhsu(2, 1 << 63), 1);
    }

    #[test]
    fn orc_b_spreads_any_bit_over_its_byte() {
        for bit in 0..64 {
            assert_eq!(orc_b(1 << bit), 0xff << (bit / 8 * 8));
        }
        assert_eq!(orc_b(0), 0);
        assert_eq!(orc_b(0x8001_0000_1000_00ff), 0xffff_0000_ff00_00ff);
    }

    #[test]
    fn carryless_products_overlap_by_a_bit() {
        let (a, b) = (0x8000_0000_0000_0003, 0xc000_0000_0000_0001);
        assert_eq!(clmulr(a, b), clmulh(a, b) << 1 | clmul(a, b) >> 63);
        assert_eq!((clmul(3, 3), clmulh(3, 3)), (5, 0));
        assert_eq!(clmulh(1 << 63, 1 << 63), 1 << 62);
    }
}
