//! Physical memory protection (Privileged ISA, "Physical Memory Protection"): the registers and the check.
//! Granularity is 4 bytes.

use rvisor_isa::Privilege;
use rvisor_isa::csr::pmpcfg;
use rvisor_waist::{GuestPhysical, PAGE_SIZE};

use crate::mmu::Access;

/// Entries that can be configured at most.
const MOST_ENTRIES: usize = 64;
/// Bits of `pmpaddr` that exist: address bits 55:2.
const ADDRESS_BITS: u64 = (1 << 54) - 1;
/// Bits of an entry's configuration that exist.
const CONFIG_BITS: u8 = pmpcfg::R | pmpcfg::W | pmpcfg::X | pmpcfg::A | pmpcfg::L;

/// An active entry, decoded: the bytes from `first` to `last`, and its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rule {
    first: u64,
    last: u64,
    config: u8,
}

/// What the PMP allows to do with a range of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions(u8);

impl Permissions {
    const NONE: Self = Self(0);
    const ALL: Self = Self(pmpcfg::R | pmpcfg::W | pmpcfg::X);

    /// Whether the access is allowed.
    pub const fn allow(self, access: Access) -> bool {
        let needed = match access {
            Access::Load => pmpcfg::R,
            Access::Store => pmpcfg::W,
            Access::Execute => pmpcfg::X,
        };
        self.0 & needed != 0
    }
}

/// The PMP of one hart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pmp {
    entries: usize,
    config: [u8; MOST_ENTRIES],
    address: [u64; MOST_ENTRIES],
    /// The active entries in order of priority: the first `active` of these.
    rules: [Rule; MOST_ENTRIES],
    active: usize,
}

impl Pmp {
    /// A PMP with all entries off. `entries` is 64 at most.
    pub fn new(entries: usize) -> Self {
        Self {
            entries: entries.min(MOST_ENTRIES),
            config: [0; MOST_ENTRIES],
            address: [0; MOST_ENTRIES],
            rules: [Rule::default(); MOST_ENTRIES],
            active: 0,
        }
    }

    /// Allows everything to everyone, by the entry of lowest index.
    pub fn open(&mut self) {
        self.address[0] = ADDRESS_BITS;
        self.config[0] = pmpcfg::R | pmpcfg::W | pmpcfg::X | pmpcfg::NAPOT << pmpcfg::A_SHIFT;
        self.decode();
    }

    /// The value of `pmpcfg` of this index; `None` where it doesn't exist.
    pub fn config(&self, index: u16) -> Option<u64> {
        let first = self.first_entry(index)?;
        Some(self.config[first..first + 8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Writes `pmpcfg` of this index: entries that are locked keep their value; the reserved combination of W
    /// without R becomes no access at all.
    pub fn set_config(&mut self, index: u16, value: u64) {
        let Some(first) = self.first_entry(index) else { return };
        for (byte, old) in value.to_le_bytes().into_iter().zip(&mut self.config[first..first + 8]) {
            if *old & pmpcfg::L != 0 {
                continue;
            }
            let reserved = byte & (pmpcfg::R | pmpcfg::W) == pmpcfg::W;
            *old = byte & CONFIG_BITS & if reserved { !(pmpcfg::W | pmpcfg::X) } else { !0 };
        }
        self.decode();
    }

    /// The first of the eight entries that `pmpcfg` of this index configures. Odd ones don't exist in RV64.
    fn first_entry(&self, index: u16) -> Option<usize> {
        let first = usize::from(index) * 4;
        (index.is_multiple_of(2) && first + 8 <= self.entries).then_some(first)
    }

    /// The value of `pmpaddr` of this index; `None` where it doesn't exist.
    pub fn address(&self, index: u16) -> Option<u64> {
        self.address[..self.entries].get(usize::from(index)).copied()
    }

    /// Writes `pmpaddr` of this index, unless its entry is locked or is the bottom of a locked range.
    pub fn set_address(&mut self, index: u16, value: u64) {
        let index = usize::from(index);
        let is_bottom_of_locked = |config: &u8| config & pmpcfg::L != 0 && mode(*config) == pmpcfg::TOR;
        let locked = self.config[index] & pmpcfg::L != 0
            || self.config[..self.entries].get(index + 1).is_some_and(is_bottom_of_locked);
        if index < self.entries && !locked {
            self.address[index] = value & ADDRESS_BITS;
            self.decode();
        }
    }

    /// Computes the rules from the registers.
    fn decode(&mut self) {
        self.active = 0;
        for index in 0..self.entries {
            let config = self.config[index];
            let address = self.address[index];
            let bottom = if index == 0 { 0 } else { self.address[index - 1] };
            // From which word, and up to which, not included.
            let (start, end) = match mode(config) {
                pmpcfg::TOR => (bottom, address),
                pmpcfg::NA4 => (address, address + 1),
                pmpcfg::NAPOT => {
                    let size = 1 << (address.trailing_ones() + 1);
                    let start = address & !(size - 1);
                    (start, start + size)
                }
                _ => continue,
            };
            if start < end {
                self.rules[self.active] = Rule { first: start * 4, last: end * 4 - 1, config };
                self.active += 1;
            }
        }
    }

    /// What is allowed with all of `length` bytes. An entry that matches a part of them only denies all.
    pub fn permissions(&self, address: GuestPhysical, length: u64, privilege: Privilege) -> Permissions {
        self.common_permissions(address, length, privilege).unwrap_or(Permissions::NONE)
    }

    /// What is allowed with the base page around an address; `None` where that isn't the same for every byte.
    pub fn page_permissions(&self, address: GuestPhysical, privilege: Privilege) -> Option<Permissions> {
        self.common_permissions(address.page(), PAGE_SIZE, privilege)
    }

    fn common_permissions(
        &self,
        address: GuestPhysical,
        length: u64,
        privilege: Privilege,
    ) -> Option<Permissions> {
        let (first, last) = (address.0, address.0.saturating_add(length - 1));
        for rule in &self.rules[..self.active] {
            if last < rule.first || first > rule.last {
                continue;
            }
            if first < rule.first || last > rule.last {
                return None;
            }
            let binding = privilege < Privilege::Machine || rule.config & pmpcfg::L != 0;
            return Some(if binding { Permissions(rule.config) } else { Permissions::ALL });
        }
        let denied = privilege < Privilege::Machine && self.entries > 0;
        Some(if denied { Permissions::NONE } else { Permissions::ALL })
    }
}

/// The field A of an entry's configuration.
fn mode(config: u8) -> u8 {
    (config & pmpcfg::A) >> pmpcfg::A_SHIFT
}

#[cfg(test)]
mod tests;
