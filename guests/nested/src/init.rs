//! What the program does as the first process of the virtual machine's Linux.

use crate::sys;

const GETPID: usize = 172;
const UNAME: usize = 160;
/// Bytes of each of its words.
const WORD: usize = 65;
/// Processes that are made one after the other.
const CHILDREN: u8 = 20;
/// Bytes that each of them writes to memory that it shares until then.
const TOUCHED: usize = 1 << 18;

/// Whether this is the first process.
pub fn is_init() -> bool {
    // SAFETY: the call takes nothing.
    let number = unsafe { sys::call(GETPID, [0; 6]) };
    number == Ok(1)
}

/// Shows what works, and powers off. There is no driver for a console: what is to be seen goes to the kernel's log.
pub fn run() -> ! {
    let log = sys::open(c"/dev/kmsg", sys::O_RDWR).unwrap_or(sys::Fd(2));
    let mut names = [0_u8; 6 * WORD];
    // SAFETY: the call fills six words.
    let _ = unsafe { sys::call(UNAME, [names.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) };
    // A write is a line, at a level that is shown.
    let mut line = [0; 8 + 6 * WORD];
    let mut length = 0;
    let word = |number: usize| names[number * WORD..][..WORD].split(|&byte| byte == 0).next().unwrap_or(b"");
    for piece in [b"<3>nested: up on ", word(0), b" ", word(2), b" ", word(4)] {
        line[length..length + piece.len()].copy_from_slice(piece);
        length += piece.len();
    }
    sys::write_all(log, &line[..length]);
    let passed = (1..=CHILDREN).all(has_child);
    sys::write_all(log, if passed { b"<3>nested: processes work" } else { b"<3>nested: processes fail" });
    (0..5).for_each(|_| sys::sleep(20));
    sys::write_all(log, b"<3>nested: timers work");
    loop {
        sys::power_off();
    }
}

/// Makes a process that changes memory, and looks whether it has ended as it should.
fn has_child(number: u8) -> bool {
    static mut SHARED: [u8; TOUCHED] = [0; TOUCHED];
    match sys::fork() {
        Ok(Some(process)) => sys::wait(process) == number,
        Ok(None) => {
            // SAFETY: this process has one thread, and makes no other reference.
            let memory = unsafe { &mut *(&raw mut SHARED) };
            memory.fill(number);
            let sum = memory.iter().fold(0_u8, |sum, byte| core::hint::black_box(sum.wrapping_add(*byte)));
            sys::exit(i32::from(if sum == number.wrapping_mul(TOUCHED as u8) { number } else { 255 }))
        }
        Err(_) => false,
    }
}
