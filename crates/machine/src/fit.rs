//! Whether a machine that was saved can go on as a guest of the type-1 home: its builder asks before it packs one, the
//! monitor before it starts one, since bundles may come from anybody.

use rvisor_waist::StateError;
use thiserror::Error;

use crate::bundle::{BundledGuest, ConsoleDevice};
use crate::persist::SavedState;
use crate::slots::{MetalSlots, SlotError};
use crate::{Extensions, TranslationMode, VmConfig};

/// What the hardware gives to guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest mode of translation.
    pub translation: TranslationMode,
    /// Extensions that guests can use, or have emulated.
    pub extensions: Extensions,
    /// Whether there is entropy.
    pub entropy: bool,
}

impl Limits {
    /// What the best hardware gives.
    pub const ANY: Self =
        Self { translation: TranslationMode::Sv57, extensions: Extensions::ALL, entropy: true };
}

/// Why a machine can't go on there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FitError {
    /// The state makes no sense.
    #[error(transparent)]
    State(#[from] StateError),
    /// A device.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// Software in M-mode.
    #[error("its firmware runs in M-mode, which guests of the type-1 home haven't got")]
    Firmware,
    /// The H extension.
    #[error("its harts have the H extension, which guests of the type-1 home haven't got")]
    Hypervisor,
    /// Modes of translation.
    #[error(
        "its guest has addresses as of {need:?}, here they are as of {have:?} at most; save one made with --portable"
    )]
    Translation {
        /// What it has.
        need: TranslationMode,
        /// What there is.
        have: TranslationMode,
    },
    /// Another extension.
    #[error(
        "its guest may use the extension {0}, which this hardware hasn't got; save one made with --portable"
    )]
    Extension(&'static str),
    /// Entropy.
    #[error("it has an entropy device, and this hardware has none")]
    Entropy,
    /// The virtio console.
    #[error("it has no virtio console; leave console = \"virtio\" out")]
    Console,
    /// What the bundle says beside the state.
    #[error("its state has another {0} than the bundle says")]
    Bundle(&'static str),
}

/// What a machine has to be made with, to go on from this state.
///
/// # Errors
/// If it can't be made on such hardware.
pub fn fit(state: &SavedState, limits: &Limits) -> Result<(VmConfig, MetalSlots), FitError> {
    let config = state.shape()?.config;
    let slots = MetalSlots::of(&state.slots()?)?;
    if config.machine_mode {
        return Err(FitError::Firmware);
    }
    if config.hypervisor {
        return Err(FitError::Hypervisor);
    }
    let (need, have) = (config.translation, limits.translation);
    if need > have {
        return Err(FitError::Translation { need, have });
    }
    if let Some(name) = config.extensions.first_beyond(limits.extensions) {
        return Err(FitError::Extension(name));
    }
    if slots.entropy && !limits.entropy {
        return Err(FitError::Entropy);
    }
    Ok((config, slots))
}

/// The same for a guest that goes on from `state`: it is what the bundle says.
///
/// # Errors
/// If it can't be made on such hardware, or the bundle says something else.
pub fn fit_guest(
    guest: &BundledGuest<'_>,
    state: &SavedState,
    limits: &Limits,
) -> Result<(VmConfig, MetalSlots), FitError> {
    let (config, slots) = fit(state, limits)?;
    if guest.console == ConsoleDevice::Virtio && slots.console.is_none() {
        return Err(FitError::Console);
    }
    let card = guest.network.map(|network| network.mac);
    let rules = [
        (config.harts == guest.harts as usize, "number of harts"),
        (state.shape()?.memory == guest.memory, "size of memory"),
        (slots.disk == guest.disk.is_some(), "set of disks"),
        // A card that is plugged in nowhere isn't the bundle's affair.
        (card.is_none() || card == slots.network, "network address"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, what)) => Err(FitError::Bundle(what)),
        None => Ok((config, slots)),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::VirtualHart;
    use crate::bundle::{Attachment, DiskRange};
    use crate::testing::TestVm;

    fn state(machine_mode: bool) -> SavedState {
        let test = TestVm::new(2, machine_mode);
        let mut harts: Vec<_> = (0..2).map(|index| VirtualHart::new(index, &test.vm)).collect();
        let harts: Vec<_> = harts.iter_mut().map(|hart| hart.save(&test.vm).unwrap()).collect();
        test.vm.save(&harts, 0).unwrap()
    }

    #[test]
    fn hardware_that_is_too_little_is_named() {
        let state = state(false);
        assert_eq!(fit(&state, &Limits::ANY).unwrap().0.harts, 2);
        let small = Limits { translation: TranslationMode::Sv39, ..Limits::ANY };
        let error = FitError::Translation { need: TranslationMode::Sv57, have: TranslationMode::Sv39 };
        assert_eq!(fit(&state, &small).unwrap_err(), error);
        let few = Limits { extensions: Extensions::of(|name| name != "zba"), ..Limits::ANY };
        assert_eq!(fit(&state, &few).unwrap_err(), FitError::Extension("zba"));
        assert_eq!(fit(&self::state(true), &Limits::ANY).unwrap_err(), FitError::Firmware);
    }

    #[test]
    fn bundle_says_what_the_state_says() {
        let guest = BundledGuest { harts: 2, memory: 1 << 20, ..BundledGuest::new("x", b"kernel") };
        let fits = |guest| fit_guest(&guest, &state(false), &Limits::ANY).map(|_| ());
        assert_eq!(fits(guest.clone()), Ok(()));
        let other = BundledGuest { console: ConsoleDevice::Virtio, ..guest.clone() };
        assert_eq!(fits(other), Err(FitError::Console));
        for other in [
            BundledGuest { harts: 1, ..guest.clone() },
            BundledGuest { memory: 2 << 20, ..guest.clone() },
            BundledGuest { disk: Some(DiskRange { start: 0, sectors: 8, read_only: true }), ..guest.clone() },
            BundledGuest { network: Some(Attachment { network: 0, mac: [2; 6] }), ..guest },
        ] {
            assert!(matches!(fits(other), Err(FitError::Bundle(_))));
        }
    }
}
