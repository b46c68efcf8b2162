//! Debug console (chapter "Debug Console Extension") and the legacy console calls.

use rvisor_waist::{GuestMemory, GuestPhysical};

use super::{Call, Error, Outcome};
use crate::Vm;

/// Bytes moved by one call at most: a call may always do less than it was asked.
const CHUNK: usize = 4096;

pub(super) fn debug_console<M: GuestMemory>(call: &Call, vm: &Vm<M>) -> Result<u64, Error> {
    const WRITE: u64 = 0;
    const READ: u64 = 1;
    const WRITE_BYTE: u64 = 2;
    let [count, low, high, ..] = call.arguments;
    match call.function {
        WRITE | READ => {
            if high != 0 {
                return Err(Error::InvalidParameter);
            }
            let mut buffer = [0; CHUNK];
            let buffer = &mut buffer[..count.min(CHUNK as u64) as usize];
            let address = GuestPhysical(low);
            // The whole range must be memory even where only a part of it is moved.
            let ram = vm.memory().range();
            let end = low.checked_add(count).ok_or(Error::InvalidParameter)?;
            if address < ram.start || end > ram.end.0 {
                return Err(Error::InvalidParameter);
            }
            if call.function == WRITE {
                vm.memory().read(address, buffer).map_err(|_| Error::InvalidParameter)?;
                Ok(vm.console().write(buffer) as u64)
            } else {
                let length = vm.console().read(buffer);
                vm.memory().write(address, &buffer[..length]).map_err(|_| Error::InvalidParameter)?;
                Ok(length as u64)
            }
        }
        WRITE_BYTE => match vm.console().write(&[count as u8]) {
            1 => Ok(0),
            _ => Err(Error::Failed),
        },
        _ => Err(Error::NotSupported),
    }
}

pub(super) fn putchar<M: GuestMemory>(vm: &Vm<M>, byte: u64) -> Outcome {
    vm.console().write(&[byte as u8]);
    Outcome::Legacy(0)
}

pub(super) fn getchar<M: GuestMemory>(vm: &Vm<M>) -> Outcome {
    let mut byte = [0];
    Outcome::Legacy(match vm.console().read(&mut byte) {
        0 => -1,
        _ => i64::from(byte[0]),
    })
}
