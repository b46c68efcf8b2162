//! XXH64 with seed 0: the checksum of a bundle's pieces. The type-1 home computes it before it starts a guest, over tens of
//! megabytes, on hardware that may have neither vectors nor loads at any address: so it takes aligned words where
//! there are some. It finds damage, not forgery.
//!
//! Source: the xxHash specification, "XXH64 algorithm description", version 0.1.1.

use zerocopy::FromBytes;

const PRIMES: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];
/// Bytes that the four lanes take at once.
const STRIPE: usize = 32;

/// The checksum of `bytes`.
#[must_use]
pub fn xxh64(bytes: &[u8]) -> u64 {
    let (stripes, rest) = bytes.split_at(bytes.len() - bytes.len() % STRIPE);
    let start = if stripes.is_empty() {
        PRIMES[4]
    } else {
        // A slice of words where the bytes are aligned like words.
        match <[[u64; 4]]>::ref_from_bytes(stripes) {
            Ok(stripes) => converge(stripes.iter().map(|stripe| stripe.map(u64::from_le))),
            Err(_) => converge(
                stripes
                    .chunks_exact(STRIPE)
                    .map(|stripe| core::array::from_fn(|lane| word(&stripe[8 * lane..]))),
            ),
        }
    };
    avalanche(finish(start.wrapping_add(bytes.len() as u64), rest))
}

/// The little-endian word that `bytes` begin with.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(word)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIMES[1])).rotate_left(31).wrapping_mul(PRIMES[0])
}

fn converge(stripes: impl Iterator<Item = [u64; 4]>) -> u64 {
    let mut lanes = [PRIMES[0].wrapping_add(PRIMES[1]), PRIMES[1], 0, 0u64.wrapping_sub(PRIMES[0])];
    for stripe in stripes {
        for (lane, word) in lanes.iter_mut().zip(stripe) {
            *lane = round(*lane, word);
        }
    }
    let rotated = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, bits)| lane.rotate_left(bits));
    let sum = rotated.fold(0, u64::wrapping_add);
    lanes
        .iter()
        .fold(sum, |sum, lane| (sum ^ round(0, *lane)).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]))
}

/// What is left of the bytes, less than a stripe.
fn finish(mut sum: u64, rest: &[u8]) -> u64 {
    let (words, rest) = rest.split_at(rest.len() & !7);
    for bytes in words.chunks_exact(8) {
        sum = (sum ^ round(0, word(bytes))).rotate_left(27).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]);
    }
    let (half, rest) = rest.split_at(rest.len() & !3);
    if let Ok(half) = <[u8; 4]>::try_from(half) {
        let half = u64::from(u32::from_le_bytes(half)).wrapping_mul(PRIMES[0]);
        sum = (sum ^ half).rotate_left(23).wrapping_mul(PRIMES[1]).wrapping_add(PRIMES[2]);
    }
    for byte in rest {
        sum = (sum ^ u64::from(*byte).wrapping_mul(PRIMES[4])).rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    sum
}

fn avalanche(mut sum: u64) -> u64 {
    sum = (sum ^ sum >> 33).wrapping_mul(PRIMES[1]);
    sum = (sum ^ sum >> 29).wrapping_mul(PRIMES[2]);
    sum ^ sum >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_another_implementation_computes_at_any_length_and_alignment() {
        let bytes: [u8; 300] = core::array::from_fn(|at| (at * at / 3 + 7 * at) as u8);
        for start in 0..9 {
            for end in start..bytes.len() {
                let piece = &bytes[start..end];
                assert_eq!(xxh64(piece), twox_hash::XxHash64::oneshot(0, piece), "{start}..{end}");
            }
        }
    }
}
