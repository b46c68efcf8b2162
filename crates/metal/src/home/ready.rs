//! Guests' devices whose back ends have something for them.

use core::sync::atomic::{AtomicU64, Ordering};

use super::READY;
use crate::backend::Served;

const DEVICES: [Served; 3] = [Served::Disk, Served::Network, Served::Console];

/// A bit for each guest and device.
pub struct ReadyDevices([AtomicU64; DEVICES.len()]);

/// Says that a guest's device is to look; done before the hart that calls this enters a guest again.
pub fn device_ready(guest: usize, device: Served) {
    READY.0[device as usize].fetch_or(1 << guest, Ordering::SeqCst);
}

impl ReadyDevices {
    /// None.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; DEVICES.len()])
    }

    /// Whether there are some.
    pub fn any(&self) -> bool {
        self.0.iter().any(|guests| guests.load(Ordering::SeqCst) != 0)
    }

    /// Gives each to `look`, and keeps those that it couldn't look at.
    pub fn take(&self, look: impl Fn(usize, Served) -> bool) {
        for (guests, device) in self.0.iter().zip(DEVICES) {
            let taken = match guests.load(Ordering::SeqCst) {
                0 => continue,
                _ => guests.swap(0, Ordering::SeqCst),
            };
            for guest in (0..64).filter(|guest| taken >> guest & 1 == 1) {
                if !look(guest, device) {
                    guests.fetch_or(1 << guest, Ordering::SeqCst);
                }
            }
        }
    }
}
