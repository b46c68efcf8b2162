//! `mcycle` and `minstret`: views of the number of retired instructions.

/// A counter that runs with the retired instructions, or stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    /// The value is this much more than the number of retired instructions.
    Running(u64),
    /// `mcountinhibit` holds it at this value.
    Held(u64),
}

impl Default for Counter {
    fn default() -> Self {
        Self::Running(0)
    }
}

impl Counter {
    /// The value after `retired` instructions.
    pub fn value(self, retired: u64) -> u64 {
        match self {
            Self::Running(offset) => retired.wrapping_add(offset),
            Self::Held(value) => value,
        }
    }

    /// Sets the value that the next instruction sees: the one that writes isn't counted.
    pub fn write(&mut self, value: u64, retired: u64) {
        match self {
            Self::Running(offset) => *offset = value.wrapping_sub(retired.wrapping_add(1)),
            Self::Held(held) => *held = value,
        }
    }

    /// Stops or starts it, from the next instruction on.
    pub fn inhibit(&mut self, inhibit: bool, retired: u64) {
        let next = retired.wrapping_add(1);
        *self = match (*self, inhibit) {
            (Self::Running(offset), true) => Self::Held(next.wrapping_add(offset)),
            (Self::Held(value), false) => Self::Running(value.wrapping_sub(next)),
            (same, _) => same,
        };
    }
}
