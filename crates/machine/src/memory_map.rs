//! The board's memory map and interrupt numbers: those of QEMU's `virt` machine, so that kernels and firmware
//! built for it run unmodified.

use rvisor_devices::{aclint, finisher, plic, rtc, uart};
use rvisor_waist::GuestPhysical;

/// Where a device stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// First byte.
    pub base: GuestPhysical,
    /// Bytes.
    pub size: u64,
}

const fn window(base: u64, size: u64) -> Window {
    Window { base: GuestPhysical(base), size }
}

/// Test finisher.
pub const FINISHER: Window = window(0x10_0000, finisher::SIZE);
/// Real-time clock.
pub const RTC: Window = window(0x10_1000, rtc::SIZE);
/// MSWI and MTIMER together, as the SiFive CLINT lays them out.
pub const CLINT: Window = window(0x200_0000, 0x1_0000);
/// Machine-level software interrupts, at the start of [`CLINT`].
pub const MSWI: Window = window(0x200_0000, aclint::MSWI_SIZE);
/// Machine-level timers, in [`CLINT`].
pub const MTIMER: Window = window(0x200_0000 + aclint::MTIMER_OFFSET, aclint::MTIMER_SIZE);
/// Supervisor-level software interrupts.
pub const SSWI: Window = window(0x2f0_0000, aclint::SSWI_SIZE);
/// Interrupt controller.
pub const PLIC: Window = window(0xc00_0000, plic::SIZE);
/// Serial line.
pub const UART: Window = window(0x1000_0000, uart::SIZE);
/// First of [`VIRTIO_SLOTS`] virtio-mmio transports; each follows the one before.
pub const VIRTIO: Window = window(0x1000_1000, 0x1000);
/// First byte of RAM.
pub const RAM_BASE: GuestPhysical = GuestPhysical(0x8000_0000);

/// Number of virtio-mmio transports.
pub const VIRTIO_SLOTS: u32 = 8;

/// PLIC source of the UART.
pub const UART_IRQ: u32 = 10;
/// PLIC source of the real-time clock.
pub const RTC_IRQ: u32 = 11;

/// Where virtio-mmio transport `slot` stands.
#[must_use]
pub const fn virtio(slot: u32) -> Window {
    Window { base: VIRTIO.base.offset(slot as u64 * VIRTIO.size), size: VIRTIO.size }
}

/// PLIC source of virtio-mmio transport `slot`.
#[must_use]
pub const fn virtio_irq(slot: u32) -> u32 {
    1 + slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap() {
        let mut windows = alloc::vec![FINISHER, RTC, MSWI, MTIMER, SSWI, PLIC, UART];
        windows.extend((0..VIRTIO_SLOTS).map(virtio));
        windows.push(window(RAM_BASE.0, 0));
        windows.sort_by_key(|window| window.base);
        for pair in windows.windows(2) {
            assert!(pair[0].base.offset(pair[0].size) <= pair[1].base, "{pair:?}");
        }
    }

    #[test]
    fn clint_window_holds_both_of_its_devices() {
        assert_eq!(MSWI.base, CLINT.base);
        assert!(MTIMER.base.offset(MTIMER.size) <= CLINT.base.offset(CLINT.size));
    }
}
