//! The gdb stub on a running Linux: kernel and user program, with each engine, through a client of this test's own; and
//! with a real gdb, where there is one.

mod common;
#[path = "common/rsp.rs"]
mod rsp;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{finish, rvisor, wait};
use rsp::{PC, Rsp, SP};

const LIMIT: Duration = Duration::from_secs(400);

/// Tells where some things are, and opens files for ever.
const SCRIPT: &str = "grep -E ' (do_sys_openat2|jiffies_64|handle_exception)$' /proc/kallsyms; echo ready; \
                      while :; do read line < /proc/uptime; done";

/// A process that is gone when the test is over.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Symbols {
    /// A function that `open` calls.
    open: u64,
    /// A word that the timer's interrupt counts.
    jiffies: u64,
    /// Where traps go.
    trap: u64,
}

impl Symbols {
    fn read(lines: impl Iterator<Item = String>) -> Self {
        let lines: Vec<_> = lines.take_while(|line| line != "ready").collect();
        let find = |name: &str| {
            let line = lines.iter().find(|line| line.ends_with(&format!(" {name}")));
            let address = line.and_then(|line| line.split(' ').next()).unwrap_or_else(|| panic!("{lines:?}"));
            u64::from_str_radix(address, 16).expect("an address")
        };
        Self { open: find("do_sys_openat2"), jiffies: find("jiffies_64"), trap: find("handle_exception") }
    }
}

/// Starts a machine in the foreground that runs the script, its stub on a socket.
fn start(engine: &str, socket: &str, options: &[&str]) -> (Guest, Symbols) {
    finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
    let name = format!("gdb-{engine}-{}", std::process::id());
    let words = ["run", "--rm", "--name", &name, "--engine", engine, "--gdb", socket];
    let words = [&words, options, &["busybox", "--", "sh", "-c", SCRIPT]].concat();
    let mut child = rvisor(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("rvisor starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    (Guest(child), Symbols::read(lines))
}

#[test]
fn kernel_and_program_are_debugged_on_the_translator() {
    debug("translator", &["--cpus", "2"]);
}

#[test]
fn kernel_and_program_are_debugged_on_the_interpreter() {
    debug("interpreter", &[]);
}

fn debug(engine: &str, options: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("gdb");
    let (mut guest, symbols) = start(engine, socket.to_str().expect("text"), options);
    let mut rsp = Rsp::over_socket(UnixStream::connect(&socket).expect("the stub listens"));

    // In the kernel.
    rsp.tell(&format!("Z0,{:x},2", symbols.open));
    let stop = rsp.go();
    assert!(stop.starts_with("T05") && stop.contains("swbreak"), "{stop}");
    assert_eq!((rsp.register(PC), rsp.named("priv")), (symbols.open, 1));
    assert_eq!((rsp.named("scause"), rsp.named("stvec")), (8, symbols.trap), "in a system call");
    assert_ne!(rsp.named("satp"), 0);
    assert_eq!(rsp.named("mhartid") + 1, thread(&stop));
    let walk = rsp.monitor(&format!("translate {:#x} {}", symbols.open, thread(&stop) - 1));
    assert!(walk.contains("level 0") || walk.contains("level 1"), "{walk}");
    assert!(walk.contains("VR-X"), "{walk}");
    // Guest memory isn't changed for a breakpoint: `ebreak` isn't what stands there.
    let code = rsp.ask(&format!("m{:x},4", symbols.open));
    assert!(code.len() == 8 && !code.starts_with("73001000") && !code.starts_with("0290"), "{code}");
    // Steps, as gdb makes them: one hart, without the breakpoint.
    rsp.tell(&format!("z0,{:x},2", symbols.open));
    let mut here = symbols.open;
    for _ in 0..5 {
        rsp.step(&stop);
        let next = rsp.register(PC);
        assert_ne!(next, here);
        here = next;
    }

    // In the program that made the call.
    let sepc = rsp.named("sepc");
    rsp.tell(&format!("Z1,{:x},4", sepc));
    let stop = rsp.go();
    assert!(stop.contains("hwbreak"), "{stop}");
    assert_eq!((rsp.register(PC), rsp.named("priv")), (sepc, 0));
    rsp.tell(&format!("z1,{:x},4", sepc));
    let code = rsp.ask(&format!("m{sepc:x},4"));
    assert_eq!(code, "73000000", "the system call");
    rsp.step(&stop);
    assert_eq!((rsp.register(PC), rsp.named("priv"), rsp.named("sepc")), (symbols.trap, 1, sepc));
    // The kernel comes back behind it.
    rsp.tell(&format!("Z0,{:x},4", sepc + 4));
    rsp.go();
    assert_eq!((rsp.register(PC), rsp.named("priv")), (sepc + 4, 0));
    rsp.tell(&format!("z0,{:x},4", sepc + 4));

    // What the program does with its stack.
    let stack = rsp.register(SP);
    rsp.tell(&format!("Z4,{stack:x},40"));
    let stop_at_stack = rsp.go();
    assert!(stop_at_stack.contains(&format!("awatch:{stack:x};")), "{stop_at_stack}");
    rsp.tell(&format!("z4,{stack:x},40"));

    // What the kernel's timer does.
    rsp.tell(&format!("Z2,{:x},8", symbols.jiffies));
    let count = |rsp: &mut Rsp| rsp.ask(&format!("m{:x},8", symbols.jiffies));
    let before = count(&mut rsp);
    let stop_at_count = rsp.go();
    assert!(stop_at_count.contains(&format!("watch:{:x};", symbols.jiffies)), "{stop_at_count}");
    let after = count(&mut rsp);
    assert_ne!(before, after);
    rsp.tell(&format!("z2,{:x},8", symbols.jiffies));

    // Registers can be changed, memory too.
    let number = rsp.number("sscratch");
    let old = rsp.register(number);
    rsp.tell(&format!("P{number:x}={:016x}", 0x1234_u64.swap_bytes()));
    assert_eq!(rsp.named("sscratch"), 0x1234);
    rsp.tell(&format!("P{number:x}={:016x}", old.swap_bytes()));
    rsp.tell(&format!("M{:x},8:{before}", symbols.jiffies));
    assert_eq!(count(&mut rsp), before);
    rsp.tell(&format!("M{:x},8:{after}", symbols.jiffies));
    assert!(rsp.ask("m10,8").starts_with('E'), "nothing is mapped there");
    rsp.monitor("physical on");
    assert_eq!(rsp.ask("m80200002,2").len(), 4, "the kernel's image");
    rsp.monitor("physical off");
    assert!(rsp.monitor("nonsense").contains("monitor help"));
    assert!(rsp.monitor("help").contains("translate"));

    // Ctrl-C while it runs, as gdb sends it.
    rsp.send("vCont;c");
    std::thread::sleep(Duration::from_millis(100));
    rsp.interrupt();
    let stop_by_hand = rsp.receive();
    assert!(stop_by_hand.starts_with("T02"), "{stop_by_hand}");

    // It leaves, comes back, and ends the machine.
    rsp.tell("D;1");
    let mut rsp = Rsp::over_socket(UnixStream::connect(&socket).expect("the stub listens"));
    assert!(rsp.ask("qfThreadInfo").starts_with('m'));
    rsp.send("vKill;1");
    assert!(wait(&mut guest.0, LIMIT).is_some());
}

fn thread(stop: &str) -> u64 {
    let thread = &stop[stop.find("thread:").expect("a thread") + 7..];
    let number = thread.split(';').next().and_then(|number| number.rsplit('.').next()).expect("a number");
    u64::from_str_radix(number, 16).expect("a number")
}

#[test]
fn machine_waits_before_its_first_instruction_and_is_reset() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("gdb");
    let program = directory.path().join("loop");
    std::fs::write(&program, endless_program()).expect("a file");
    let words = ["boot", "--bare", program.to_str().expect("text"), "--memory", "8M", "--cpus", "2", "--gdb"];
    let words = [&words[..], &[socket.to_str().expect("text"), "--gdb-wait"]].concat();
    let child = rvisor(words).stdin(Stdio::null()).spawn().expect("rvisor starts");
    let mut guest = Guest(child);
    let deadline = Instant::now() + LIMIT;
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    };
    let mut rsp = Rsp::over_socket(stream);
    assert_eq!((rsp.register(PC), rsp.named("minstret"), rsp.named("priv")), (0x8000_0000, 0, 3));
    rsp.tell("Z0,80000004,4");
    rsp.go();
    assert_eq!(rsp.register(PC), 0x8000_0004);
    // Both harts come here; the second stands before it still.
    let one = rsp.go();
    rsp.tell("z0,80000004,4");
    rsp.step(&one);
    rsp.step(&one);
    assert!(rsp.monitor("reset").contains("is reset"));
    assert_eq!((rsp.register(PC), rsp.named("minstret")), (0x8000_0000, 0));
    assert!(rsp.monitor("harts").contains("hart 1: M-mode at 0x80000000"));
    // It runs to its end, and gdb hears of it.
    rsp.send("vCont;c");
    let killed = Command::new("kill").arg(guest.0.id().to_string()).status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert_eq!(rsp.receive(), "W00");
    assert!(wait(&mut guest.0, LIMIT).is_some());
}

#[test]
fn running_machine_is_looked_into_through_its_control_socket() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
    let name = format!("gdb-attached-{}", std::process::id());
    finish(&mut rvisor(["run", "-d", "--rm", "--name", &name, "busybox"]), b"", LIMIT)
        .assert(0, &format!("{name}\n"));
    let ready = || finish(&mut rvisor(["exec", &name, "true"]), b"", LIMIT).assert(0, "");
    ready();
    let mut child = rvisor(["gdb", "--stdio", &name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("rvisor starts");
    let pipes = (child.stdout.take().expect("a pipe"), child.stdin.take().expect("a pipe"));
    let mut rsp = Rsp::over_pipes(pipes.0, pipes.1);
    assert_ne!(rsp.register(PC), 0);
    // One at a time.
    let other = finish(&mut rvisor(["gdb", "--stdio", &name]), b"", LIMIT);
    assert_eq!(other.status.code(), Some(125), "{}", other.stderr);
    assert!(other.stderr.contains("has a debugger already"), "{}", other.stderr);
    rsp.tell("D;1");
    assert!(wait(&mut child, LIMIT).is_some_and(|status| status.success()));
    ready();
    with_gdb(&name);
    ready();
    finish(&mut rvisor(["kill", &name]), b"", LIMIT).assert(0, &format!("{name}\n"));
    let gone = finish(&mut rvisor(["gdb", &name]), b"", LIMIT);
    assert_eq!((gone.status.code(), gone.stderr.lines().count()), (Some(125), 1), "{}", gone.stderr);
}

/// Debian's gdb, where it is installed.
fn with_gdb(name: &str) {
    if Command::new("gdb-multiarch").arg("--version").output().is_err() {
        eprintln!("gdb-multiarch isn't installed: not tried");
        return;
    }
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    let commands = "info threads\nprint/x $satp\nbreak *$pc\nstepi\nmonitor harts\ndetach\n";
    script.write_all(commands.as_bytes()).expect("a file");
    let path = script.path().to_str().expect("text");
    let words = ["gdb", name, "--", "-nx", "-batch", "-x", path];
    let ended = finish(&mut rvisor(words), b"", LIMIT);
    // What `monitor` says goes to standard error.
    let text = ended.text() + &ended.stderr;
    for told in ["S-mode", "$1 = 0x", "Breakpoint 1", "hart 0: ", "detached"] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

/// An ELF file of two instructions for ever: `addi x5, x5, 1`, and a jump back to it.
fn endless_program() -> Vec<u8> {
    const START: u64 = 0x8000_0000;
    let code = [0x0012_8293_u32, 0xffdf_f06f];
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    for half in [2_u16, 243] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(1_u32.to_le_bytes());
    for double in [START, 64, 0] {
        bytes.extend(double.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    // One segment to load: readable and executable.
    bytes.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    for double in [64 + 56, START, START, 8, 8, 4096_u64] {
        bytes.extend(double.to_le_bytes());
    }
    bytes.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}
