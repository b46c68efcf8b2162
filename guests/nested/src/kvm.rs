//! KVM's system calls (Linux, Documentation/virt/kvm/api.rst), as far as they are needed here.
//!
//! # Safety
//! A virtual machine's memory and a hart's shared page are mappings of this process that are never unmapped. The
//! monitor looks at memory only while the hart doesn't run, for it has one thread.

use core::slice;

use crate::sys::{self, Fd};

const MMAP: usize = 222;
const IOCTL: usize = 29;
const READ_WRITE: usize = 3;
const SHARED: usize = 1;
const PRIVATE_ANONYMOUS: usize = 0x22;

const CREATE_VM: usize = 0xae01;
const GET_VCPU_MMAP_SIZE: usize = 0xae04;
const CREATE_VCPU: usize = 0xae41;
const SET_USER_MEMORY_REGION: usize = 0x4020_ae46;
const RUN: usize = 0xae80;
const GET_ONE_REG: usize = 0x4010_aeab;
const SET_ONE_REG: usize = 0x4010_aeac;

/// Registers of 64 bits: kinds and numbers.
const REGISTER: u64 = 0x8030_0000_0000_0000;
const CORE: u64 = REGISTER | 2 << 24;
const TIMER: u64 = REGISTER | 4 << 24;
const SBI_EXTENSION: u64 = REGISTER | 8 << 24;
const DBCN: u64 = 9;
const PC: u64 = 0;
const A0: u64 = 10;
const A1: u64 = 11;

/// Exit reasons.
const MMIO: u32 = 6;
const INTERRUPTED: u32 = 10;
const SYSTEM_EVENT: u32 = 24;
const SBI: u32 = 35;

const EINTR: sys::Error = 4;

type Result<T> = core::result::Result<T, &'static str>;

fn ioctl(fd: Fd, request: usize, argument: usize, what: &'static str) -> Result<usize> {
    // SAFETY: callers pass numbers, or pointers to what the request says.
    unsafe { sys::call(IOCTL, [fd.0 as usize, request, argument, 0, 0, 0]) }.map_err(|_| what)
}

fn map(length: u64, flags: usize, fd: i32) -> Result<*mut u8> {
    // SAFETY: a fresh mapping at an address of the kernel's choosing.
    let address = unsafe { sys::call(MMAP, [0, length as usize, READ_WRITE, flags, fd as usize, 0]) };
    address.map(|address| address as *mut u8).map_err(|_| "no memory")
}

/// A virtual machine.
pub struct Vm {
    kvm: Fd,
    vm: Fd,
    memory: *mut u8,
    size: u64,
}

impl Vm {
    /// One with so many bytes of memory.
    pub fn new(start: u64, size: u64) -> Result<Self> {
        let kvm = sys::open(c"/dev/kvm", sys::O_RDWR | sys::O_CLOEXEC).map_err(|_| "/dev/kvm can't be opened")?;
        let vm = Fd(ioctl(kvm, CREATE_VM, 0, "no virtual machine can be made")? as i32);
        let memory = map(size, PRIVATE_ANONYMOUS, -1)?;
        // Slot and flags, guest physical address, size, address here.
        let region = [0_u64, start, size, memory as u64];
        ioctl(vm, SET_USER_MEMORY_REGION, region.as_ptr() as usize, "the memory isn't taken")?;
        Ok(Self { kvm, vm, memory, size })
    }

    /// Its memory.
    pub fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has as many bytes, and the hart doesn't run now.
        unsafe { slice::from_raw_parts_mut(self.memory, self.size as usize) }
    }

    /// Its hart.
    pub fn hart(&self) -> Result<Hart> {
        let vcpu = Fd(ioctl(self.vm, CREATE_VCPU, 0, "no hart can be made")? as i32);
        let size = ioctl(self.kvm, GET_VCPU_MMAP_SIZE, 0, "the size of the shared page is unknown")?;
        Ok(Hart { vcpu, shared: map(size as u64, SHARED, vcpu.0)?.cast() })
    }
}

/// Why a hart stopped.
pub enum Exit {
    /// For nothing.
    Again,
    /// A byte for the console.
    Put(u8),
    /// Bytes for the console, in memory.
    PutAll {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// It is off.
    PowerOff,
    /// It wants to start again.
    Reset,
}

/// A hart.
pub struct Hart {
    vcpu: Fd,
    shared: *mut Shared,
}

/// The beginning of `struct kvm_run`, of which exits use the last part in their own way.
#[repr(C)]
struct Shared {
    _request: [u8; 8],
    reason: u32,
    _flags: u32,
    _s390: [u64; 2],
    exit: [u64; 10],
}

impl Hart {
    fn set(&mut self, register: u64, value: u64) -> Result<()> {
        let pair = [register, (&raw const value) as u64];
        ioctl(self.vcpu, SET_ONE_REG, pair.as_ptr() as usize, "a register can't be set").map(|_| ())
    }

    /// Ticks of `time` in a second.
    pub fn timebase(&self) -> Result<u32> {
        let mut value = 0_u64;
        let pair = [TIMER, (&raw mut value) as u64];
        ioctl(self.vcpu, GET_ONE_REG, pair.as_ptr() as usize, "the timer's frequency is unknown")?;
        Ok(value as u32)
    }

    /// Makes it stand at the kernel.
    pub fn start(&mut self, kernel: u64, device_tree: u64) -> Result<()> {
        self.set(SBI_EXTENSION | DBCN, 1)?;
        self.set(CORE | PC, kernel)?;
        self.set(CORE | A0, 0)?;
        self.set(CORE | A1, device_tree)
    }

    /// Runs it until it needs something.
    pub fn run(&mut self) -> Result<Exit> {
        // SAFETY: the call takes no pointers; what it changes of this process is the virtual machine's.
        match unsafe { sys::call(IOCTL, [self.vcpu.0 as usize, RUN, 0, 0, 0, 0]) } {
            Ok(_) => {}
            Err(EINTR) => return Ok(Exit::Again),
            Err(_) => return Err("the hart can't run"),
        }
        // SAFETY: the hart doesn't run now.
        let shared = unsafe { &mut *self.shared };
        match shared.reason {
            INTERRUPTED => Ok(Exit::Again),
            SYSTEM_EVENT => match shared.exit[0] as u32 {
                1 => Ok(Exit::PowerOff),
                2 => Ok(Exit::Reset),
                _ => Err("the virtual machine has crashed"),
            },
            SBI => Ok(call(&mut shared.exit)),
            MMIO => Err("the virtual machine looks for a device"),
            _ => Err("the hart stopped for an unknown reason"),
        }
    }
}


/// Answers an SBI call that KVM leaves to its user: extension, function, six arguments; then the two results.
fn call(exit: &mut [u64; 10]) -> Exit {
    const PUT: u64 = 1;
    const GET: u64 = 2;
    const DBCN: u64 = 0x4442_434e;
    const NOT_SUPPORTED: u64 = -2_i64 as u64;
    let [extension, function, first, second, ..] = *exit;
    let (error, value, done) = match (extension, function) {
        (PUT, _) => (0, 0, Exit::Put(first as u8)),
        // Nothing is ever typed.
        (GET, _) => (u64::MAX, 0, Exit::Again),
        (DBCN, 0) => (0, first, Exit::PutAll { address: second, length: first }),
        (DBCN, 1) => (0, 0, Exit::Again),
        (DBCN, 2) => (0, 0, Exit::Put(first as u8)),
        _ => (NOT_SUPPORTED, 0, Exit::Again),
    };
    (exit[8], exit[9]) = (error, value);
    done
}
