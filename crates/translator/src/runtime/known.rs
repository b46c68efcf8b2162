//! Code that a hart has used of late, by guest physical address. What is translated is in the cache that all harts share,
//! behind a lock and in large tables; most of what a hart looks for there, it has found before.

/// Entries.
const ENTRIES: usize = 1 << 15;

/// Code of a guest physical address; an address of 0 stands for none.
#[derive(Clone, Copy)]
struct Entry {
    physical: u64,
    code: u64,
}

/// Code by guest physical address, directly mapped. What was removed may be in it, as in a jump cache: the way from there
/// is known.
pub struct KnownCode(Box<[Entry]>);

impl KnownCode {
    /// Nothing. It takes host memory only where it is used.
    pub fn new() -> Self {
        // SAFETY: all zero is a value of an entry.
        Self(unsafe { Box::<[Entry]>::new_zeroed_slice(ENTRIES).assume_init() })
    }

    /// Code of other pages shall not meet at the same offset.
    fn index(physical: u64) -> usize {
        (physical >> 1 ^ physical >> 13) as usize % ENTRIES
    }

    /// The code of an address.
    pub fn find(&self, physical: u64) -> Option<u64> {
        let entry = &self.0[Self::index(physical)];
        (entry.physical == physical && physical != 0).then_some(entry.code)
    }

    /// Remembers the code of an address.
    pub fn insert(&mut self, physical: u64, code: u64) {
        self.0[Self::index(physical)] = Entry { physical, code };
    }

    /// Forgets what is known of an address.
    pub fn forget(&mut self, physical: u64) {
        let entry = &mut self.0[Self::index(physical)];
        if entry.physical == physical {
            entry.physical = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0 = Self::new().0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_known_until_it_is_forgotten_or_another_takes_its_place() {
        let mut known = KnownCode::new();
        known.insert(0x8000_1000, 7);
        assert_eq!((known.find(0x8000_1000), known.find(0x8000_1002), known.find(0)), (Some(7), None, None));
        known.forget(0x8000_1002);
        known.forget(0x8000_1000);
        assert_eq!(known.find(0x8000_1000), None);
        let other =
            (0x8000_2000..).step_by(2).find(|&at| KnownCode::index(at) == KnownCode::index(0x8000_1000));
        let other = other.expect("there are more addresses than entries");
        known.insert(0x8000_1000, 7);
        known.insert(other, 8);
        assert_eq!((known.find(0x8000_1000), known.find(other)), (None, Some(8)));
        known.clear();
        assert_eq!(known.find(other), None);
    }
}
