//! The physical console: that of the firmware.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::layout::IMAGE_BASE;
use super::sbi;
use crate::address::MachineAddress;

const BUFFER: usize = 256;

/// What the firmware reads and writes: a static, whose machine address is known.
static TRANSFER: Mutex<[u8; BUFFER]> = Mutex::new([0; BUFFER]);
/// Machine address of the image.
static LOADED_AT: AtomicU64 = AtomicU64::new(0);

/// Tells where the image is, and finds out what console there is.
pub fn init(loaded_at: MachineAddress) {
    LOADED_AT.store(loaded_at.0, Ordering::Relaxed);
    sbi::probe();
}

fn machine_address(buffer: &[u8; BUFFER]) -> MachineAddress {
    MachineAddress(buffer.as_ptr() as u64 - IMAGE_BASE + LOADED_AT.load(Ordering::Relaxed))
}

/// Prints bytes, all of them.
pub fn write(bytes: &[u8]) {
    let mut buffer = TRANSFER.lock();
    if !sbi::has_debug_console() {
        bytes.iter().for_each(|byte| sbi::console_put(*byte));
        return;
    }
    for chunk in bytes.chunks(BUFFER) {
        buffer[..chunk.len()].copy_from_slice(chunk);
        let mut done = 0;
        while done < chunk.len() {
            // The firmware may take less than it is given where its device is slow.
            done += sbi::console_write(machine_address(&buffer).offset(done as u64), chunk.len() - done);
        }
    }
}

/// Reads what was typed, up to the length of `bytes`.
pub fn read(bytes: &mut [u8]) -> usize {
    let mut buffer = TRANSFER.lock();
    if !sbi::has_debug_console() {
        return match (sbi::console_get(), bytes.first_mut()) {
            (Some(byte), Some(first)) => {
                *first = byte;
                1
            }
            _ => 0,
        };
    }
    let length = bytes.len().min(BUFFER);
    let address = machine_address(&buffer);
    // SAFETY: the buffer is locked, and has that length.
    let count = unsafe { sbi::console_read(address, length) };
    bytes[..count].copy_from_slice(&(&mut *buffer)[..count]);
    count
}

/// Prints a line.
pub fn line(text: &str) {
    write(text.as_bytes());
    write(b"\r\n");
}

/// For the monitor's last lines.
pub struct Line;

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// After a panic: whoever held the lock won't let it go.
pub fn release() {
    if TRANSFER.is_locked() {
        // SAFETY: the monitor is about to end; a torn line is the worst.
        unsafe { TRANSFER.force_unlock() };
    }
}
