//! The gdb stub on a running Linux: kernel and user program, with each engine, through a client of this test's own; and
//! with Debian's gdb. Where that isn't installed its tests are skipped, with a word on standard error; where `CI` is set they
//! fail.

mod common;
#[path = "common/rsp.rs"]
mod rsp;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Machine, finish, rvisor, wait};
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
    finish(&mut rvisor(["kill", &name]), b"", LIMIT).assert(0, &format!("{name}\n"));
    let gone = finish(&mut rvisor(["gdb", &name]), b"", LIMIT);
    assert_eq!((gone.status.code(), gone.stderr.lines().count()), (Some(125), 1), "{}", gone.stderr);
}

/// Whether Debian's gdb is there. Tests that need it are skipped otherwise, and say so past the test's own output.
fn has_gdb() -> bool {
    let found = Command::new("gdb-multiarch").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "gdb-multiarch isn't installed: apt-get install gdb-multiarch");
    let _ = writeln!(std::io::stderr(), "SKIPPED: a test with gdb: gdb-multiarch isn't installed");
    false
}

/// Has gdb work off a script on a machine; all that it says.
#[track_caller]
fn gdb(machine: &str, commands: &str) -> String {
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    script.write_all(commands.as_bytes()).expect("a file");
    let path = script.path().to_str().expect("text");
    let ended = finish(&mut rvisor(["gdb", machine, "--", "-nx", "-batch", "-x", path]), b"", LIMIT);
    assert!(ended.status.success(), "{}{}", ended.text(), ended.stderr);
    // What `monitor` says goes to standard error.
    ended.text() + &ended.stderr
}

/// The numbers that `print/x` has shown, in order.
fn printed(text: &str) -> Vec<u64> {
    let shown = text.lines().filter_map(|line| line.strip_prefix('$')?.split_once(" = 0x"));
    shown.map(|(_, digits)| u64::from_str_radix(digits, 16).expect("a number")).collect()
}

/// Where the program of [`calling_program`] begins.
const PROGRAM: u64 = 0x1_0078;
/// Its system call.
const CALL: u64 = PROGRAM + 8;
/// The system call `getppid`.
const GETPPID: u64 = 173;

/// Stops in the kernel and in a program, where breakpoints are.
#[test]
fn debians_gdb_continues_to_breakpoints_in_the_kernel_and_in_a_program() {
    if !has_gdb() {
        return;
    }
    let machine = Machine::run("gdb-real", &["busybox"]);
    machine.exec_with_input(&["sh", "-c", "cat >/calls; chmod +x /calls"], &calling_program()).assert(0, "");
    let symbols = machine.exec(&["cat", "/proc/kallsyms"]).text();
    let address = |name: &str| {
        let line = symbols.lines().find(|line| line.ends_with(name)).unwrap_or_else(|| panic!("no {name}"));
        u64::from_str_radix(line.split(' ').next().expect("a word"), 16).expect("an address")
    };
    let (call, trap) = (address(" __riscv_sys_getppid"), address(" handle_exception"));
    finish(&mut rvisor(["exec", "-d", &machine.0, "sh", "-c", "echo $$ >/pid; exec /calls"]), b"", LIMIT)
        .assert(0, "");

    // The timer may have interrupted a call on its way: `sepc` is another then.
    let text = gdb(
        &machine.0,
        &format!(
            "info threads\nbreak *{call:#x} if $sepc == {CALL:#x}\ncontinue\n\
             print/x $pc\nprint/x $priv\nprint/x $sepc\nprint/x $scause\nprint/x $stvec\nprint/x $satp\n\
             stepi\nprint/x $pc\nstepi\nprint/x $pc\nstepi\nprint/x $pc\nmonitor harts\ndetach\n"
        ),
    );
    for told in ["Thread 1.1 (", "Breakpoint 1 at", "Breakpoint 1, 0x", "hart 0: S-mode", "detached"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let [pc, mode, sepc, cause, stvec, satp, steps @ ..] = &printed(&text)[..] else { panic!("{text}") };
    assert_eq!((*pc, *mode, *sepc, *cause, *stvec), (call, 1, CALL, 8, trap), "{text}");
    // One of the modes of translation, and a root.
    assert!(matches!(satp >> 60, 8..=10) && satp << 20 != 0, "{text}");
    let mut here = *pc;
    assert_eq!(steps.len(), 3, "{text}");
    for next in steps {
        assert!(*next != here && next.abs_diff(here) < 1 << 20, "{text}");
        here = *next;
    }

    // The program counts its calls in `s1`, and goes on with what gdb has written there.
    let text = gdb(
        &machine.0,
        &format!(
            "break *{after:#x} if $priv == 0\ncontinue\nprint/x $pc\nprint/x $priv\nprint/x $a7\nprint/x $s1\n\
             continue\nprint/x $s1\nx/i $pc\nset $s1 = 0x7000\ncontinue 3\nprint/x $s1\n\
             delete\nbreak *{CALL:#x}\ncontinue\nstepi\nprint/x $pc\nprint/x $sepc\n\
             delete\ntbreak *{after:#x}\ncontinue\nprint/x $pc\nstepi\nprint/x $pc\ndetach\n",
            after = CALL + 4
        ),
    );
    for told in
        ["Breakpoint 1, 0x000000000001", "Breakpoint 2, 0x000000000001", "Temporary breakpoint 3", "detached"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }
    let [pc, mode, number, first, second, third, rest @ ..] = &printed(&text)[..] else { panic!("{text}") };
    assert_eq!((*pc, *mode, *number), (CALL + 4, 0, GETPPID), "{text}");
    assert_eq!((*second, *third), (first + 1, 0x7003), "{text}");
    assert_eq!(rest, [trap, CALL, CALL + 4, PROGRAM], "{text}");
    // All goes on without gdb.
    let calls = || machine.exec(&["sh", "-c", "cut -d' ' -f14,15 /proc/$(cat /pid)/stat"]).text();
    let before = calls();
    let deadline = Instant::now() + LIMIT;
    while calls() == before {
        assert!(Instant::now() < deadline && !before.is_empty(), "the program stands still");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An ELF file of two instructions for ever: `addi x5, x5, 1`, and a jump back to it.
fn endless_program() -> Vec<u8> {
    program(0x8000_0000, &[0x0012_8293, 0xffdf_f06f])
}

/// A Linux program that calls `getppid` for ever.
fn calling_program() -> Vec<u8> {
    // `addi s1, s1, 1`, `li a7, 173`, `ecall`, and a jump back to the first.
    program(PROGRAM, &[0x0014_8493, 0x0ad0_0893, 0x0000_0073, 0xff5f_f06f])
}

/// An ELF file of code that begins and is entered at `start`.
fn program(start: u64, code: &[u32]) -> Vec<u8> {
    let length = 4 * code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    for half in [2_u16, 243] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(1_u32.to_le_bytes());
    for double in [start, 64, 0] {
        bytes.extend(double.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    // One segment to load: readable and executable.
    bytes.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    for double in [64 + 56, start, start, length, length, 4096_u64] {
        bytes.extend(double.to_le_bytes());
    }
    bytes.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}
