//! Debug console (chapter "Debug Console Extension") and the legacy console calls.

use rvisor_waist::{GuestMemory, GuestPhysical, Width};

use super::{Call, Error, Outcome};
use crate::Vm;
use crate::memory_map::UART;

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
                let length = read(vm, buffer);
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

/// Takes what was typed, as firmware does: from the UART. It may be taking it just now, and what were read past it would
/// come before what it has.
fn read<M: GuestMemory>(vm: &Vm<M>, buffer: &mut [u8]) -> usize {
    // Where another thread is using it, there is a next time.
    let _ = vm.poll(UART.base);
    buffer.iter_mut().map_while(|slot| read_uart(vm).map(|byte| *slot = byte)).count()
}

/// A byte that the UART has received, unless its driver uses it in a way that firmware couldn't.
fn read_uart<M: GuestMemory>(vm: &Vm<M>) -> Option<u8> {
    const RECEIVER: u64 = 0;
    const LINE_CONTROL: u64 = 3;
    const LINE_STATUS: u64 = 5;
    const DIVISOR_LATCH: u64 = 1 << 7;
    const DATA_READY: u64 = 1 << 0;
    let register = |offset| vm.board().read(UART.base.offset(offset), Width::Byte).ok()?.ok();
    if register(LINE_CONTROL)? & DIVISOR_LATCH != 0 || register(LINE_STATUS)? & DATA_READY == 0 {
        return None;
    }
    register(RECEIVER).map(|byte| byte as u8)
}

pub(super) fn putchar<M: GuestMemory>(vm: &Vm<M>, byte: u64) -> Outcome {
    vm.console().write(&[byte as u8]);
    Outcome::Legacy(0)
}

pub(super) fn getchar<M: GuestMemory>(vm: &Vm<M>) -> Outcome {
    let mut byte = [0];
    Outcome::Legacy(match read(vm, &mut byte) {
        0 => -1,
        _ => i64::from(byte[0]),
    })
}
