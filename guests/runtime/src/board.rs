//! The board's memory map (that of QEMU's `virt`), as far as guests use it.

/// Test finisher.
pub const FINISHER: usize = 0x10_0000;
/// Real-time clock.
pub const RTC: usize = 0x10_1000;
/// MSIP register of hart 0.
pub const MSWI: usize = 0x200_0000;
/// MTIMECMP register of hart 0.
pub const MTIMECMP: usize = 0x200_4000;
/// MTIME.
pub const MTIME: usize = 0x200_bff8;
/// SETSSIP register of hart 0.
pub const SSWI: usize = 0x2f0_0000;
/// Interrupt controller.
pub const PLIC: usize = 0xc00_0000;
/// Serial line.
pub const UART: usize = 0x1000_0000;
/// First virtio-mmio transport.
pub const VIRTIO: usize = 0x1000_1000;
/// Number of virtio-mmio transports, one page each.
pub const VIRTIO_SLOTS: usize = 8;
/// First byte of RAM.
pub const RAM: usize = 0x8000_0000;

/// Ticks of `mtime` in a millisecond.
pub const TICKS_PER_MILLISECOND: u64 = 10_000;

/// Every device: name, base, bytes.
pub const DEVICES: [(&str, usize, usize); 8] = [
    ("finisher", FINISHER, 0x1000),
    ("rtc", RTC, 0x1000),
    ("mswi", MSWI, 0x4000),
    ("mtimer", MTIMECMP, 0x8000),
    ("sswi", SSWI, 0x4000),
    ("plic", PLIC, 0x60_0000),
    ("uart", UART, 0x100),
    ("virtio", VIRTIO, 0x1000 * VIRTIO_SLOTS),
];

/// The time counter.
pub fn ticks() -> u64 {
    // SAFETY: reading MTIME has no effect.
    unsafe { (MTIME as *const u64).read_volatile() }
}

/// Sets when the hart's machine timer goes off.
pub fn set_deadline(hart: usize, deadline: u64) {
    // SAFETY: MTIMECMP raises an interrupt at most.
    unsafe { (MTIMECMP as *mut u64).add(hart).write_volatile(deadline) };
}

/// The first address above RAM, found by trying.
pub fn ram_end() -> usize {
    const STEP: usize = 1 << 20;
    // SAFETY: loads of RAM have no effect, others trap.
    let is_ram =
        |address: &usize| unsafe { crate::probe::load(*address, crate::probe::Width::Double) }.is_ok();
    (0..).map(|index| RAM + STEP * index).find(|address| !is_ram(address)).unwrap_or(RAM)
}
