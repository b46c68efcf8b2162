//! A small virtual machine monitor on Linux's KVM, and the first process of the Linux that it runs: a test that a
//! machine with the hypervisor extension can do what it is for.
//!
//! `nested KERNEL` starts the kernel, with this program as its `/init`, in a virtual machine of one hart; its console
//! comes out on standard output. As `/init` it shows that processes, page faults and timers work, and powers off,
//! upon which the monitor ends with 0.
#![no_std]
#![no_main]

mod device_tree;
mod init;
mod initrd;
mod kvm;
#[allow(dead_code)] // The agent needs more.
#[path = "../../agent/src/sys.rs"]
mod sys;

use core::ffi::CStr;

use kvm::{Exit, Vm};

/// Where the virtual machine's memory begins, and how many bytes it has.
const MEMORY: u64 = 0x8000_0000;
const MEMORY_SIZE: u64 = 160 << 20;
/// Where things are in it: a kernel wants 2 MiB.
const KERNEL: u64 = 0x20_0000;
const INITRD: u64 = 128 << 20;
const DEVICE_TREE: u64 = 144 << 20;

/// Called with the words of the command line.
pub fn main(arguments: &[&CStr]) -> i32 {
    if init::is_init() {
        init::run();
    }
    let &[_, kernel] = arguments else {
        sys::say(b"usage: nested KERNEL\n");
        return 2;
    };
    match run(kernel) {
        Ok(code) => code,
        Err(what) => {
            sys::say(b"nested: ");
            sys::say(what.as_bytes());
            sys::say(b"\n");
            1
        }
    }
}

fn run(kernel: &CStr) -> Result<i32, &'static str> {
    let mut vm = Vm::new(MEMORY, MEMORY_SIZE)?;
    let memory = vm.memory();
    read_file(kernel, &mut memory[KERNEL as usize..INITRD as usize])?;
    let (size, program) = (DEVICE_TREE - INITRD, c"/proc/self/exe");
    let initrd = &mut memory[INITRD as usize..][..size as usize];
    let initrd_size = initrd::write(initrd, |room| read_file(program, room))?;
    let mut hart = vm.hart()?;
    let frequency = hart.timebase()?;
    let initrd = MEMORY + INITRD..MEMORY + INITRD + initrd_size as u64;
    let tree = &mut vm.memory()[DEVICE_TREE as usize..];
    device_tree::write(tree, &device_tree::Machine { memory: (MEMORY, MEMORY_SIZE), initrd, frequency });
    hart.start(MEMORY + KERNEL, MEMORY + DEVICE_TREE)?;
    loop {
        match hart.run()? {
            Exit::Again => {}
            Exit::Put(byte) => sys::write_all(sys::Fd(1), &[byte]),
            Exit::PutAll { address, length } => {
                let start = address.checked_sub(MEMORY).ok_or("the console's bytes are outside of memory")?;
                let bytes = vm.memory().get(start as usize..).and_then(|rest| rest.get(..length as usize));
                sys::write_all(sys::Fd(1), bytes.ok_or("the console's bytes are outside of memory")?);
            }
            Exit::PowerOff => return Ok(0),
            Exit::Reset => return Err("the virtual machine wants to be reset"),
        }
    }
}

/// Reads a whole file; how long it is.
fn read_file(path: &CStr, room: &mut [u8]) -> Result<usize, &'static str> {
    let file = sys::open(path, sys::O_CLOEXEC).map_err(|_| "a file can't be opened")?;
    let mut length = 0;
    loop {
        if length == room.len() {
            return Err("a file is too large");
        }
        match sys::read_all(file, &mut room[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(_) => return Err("a file can't be read"),
        }
    }
    sys::close(file);
    Ok(length)
}
