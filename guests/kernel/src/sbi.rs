//! Calls of the SBI.

use core::arch::asm;

/// Makes a call: error and value.
pub fn call(extension: usize, function: usize, arguments: [usize; 3]) -> (isize, usize) {
    let (error, value);
    // SAFETY: the SBI keeps all registers but these; what the call does is what the kernel wants.
    unsafe {
        asm!("ecall", inlateout("a0") arguments[0] as isize => error, inlateout("a1") arguments[1] => value,
            in("a2") arguments[2], in("a6") function, in("a7") extension);
    }
    (error, value)
}

/// Asks for a timer interrupt.
pub fn set_timer(deadline: u64) {
    call(0x5449_4d45, 0, [deadline as usize, 0, 0]);
}

/// Sends an interrupt to a hart.
pub fn send_ipi(hart: usize) {
    call(0x73_5049, 0, [1, hart, 0]);
}

/// Starts a hart. False if there is none.
pub fn start_hart(hart: usize, entry: usize) -> bool {
    call(0x48_534d, 0, [hart, entry, 0]).0 == 0
}

/// Asks to be told of this hart's stolen time, at a physical address. False if that isn't known.
pub fn tell_stolen_time(address: usize) -> bool {
    call(0x53_5441, 0, [address, 0, 0]).0 == 0
}

/// Has other harts forget what they know of an address.
pub fn remote_fence(harts: usize, address: usize, size: usize) -> bool {
    let error: isize;
    // SAFETY: a fence.
    unsafe {
        asm!("ecall", inlateout("a0") harts as isize => error, inlateout("a1") 0usize => _, in("a2") address,
            in("a3") size, in("a6") 1usize, in("a7") 0x5246_4e43usize);
    }
    error == 0
}

/// Ends the machine.
pub fn power_off(failed: bool) -> ! {
    call(0x5352_5354, 0, [0, failed.into(), 0]);
    loop {
        // SAFETY: sleeps.
        unsafe { asm!("wfi") };
    }
}
