//! Timers and device interrupts on one hart.

use guest_runtime::board::{self, TICKS_PER_MILLISECOND, set_deadline, ticks};
use guest_runtime::csr::{
    self, INTERRUPT, MACHINE_EXTERNAL, MACHINE_SOFTWARE, MACHINE_TIMER, SUPERVISOR_SOFTWARE,
};
use guest_runtime::probe::take_interrupt;

use crate::Check;

pub const CHECKS: &[Check] = &[
    ("time goes on and agrees with mtime", time_goes_on_and_agrees_with_mtime),
    ("timer interrupts at its deadline", timer_interrupts_at_its_deadline),
    ("timer in the future is not pending", timer_in_the_future_is_not_pending),
    ("software interrupt of the own hart", software_interrupt_of_the_own_hart),
    ("supervisor software interrupt is an edge", supervisor_software_interrupt_is_an_edge),
    ("uart interrupts through the plic", uart_interrupts_through_the_plic),
    ("uart loops back", uart_loops_back),
    ("rtc shows a time and fires its alarm", rtc_shows_a_time_and_fires_its_alarm),
];

const UART_SOURCE: usize = 10;
const RTC_SOURCE: usize = 11;
const NEVER: u64 = u64::MAX;

fn load<T>(address: usize) -> T {
    // SAFETY: registers of devices, whose side effects are wanted.
    unsafe { (address as *const T).read_volatile() }
}

fn store<T>(address: usize, value: T) {
    // SAFETY: registers of devices, whose side effects are wanted.
    unsafe { (address as *mut T).write_volatile(value) };
}

/// Waits for one of the enabled interrupts, a second at most; its number.
fn next_interrupt(enabled: u64) -> u64 {
    if enabled & 1 << MACHINE_TIMER == 0 {
        set_deadline(0, ticks() + 1000 * TICKS_PER_MILLISECOND);
    }
    csr::write!("mie", enabled | 1 << MACHINE_TIMER);
    let trap = take_interrupt();
    csr::write!("mie", 0);
    set_deadline(0, NEVER);
    trap.cause & !INTERRUPT
}

fn is_pending(number: u64) -> bool {
    csr::read!("mip") & 1 << number != 0
}

fn time_goes_on_and_agrees_with_mtime() -> bool {
    let before = ticks();
    let time = csr::read!("time");
    let after = ticks();
    while ticks() == after {}
    before <= time && time <= after
}

fn timer_interrupts_at_its_deadline() -> bool {
    let deadline = ticks() + 5 * TICKS_PER_MILLISECOND;
    set_deadline(0, deadline);
    next_interrupt(1 << MACHINE_TIMER) == MACHINE_TIMER && ticks() >= deadline
}

fn timer_in_the_future_is_not_pending() -> bool {
    set_deadline(0, NEVER);
    !is_pending(MACHINE_TIMER)
}

fn software_interrupt_of_the_own_hart() -> bool {
    store(board::MSWI, 1u32);
    let taken = next_interrupt(1 << MACHINE_SOFTWARE) == MACHINE_SOFTWARE;
    store(board::MSWI, 0u32);
    taken && !is_pending(MACHINE_SOFTWARE)
}

fn supervisor_software_interrupt_is_an_edge() -> bool {
    store(board::SSWI, 1u32);
    let raised = is_pending(SUPERVISOR_SOFTWARE);
    csr::write!("mip", 0);
    raised && !is_pending(SUPERVISOR_SOFTWARE) && load::<u32>(board::SSWI) == 0
}

/// Lets the PLIC forward a source to hart 0 in M-mode, its context 0.
fn enable_source(source: usize, enabled: bool) {
    store(board::PLIC + 4 * source, 1u32);
    store(board::PLIC + 0x2000, u32::from(enabled) << source);
    store(board::PLIC + 0x20_0000, 0u32);
}

const CLAIM: usize = board::PLIC + 0x20_0004;

/// Takes one external interrupt and returns its source, which `quiet` must silence.
fn next_source(quiet: impl FnOnce()) -> usize {
    if next_interrupt(1 << MACHINE_EXTERNAL) != MACHINE_EXTERNAL {
        return 0;
    }
    let source: u32 = load(CLAIM);
    quiet();
    store(CLAIM, source);
    source as usize
}

fn uart_interrupts_through_the_plic() -> bool {
    enable_source(UART_SOURCE, true);
    // The transmitter is empty, which is worth an interrupt.
    store(board::UART + 1, 2u8);
    let source = next_source(|| store(board::UART + 1, 0u8));
    enable_source(UART_SOURCE, false);
    source == UART_SOURCE && load::<u32>(CLAIM) == 0 && !is_pending(MACHINE_EXTERNAL)
}

fn uart_loops_back() -> bool {
    const LOOPBACK: u8 = 1 << 4;
    store(board::UART + 4, LOOPBACK);
    // What was typed before.
    while load::<u8>(board::UART + 5) & 1 != 0 {
        load::<u8>(board::UART);
    }
    store(board::UART, b'x');
    let ready = load::<u8>(board::UART + 5) & 1 != 0;
    let received: u8 = load(board::UART);
    store(board::UART + 4, 0u8);
    ready && received == b'x'
}

fn rtc_shows_a_time_and_fires_its_alarm() -> bool {
    const YEAR_2020: u64 = 1_577_836_800_000_000_000;
    let low: u32 = load(board::RTC);
    let high: u32 = load(board::RTC + 4);
    let now = u64::from(high) << 32 | u64::from(low);
    enable_source(RTC_SOURCE, true);
    let alarm = now + 10_000_000;
    store(board::RTC + 0x10, 1u32);
    store(board::RTC + 0xc, (alarm >> 32) as u32);
    store(board::RTC + 0x8, alarm as u32);
    let source = next_source(|| store(board::RTC + 0x1c, 1u32));
    store(board::RTC + 0x10, 0u32);
    enable_source(RTC_SOURCE, false);
    now > YEAR_2020 && source == RTC_SOURCE
}
