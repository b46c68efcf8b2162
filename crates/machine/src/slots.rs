//! Which virtio devices a machine has, and in which slots: the same in all homes, so that a machine that was saved in one
//! finds its devices in another.

use alloc::string::String;
use alloc::vec::Vec;

use rvisor_virtio::saved::SavedDevice;
use thiserror::Error;

pub use rvisor_virtio::saved::SavedPort;

/// The console's port on which a host talks to the agent in its guest. In a home without such a host, nobody answers.
pub const AGENT_PORT: &str = "org.rvisor.agent";

/// Types of virtio devices. A machine's devices take slots in this order, so that guests number disks from the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SlotKind {
    /// A disk.
    Disk,
    /// A network card.
    Network,
    /// The console with its ports.
    Console,
    /// Entropy.
    Entropy,
    /// Shared directories.
    Shares,
    /// The memory balloon.
    Balloon,
}

/// Every type with its device id (Virtio 1.3, "Device Types") and its name in messages.
const KINDS: [(SlotKind, u32, &str); 6] = [
    (SlotKind::Disk, 2, "a disk"),
    (SlotKind::Network, 1, "a network card"),
    (SlotKind::Console, 3, "a console"),
    (SlotKind::Entropy, 4, "an entropy device"),
    (SlotKind::Shares, 9, "shared directories"),
    (SlotKind::Balloon, 5, "a balloon"),
];

impl SlotKind {
    fn of(id: u32) -> Option<Self> {
        KINDS.iter().find(|(_, known, _)| *known == id).map(|(kind, ..)| *kind)
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("a device", |(.., name)| name)
    }
}

/// Puts devices into the order of their slots.
#[must_use]
pub fn in_order<T>(mut devices: Vec<(SlotKind, T)>) -> Vec<T> {
    devices.sort_by_key(|(kind, _)| *kind);
    devices.into_iter().map(|(_, device)| device).collect()
}

/// Why a machine's devices aren't those of the type-1 home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SlotError {
    /// Shared directories, or a type that isn't known.
    #[error("it has {} in virtio slot {slot}, which the type-1 home hasn't; {}", kind.map_or("an unknown device", SlotKind::name),
        if *kind == Some(SlotKind::Shares) { "start it without --volume" } else { "save a machine without it" })]
    Missing {
        /// Which slot, from 0.
        slot: usize,
        /// What is there.
        kind: Option<SlotKind>,
    },
    /// More of a type than one.
    #[error("it has {} in virtio slot {slot} too; in the type-1 home a guest has one", kind.name())]
    Second {
        /// Which slot, from 0.
        slot: usize,
        /// What is there.
        kind: SlotKind,
    },
}

/// The devices of a guest in the type-1 home.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MetalSlots {
    /// Whether it has a disk.
    pub disk: bool,
    /// Its network card's address, if it has one.
    pub network: Option<[u8; 6]>,
    /// The ports of its console, if it has one.
    pub console: Option<Vec<SavedPort>>,
    /// Whether it has an entropy device.
    pub entropy: bool,
    /// Whether it has a balloon.
    pub balloon: bool,
}

impl MetalSlots {
    /// What a guest has that begins there.
    #[must_use]
    pub fn fresh(disk: bool, network: Option<[u8; 6]>, entropy: bool) -> Self {
        let agent = SavedPort { name: String::from(AGENT_PORT), is_open: true };
        Self { disk, network, console: Some(alloc::vec![agent]), entropy, balloon: false }
    }

    /// What a guest has that goes on from a state with these devices, by slot.
    ///
    /// # Errors
    /// If the type-1 home hasn't got them.
    pub fn of(saved: &[SavedDevice]) -> Result<Self, SlotError> {
        let mut slots = Self::default();
        for (slot, device) in saved.iter().enumerate().filter(|(_, device)| device.id != 0) {
            let kind = SlotKind::of(device.id);
            let missing = SlotError::Missing { slot, kind };
            let kind = kind.ok_or(missing)?;
            let is_second = match kind {
                SlotKind::Disk => core::mem::replace(&mut slots.disk, true),
                SlotKind::Network => slots.network.replace(device.mac.unwrap_or_default()).is_some(),
                SlotKind::Console => slots.console.replace(device.ports.clone()).is_some(),
                SlotKind::Entropy => core::mem::replace(&mut slots.entropy, true),
                SlotKind::Shares => return Err(missing),
                SlotKind::Balloon => core::mem::replace(&mut slots.balloon, true),
            };
            if is_second {
                return Err(SlotError::Second { slot, kind });
            }
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: u32) -> SavedDevice {
        SavedDevice { id, mac: None, ports: Vec::new() }
    }

    #[test]
    fn devices_of_a_hosted_machine_fit() {
        let port = SavedPort { name: AGENT_PORT.into(), is_open: true };
        let saved = [
            device(2),
            SavedDevice { mac: Some([2; 6]), ..device(1) },
            SavedDevice { ports: alloc::vec![port], ..device(3) },
            device(4),
            device(5),
            device(0),
        ];
        let slots = MetalSlots::of(&saved).unwrap();
        assert_eq!(slots, MetalSlots { balloon: true, ..MetalSlots::fresh(true, Some([2; 6]), true) });
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_slot() {
        let error = |ids: &[u32]| {
            let saved: Vec<_> = ids.iter().map(|id| device(*id)).collect();
            alloc::format!("{}", MetalSlots::of(&saved).unwrap_err())
        };
        assert!(error(&[4, 9]).contains("shared directories in virtio slot 1"));
        assert!(error(&[9]).contains("--volume"));
        assert!(error(&[2, 2]).contains("a disk in virtio slot 1 too"));
        assert!(error(&[77]).contains("an unknown device in virtio slot 0"));
    }

    #[test]
    fn slots_have_one_order() {
        let devices = alloc::vec![
            (SlotKind::Balloon, 5),
            (SlotKind::Disk, 1),
            (SlotKind::Entropy, 3),
            (SlotKind::Disk, 2)
        ];
        assert_eq!(in_order(devices), [1, 2, 3, 5]);
    }
}
