//! System calls (Linux, include/uapi/asm-generic/unistd.h), and where the program begins and ends.
//!
//! # Safety
//! All unsafe code of the agent but two static buffers stands here. Each call passes pointers to memory that the
//! caller lends for its duration.

use core::arch::{asm, naked_asm};
use core::ffi::{CStr, c_char};

/// An error's number (errno(3)).
pub type Error = i32;

pub const ENOENT: Error = 2;
pub const EAGAIN: Error = 11;
pub const ENOTDIR: Error = 20;
const EINTR: Error = 4;

pub const O_RDWR: usize = 2;
const O_NOCTTY: usize = 0o400;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_CLOEXEC: usize = 0o2_000_000;
pub const O_CREAT: usize = 0o100;
pub const O_DIRECTORY: usize = 0o200_000;
pub const O_PATH: usize = 0o10_000_000;

pub const SIGHUP: i32 = 1;
pub const SIGKILL: i32 = 9;
const SIGPIPE: usize = 13;
pub const SIGTERM: i32 = 15;
const SIGNALS: usize = 64;
const SIGCHLD: usize = 17;

const AT_FDCWD: usize = -100_isize as usize;

mod number {
    pub const DUP3: usize = 24;
    pub const FCNTL: usize = 25;
    pub const IOCTL: usize = 29;
    pub const MKDIRAT: usize = 34;
    pub const UNLINKAT: usize = 35;
    pub const UMOUNT2: usize = 39;
    pub const MOUNT: usize = 40;
    pub const CHDIR: usize = 49;
    pub const CHROOT: usize = 51;
    pub const OPENAT: usize = 56;
    pub const CLOSE: usize = 57;
    pub const PIPE2: usize = 59;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const PPOLL: usize = 73;
    pub const SYNC: usize = 81;
    pub const EXIT_GROUP: usize = 94;
    pub const NANOSLEEP: usize = 101;
    pub const CLOCK_SETTIME: usize = 112;
    pub const KILL: usize = 129;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const REBOOT: usize = 142;
    pub const SETHOSTNAME: usize = 161;
    pub const SOCKET: usize = 198;
    pub const SETSID: usize = 157;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const PIDFD_OPEN: usize = 434;
}

/// A file descriptor, or a negative number for none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);

impl Fd {
    pub fn is_open(self) -> bool {
        self.0 >= 0
    }

    fn word(self) -> usize {
        self.0 as usize
    }
}

/// Where the kernel starts the program: the stack has the number of words, then their addresses.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mv a0, sp", "andi sp, sp, -16", "call {start}", start = sym start)
}

unsafe extern "C" fn start(stack: *const usize) -> ! {
    const MOST: usize = 8;
    // SAFETY: this is how the kernel lays the stack of a new program out (execve(2)).
    let count = unsafe { *stack }.min(MOST);
    let mut words = [c""; MOST];
    for (number, word) in words[..count].iter_mut().enumerate() {
        // SAFETY: as above; the words live as long as the program.
        *word = unsafe { CStr::from_ptr(*stack.add(1 + number) as *const c_char) };
    }
    exit(crate::main(&words[..count]))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    say(b"rvisor: the agent has failed\n");
    exit(101)
}

/// # Safety
/// As the system call says.
pub unsafe fn call(number: usize, a: [usize; 6]) -> Result<usize, Error> {
    let result: isize;
    // SAFETY: a system call changes a0 and what its arguments name.
    unsafe {
        asm!("ecall", in("a7") number, inlateout("a0") a[0] as isize => result, in("a1") a[1], in("a2") a[2],
            in("a3") a[3], in("a4") a[4], in("a5") a[5], options(nostack));
    }
    if result < 0 { Err(-result as Error) } else { Ok(result as usize) }
}

/// A call whose arguments are numbers only, and that changes no memory of this process.
fn simple(number: usize, a: [usize; 4]) -> Result<usize, Error> {
    // SAFETY: callers pass no pointers.
    unsafe { call(number, [a[0], a[1], a[2], a[3], 0, 0]) }
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        let _ = simple(number::EXIT_GROUP, [code as usize, 0, 0, 0]);
    }
}

/// A line on standard error.
pub fn say(text: &[u8]) {
    let _ = write(Fd(2), text);
}

/// A file that is made can be read by everybody.
pub fn open(path: &CStr, flags: usize) -> Result<Fd, Error> {
    open_or_create(path, flags, 0o644)
}

fn open_or_create(path: &CStr, flags: usize, mode: usize) -> Result<Fd, Error> {
    // SAFETY: the path is a string that outlives the call.
    let fd = unsafe { call(number::OPENAT, [AT_FDCWD, path.as_ptr() as usize, flags, mode, 0, 0]) }?;
    Ok(Fd(fd as i32))
}

/// Makes or empties a file, for writing.
pub fn create(path: &CStr, mode: usize) -> Result<Fd, Error> {
    const O_WRONLY: usize = 1;
    const O_TRUNC: usize = 0o1000;
    open_or_create(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
}

pub fn close(fd: Fd) {
    if fd.is_open() {
        let _ = simple(number::CLOSE, [fd.word(), 0, 0, 0]);
    }
}

pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize, Error> {
    // SAFETY: the buffer is ours to fill.
    unsafe { call(number::READ, [fd.word(), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) }
}

/// Reads until something has come or the end.
pub fn read_all(fd: Fd, buffer: &mut [u8]) -> Result<usize, Error> {
    loop {
        match read(fd, buffer) {
            Err(EINTR) => {}
            result => return result,
        }
    }
}

pub fn write(fd: Fd, bytes: &[u8]) -> Result<usize, Error> {
    // SAFETY: the bytes are lent for the call.
    unsafe { call(number::WRITE, [fd.word(), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

/// Writes everything, waiting for room; what nobody takes is lost.
pub fn write_all(fd: Fd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(EAGAIN) => poll(&mut [PollFd::writing(fd)], None),
            Err(EINTR) => {}
            Err(_) => return,
        }
    }
}

/// A pipe: reading end, writing end.
pub fn pipe() -> Result<(Fd, Fd), Error> {
    let mut ends = [0_i32; 2];
    // SAFETY: the call fills both.
    unsafe { call(number::PIPE2, [ends.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0, 0]) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Asks for a pipe that holds more than usual; the kernel may refuse.
pub fn enlarge_pipe(fd: Fd) {
    const F_SETPIPE_SZ: usize = 1031;
    let _ = simple(number::FCNTL, [fd.word(), F_SETPIPE_SZ, 256 << 10, 0]);
}

pub fn set_non_blocking(fd: Fd) {
    const F_GETFL: usize = 3;
    const F_SETFL: usize = 4;
    if let Ok(flags) = simple(number::FCNTL, [fd.word(), F_GETFL, 0, 0]) {
        let _ = simple(number::FCNTL, [fd.word(), F_SETFL, flags | O_NONBLOCK, 0]);
    }
}

/// Makes `fd` also known as `number`, which stays open when a program is executed.
pub fn duplicate(fd: Fd, number: usize) {
    let _ = simple(number::DUP3, [fd.word(), number, 0, 0]);
}

/// A new terminal: the agent's end and the command's (ioctl_tty(2)).
pub fn terminal() -> Result<(Fd, Fd), Error> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    let ours = open(c"/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)?;
    let unlock = 0_i32;
    // SAFETY: the call reads the number.
    let unlocked =
        unsafe { call(number::IOCTL, [ours.word(), TIOCSPTLCK, &raw const unlock as usize, 0, 0, 0]) };
    let peer = unlocked
        .and_then(|_| simple(number::IOCTL, [ours.word(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC, 0]));
    match peer {
        Ok(peer) => Ok((ours, Fd(peer as i32))),
        Err(error) => {
            close(ours);
            Err(error)
        }
    }
}

pub fn set_window(fd: Fd, rows: u16, columns: u16) {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0, 0];
    // SAFETY: the call reads the four numbers.
    let _ = unsafe { call(number::IOCTL, [fd.word(), TIOCSWINSZ, size.as_ptr() as usize, 0, 0, 0]) };
}

/// Makes the terminal the one that this session is controlled from.
pub fn control_terminal(fd: Fd) {
    const TIOCSCTTY: usize = 0x540e;
    let _ = simple(number::IOCTL, [fd.word(), TIOCSCTTY, 0, 0]);
}

/// The number of the new process in the old one, `None` in the new one.
pub fn fork() -> Result<Option<i32>, Error> {
    // No memory is shared and the process has one thread, so that both go on as if alone.
    let process = simple(number::CLONE, [SIGCHLD, 0, 0, 0])?;
    Ok((process > 0).then_some(process as i32))
}

/// Comes back only if the program can't be executed. Both lists end with a null pointer.
pub fn execute(path: &CStr, arguments: &[*const c_char], environment: &[*const c_char]) -> Error {
    let words = [path.as_ptr() as usize, arguments.as_ptr() as usize, environment.as_ptr() as usize, 0, 0, 0];
    // SAFETY: the kernel copies the lists, which end with a null pointer, and the strings in them.
    unsafe { call(number::EXECVE, words) }.err().unwrap_or(0)
}

pub fn new_session() {
    let _ = simple(number::SETSID, [0; 4]);
}

/// A descriptor that is readable once the process has ended.
pub fn watch(process: i32) -> Result<Fd, Error> {
    simple(number::PIDFD_OPEN, [process as usize, 0, 0, 0]).map(|fd| Fd(fd as i32))
}

/// Waits for a process's end; its code, or 128 and the signal.
pub fn wait(process: i32) -> u8 {
    let mut status = 0_i32;
    loop {
        // SAFETY: the call fills the status.
        let ended = unsafe { call(number::WAIT4, [process as usize, &raw mut status as usize, 0, 0, 0, 0]) };
        if !matches!(ended, Err(EINTR)) {
            break;
        }
    }
    match status & 0x7f {
        0 => (status >> 8) as u8,
        signal => 128 + signal as u8,
    }
}

pub fn kill(process: i32, signal: i32) {
    let _ = simple(number::KILL, [process as usize, signal as usize, 0, 0]);
}

/// Signals every process but this one and the first.
pub fn kill_all(signal: i32) {
    kill(-1, signal);
}

fn set_signal(signal: usize, handler: usize) {
    // Handler, flags, mask.
    let action = [handler, 0, 0];
    // SAFETY: the call reads the action; its handler is none of ours.
    let _ = unsafe { call(number::RT_SIGACTION, [signal, action.as_ptr() as usize, 0, 8, 0, 0]) };
}

/// Makes a write to a pipe that nobody reads an error of that write.
pub fn ignore_broken_pipes() {
    const SIG_IGN: usize = 1;
    set_signal(SIGPIPE, SIG_IGN);
}

/// Every signal does what it does by default, and none is blocked.
pub fn default_signals() {
    const SIG_DFL: usize = 0;
    const SIG_SETMASK: usize = 2;
    (1..=SIGNALS).for_each(|signal| set_signal(signal, SIG_DFL));
    let none = 0_u64;
    // SAFETY: the call reads the mask.
    let _ = unsafe { call(number::RT_SIGPROCMASK, [SIG_SETMASK, &raw const none as usize, 0, 8, 0, 0]) };
}

pub fn change_directory(path: &CStr) -> Result<(), Error> {
    // SAFETY: the path is a string that outlives the call.
    unsafe { call(number::CHDIR, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Makes a directory this process's root.
pub fn change_root(path: &CStr) -> Result<(), Error> {
    // SAFETY: the path is a string that outlives the call.
    unsafe { call(number::CHROOT, [path.as_ptr() as usize, 0, 0, 0, 0, 0]) }?;
    change_directory(c"/")
}

pub fn sleep(milliseconds: i64) {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    // SAFETY: the call reads the time.
    let _ = unsafe { call(number::NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// Sets the wall clock.
pub fn set_clock(seconds: i64, nanoseconds: i64) {
    const CLOCK_REALTIME: usize = 0;
    let time = [seconds, nanoseconds];
    // SAFETY: the call reads the time.
    let _ = unsafe { call(number::CLOCK_SETTIME, [CLOCK_REALTIME, time.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// Sets the host name; one that is too long is ignored.
pub fn set_host_name(name: &[u8]) {
    // SAFETY: the call reads the name.
    let _ = unsafe { call(number::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) };
}

/// Has the kernel's random numbers depend on this too, from now on (random(4)).
pub fn add_entropy(seed: &[u8; 64]) {
    const RNDADDENTROPY: usize = 0x4008_5203;
    const RNDRESEEDCRNG: usize = 0x5207;
    /// `struct rand_pool_info`
    #[repr(C)]
    struct Pool {
        bits: i32,
        bytes: i32,
        seed: [u8; 64],
    }
    let pool = Pool { bits: 8 * 64, bytes: 64, seed: *seed };
    let Ok(device) = open(c"/dev/urandom", O_RDWR | O_CLOEXEC) else { return };
    // SAFETY: the call reads the pool.
    let _ = unsafe { call(number::IOCTL, [device.word(), RNDADDENTROPY, &raw const pool as usize, 0, 0, 0]) };
    let _ = simple(number::IOCTL, [device.word(), RNDRESEEDCRNG, 0, 0]);
    close(device);
}

/// Gives a network card another hardware address; without the card nothing happens (netdevice(7)).
pub fn set_hardware_address(name: [u8; 4], address: &[u8; 6]) {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    const SIOCSIFHWADDR: usize = 0x8924;
    const ARPHRD_ETHER: u8 = 1;
    let Ok(socket) = simple(number::SOCKET, [AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0]) else { return };
    // `struct ifreq`: a name of 16 bytes, then an address: its family (16 bits) and bytes.
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(&name);
    request[16] = ARPHRD_ETHER;
    request[18..24].copy_from_slice(address);
    // SAFETY: the call reads the request.
    let _ = unsafe { call(number::IOCTL, [socket, SIOCSIFHWADDR, request.as_ptr() as usize, 0, 0, 0]) };
    close(Fd(socket as i32));
}

pub fn sync() {
    let _ = simple(number::SYNC, [0; 4]);
}

const MS_RDONLY: usize = 1;
const MS_REMOUNT: usize = 32;
const MS_BIND: usize = 4096;

/// Mounts a file system of a type that takes options.
pub fn mount(source: &CStr, place: &CStr, kind: &CStr, flags: usize, options: &CStr) -> Result<(), Error> {
    let words = [source, place, kind].map(|text| text.as_ptr() as usize);
    // SAFETY: the call reads the strings.
    let mounted =
        unsafe { call(number::MOUNT, [words[0], words[1], words[2], flags, options.as_ptr() as usize, 0]) };
    mounted.map(|_| ())
}

/// Has a file or directory appear at another place, too.
pub fn bind(source: &CStr, place: &CStr) -> Result<(), Error> {
    mount(source, place, c"", MS_BIND, c"")
}

/// Nothing can be written at the place of a [`bind`] any more.
pub fn make_read_only(place: &CStr) -> Result<(), Error> {
    mount(c"", place, c"", MS_REMOUNT | MS_BIND | MS_RDONLY, c"")
}

pub fn make_root_read_only() {
    let _ = mount(c"", c"/", c"", MS_RDONLY | MS_REMOUNT, c"");
}

pub fn unmount(place: &CStr) -> Result<(), Error> {
    // SAFETY: the call reads the string.
    unsafe { call(number::UMOUNT2, [place.as_ptr() as usize, 0, 0, 0, 0, 0]) }.map(|_| ())
}

pub fn make_directory(path: &CStr) -> Result<(), Error> {
    // SAFETY: the path is a string that outlives the call.
    unsafe { call(number::MKDIRAT, [AT_FDCWD, path.as_ptr() as usize, 0o755, 0, 0, 0]) }.map(|_| ())
}

/// An empty one.
pub fn remove_directory(path: &CStr) -> Result<(), Error> {
    const AT_REMOVEDIR: usize = 0x200;
    // SAFETY: the path is a string that outlives the call.
    let removed =
        unsafe { call(number::UNLINKAT, [AT_FDCWD, path.as_ptr() as usize, AT_REMOVEDIR, 0, 0, 0]) };
    removed.map(|_| ())
}

pub fn power_off() {
    const MAGIC: [usize; 2] = [0xfee1_dead, 672_274_793];
    const POWER_OFF: usize = 0x4321_fedc;
    let _ = simple(number::REBOOT, [MAGIC[0], MAGIC[1], POWER_OFF, 0]);
}

/// What to wait for on a descriptor (poll(2)).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    fd: i32,
    events: i16,
    found: i16,
}

impl PollFd {
    const POLLIN: i16 = 1;
    const POLLOUT: i16 = 4;

    /// Nothing.
    pub const fn none() -> Self {
        Self { fd: -1, events: 0, found: 0 }
    }

    pub fn reading(fd: Fd) -> Self {
        Self { fd: fd.0, events: Self::POLLIN, found: 0 }
    }

    pub fn writing(fd: Fd) -> Self {
        Self { fd: fd.0, events: Self::POLLOUT, found: 0 }
    }

    /// Whether it can go on, or never will.
    pub fn is_ready(&self) -> bool {
        self.found != 0
    }
}

/// Waits until one of them is ready, or for so many milliseconds.
pub fn poll(polled: &mut [PollFd], milliseconds: Option<i64>) {
    let time = milliseconds.map(|time| [time / 1000, time % 1000 * 1_000_000]);
    let time = time.as_ref().map_or(0, |time| time.as_ptr() as usize);
    // SAFETY: the call fills the entries and reads the time.
    let _ = unsafe { call(number::PPOLL, [polled.as_mut_ptr() as usize, polled.len(), time, 0, 8, 0]) };
}
