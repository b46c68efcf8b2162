//! Starting, stopping and suspending harts (chapters "Hart State Management Extension" and "System Suspend
//! Extension").

use rvisor_waist::{GuestMemory, GuestPhysical};

use super::{Call, Error, Outcome};
use crate::signals::{Entry, HartState};
use crate::{VirtualHart, Vm};

/// Suspend types (table "HSM Hart Suspend Types"): the default ones.
const RETENTIVE: u32 = 0;
const NON_RETENTIVE: u32 = 0x8000_0000;

pub(super) fn hart_state<M: GuestMemory>(call: &Call, hart: &mut VirtualHart, vm: &Vm<M>) -> Outcome {
    const START: u64 = 0;
    const STOP: u64 = 1;
    const STATUS: u64 = 2;
    const SUSPEND: u64 = 3;
    let [a0, a1, a2, ..] = call.arguments;
    match call.function {
        START => Outcome::Return(start(vm, a0, a1, a2)),
        STOP => {
            hart.signals.update_state(|_| Some(HartState::Stopped));
            Outcome::Away
        }
        STATUS => Outcome::Return(status(vm, a0)),
        SUSPEND => suspend(hart, vm, a0 as u32, a1, a2),
        _ => Outcome::Return(Err(Error::NotSupported)),
    }
}

fn start<M: GuestMemory>(vm: &Vm<M>, id: u64, address: u64, opaque: u64) -> Result<u64, Error> {
    let target = usize::try_from(id).ok().and_then(|id| vm.harts().get(id)).ok_or(Error::InvalidParameter)?;
    check_entry(vm, address)?;
    let mut refused = Error::AlreadyAvailable;
    let started = target.update_state(|state| match state {
        HartState::Stopped => Some(HartState::StartPending(Entry { address, opaque })),
        HartState::Started | HartState::StartPending(_) => None,
        HartState::Suspended { .. } => {
            refused = Error::InvalidParameter;
            None
        }
    });
    if started { Ok(0) } else { Err(refused) }
}

/// Table "HSM Hart States".
fn status<M: GuestMemory>(vm: &Vm<M>, id: u64) -> Result<u64, Error> {
    let target = usize::try_from(id).ok().and_then(|id| vm.harts().get(id)).ok_or(Error::InvalidParameter)?;
    Ok(match target.state() {
        HartState::Started => 0,
        HartState::Stopped => 1,
        HartState::StartPending(_) => 2,
        HartState::Suspended { .. } => 4,
    })
}

fn suspend<M: GuestMemory>(
    hart: &mut VirtualHart,
    vm: &Vm<M>,
    kind: u32,
    address: u64,
    opaque: u64,
) -> Outcome {
    match kind {
        RETENTIVE => {
            hart.signals.update_state(|_| Some(HartState::Suspended { resume: None }));
            Outcome::Return(Ok(0))
        }
        NON_RETENTIVE => match check_entry(vm, address) {
            Ok(()) => go_away(hart, Entry { address, opaque }),
            Err(error) => Outcome::Return(Err(error)),
        },
        // Reserved and platform-specific types.
        _ => Outcome::Return(Err(Error::InvalidParameter)),
    }
}

pub(super) fn system_suspend<M: GuestMemory>(call: &Call, hart: &mut VirtualHart, vm: &Vm<M>) -> Outcome {
    const SUSPEND_TO_RAM: u32 = 0;
    let [kind, address, opaque, ..] = call.arguments;
    if kind as u32 != SUSPEND_TO_RAM {
        return Outcome::Return(Err(Error::InvalidParameter));
    }
    if let Err(error) = check_entry(vm, address) {
        return Outcome::Return(Err(error));
    }
    let others_stopped = vm
        .harts()
        .iter()
        .enumerate()
        .all(|(index, other)| index == hart.index || other.state() == HartState::Stopped);
    if !others_stopped {
        return Outcome::Return(Err(Error::Denied));
    }
    go_away(hart, Entry { address, opaque })
}

fn go_away(hart: &mut VirtualHart, entry: Entry) -> Outcome {
    hart.signals.update_state(|_| Some(HartState::Suspended { resume: Some(entry) }));
    Outcome::Away
}

fn check_entry<M: GuestMemory>(vm: &Vm<M>, address: u64) -> Result<(), Error> {
    if vm.memory().range().contains(&GuestPhysical(address)) && address.is_multiple_of(2) {
        Ok(())
    } else {
        Err(Error::InvalidAddress)
    }
}
