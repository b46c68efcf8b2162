//! Where the two parts of a block's code stand.
//!
//! Half of all code is rarely executed: what accesses do that the TLB doesn't answer, jumps that aren't linked
//! yet, ends of slices. It stands apart from the rest, so that it takes no room in the host's caches.

/// Both parts start at multiples of it.
pub const ALIGNMENT: usize = 8;

/// Addresses of the code of a block, which counts its bytes as if its parts stood together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Placement {
    /// Of the first byte.
    pub hot: u64,
    /// Of the first byte of the cold part.
    pub cold: u64,
    /// Where the cold part starts, from the start of the code.
    pub split: u32,
}

impl Placement {
    /// Of a byte, from the start of the code.
    pub const fn address(&self, at: u32) -> u64 {
        match at.checked_sub(self.split) {
            None => self.hot + at as u64,
            Some(at) => self.cold + at as u64,
        }
    }

    /// How much farther away the cold part stands than right behind the other, modulo 2³².
    pub const fn gap(&self) -> u32 {
        self.cold.wrapping_sub(self.hot).wrapping_sub(self.split as u64) as u32
    }
}

/// Changes displacements from one part to the other, at `crossings`, as if the cold part, which starts at `split`,
/// were moved away by `bytes`.
pub fn move_apart(code: &mut [u8], split: u32, crossings: impl Iterator<Item = u32>, bytes: u32) {
    for at in crossings {
        let Some(place) = code.get_mut(at as usize..).and_then(|rest| rest.first_chunk_mut::<4>()) else {
            continue;
        };
        let more = if at < split { bytes } else { bytes.wrapping_neg() };
        *place = u32::from_le_bytes(*place).wrapping_add(more).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_in_the_part_that_they_belong_to() {
        let placement = Placement { hot: 0x1000, cold: 0x8000, split: 0x20 };
        assert_eq!([0, 0x1f, 0x20, 0x24].map(|at| placement.address(at)), [0x1000, 0x101f, 0x8000, 0x8004]);
        assert_eq!(placement.gap(), 0x7000 - 0x20);
        assert_eq!(Placement { hot: 0x8000, cold: 0x1000, split: 0 }.gap(), 0x7000u32.wrapping_neg());
    }

    #[test]
    fn only_displacements_between_the_parts_change_and_change_back() {
        let mut code: Vec<u8> = (0..12).collect();
        move_apart(&mut code, 8, [0, 8].into_iter(), 0x100);
        assert_eq!(code, [0, 2, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11]);
        move_apart(&mut code, 8, [0, 8].into_iter(), 0x100u32.wrapping_neg());
        assert_eq!(code, (0..12).collect::<Vec<u8>>());
    }
}
