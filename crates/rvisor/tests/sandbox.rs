//! What the process of a machine can't do. System calls are put into each of its threads from outside, as somebody
//! who has taken them over would make them.
#![cfg(target_arch = "x86_64")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{LIMIT, Machine, finish, rvisor, wait};
use libc as c;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rvisor_images::Store;
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

/// A thread that is stopped by this process.
struct Stopped {
    thread: Pid,
    registers: c::user_regs_struct,
}

impl Stopped {
    fn new(thread: i32) -> Self {
        let thread = Pid::from_raw(thread);
        ptrace::attach(thread).expect("it can be traced");
        assert!(matches!(waitpid(thread, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Stopped(..))));
        let registers = ptrace::getregs(thread).expect("its registers");
        Self { thread, registers }
    }

    /// Makes the thread call the kernel; `None` if that was its end.
    fn call(&self, place: &Place, number: c::c_long, arguments: [u64; 6]) -> Option<i64> {
        let mut registers = self.registers;
        // It isn't to go on with the call that it was stopped in.
        registers.orig_rax = u64::MAX;
        (registers.rip, registers.rax) = (place.instruction, number as u64);
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = arguments;
        ptrace::setregs(self.thread, registers).expect("a stopped thread");
        ptrace::step(self.thread, None).expect("a stopped thread");
        match waitpid(self.thread, Some(WaitPidFlag::__WALL)).expect("a traced thread") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Signaled(_, signal, _) => {
                assert_eq!(signal, Signal::SIGSYS);
                return None;
            }
            other => panic!("{other:?}"),
        }
        let result = ptrace::getregs(self.thread).expect("its registers").rax as i64;
        ptrace::setregs(self.thread, self.registers).expect("a stopped thread");
        Some(result)
    }

    fn free(self) {
        ptrace::detach(self.thread, None).expect("a stopped thread");
    }
}

/// Where in the process there is something to work with.
struct Place {
    /// An instruction `syscall`.
    instruction: u64,
    /// Memory that nobody uses, below the stack of a thread that is stopped.
    memory: u64,
}

impl Place {
    fn of(main: &Stopped) -> Self {
        let instruction = main.registers.rip - 2;
        let word = ptrace::read(main.thread, instruction as ptrace::AddressType).expect("code");
        assert_eq!(word as u16, 0x050f, "the main thread waits in a call");
        Self { instruction, memory: (main.registers.rsp - 16_384) & !15 }
    }

    /// Puts a text there and returns its address.
    fn text(&self, main: &Stopped, text: &str) -> u64 {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(bytes.len() / 8 * 8 + 8, 0);
        for (index, word) in bytes.chunks(8).enumerate() {
            let word = i64::from_le_bytes(word.try_into().expect("eight bytes"));
            let address = self.memory + 8 * index as u64;
            ptrace::write(main.thread, address as ptrace::AddressType, word).expect("memory");
        }
        self.memory
    }
}

/// The threads of a process by number, with their names; the main thread first.
fn threads(process: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).expect("a process");
    let numbers = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let numbers: BTreeMap<i32, _> = numbers
        .map(|number| (number, fs::read_to_string(format!("/proc/{process}/task/{number}/comm")).unwrap()))
        .collect();
    numbers.into_iter().map(|(number, name)| (number, name.trim().to_owned())).collect()
}

const EACCES: Option<i64> = Some(-(c::EACCES as i64));
const EPERM: Option<i64> = Some(-(c::EPERM as i64));

#[test]
fn no_thread_of_a_machines_process_can_do_what_a_machine_need_not() {
    let machine = Machine::run("confined", &["--disk", "size=8M", "busybox"]);
    let process: i32 = machine.pid().parse().expect("a number");
    assert_eq!(machine.exec(&["true"]).status.code(), Some(0), "it is up");
    let own = machine.directory();
    let outside = tempfile::tempdir().expect("a directory");
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").expect("a file");
    let secret = secret.to_str().expect("text");
    let config = own.join("config.json");
    let config = config.to_str().expect("text");
    let mut other = Command::new("sleep").arg("1000").spawn().expect("a process");
    let victim = u64::from(other.id());

    let all = threads(process);
    for name in ["network", "disk", "optimizer", "hart-0", "control"] {
        assert!(all.iter().any(|(_, it)| it == name), "{all:?}");
    }
    let main = Stopped::new(process);
    let place = Place::of(&main);
    let here = c::AT_FDCWD as u64;
    let open = |at: u64, flags: i32| (c::SYS_openat, [here, at, flags as u64, 0, 0, 0]);
    let mut checked = 0;
    for (thread, name) in &all {
        let stopped = if *thread == process { None } else { Some(Stopped::new(*thread)) };
        let target = stopped.as_ref().unwrap_or(&main);
        let call = |(number, arguments)| target.call(&place, number, arguments);
        let works = |result: Option<i64>| assert!(result.is_some_and(|it| it >= 0), "{name}: {result:?}");

        let at = place.text(&main, config);
        works(call(open(at, c::O_RDONLY)));
        assert_eq!(call(open(at, c::O_RDWR)), EACCES, "{name}");
        for path in [secret, "/etc/passwd", "/dev/null", "/proc/1/environ"] {
            let at = place.text(&main, path);
            assert_eq!(call(open(at, c::O_RDONLY)), EACCES, "{name}: {path}");
        }
        let at = place.text(&main, "/proc/self/mem");
        assert_eq!(call(open(at, c::O_RDWR)), EACCES, "{name}");
        let at = place.text(&main, &format!("{}/new", outside.path().display()));
        assert_eq!(call(open(at, c::O_WRONLY | c::O_CREAT)), EACCES, "{name}");
        let at = place.text(&main, secret);
        assert_eq!(call((c::SYS_unlinkat, [here, at, 0, 0, 0, 0])), EACCES, "{name}");
        assert_eq!(call((c::SYS_fchmodat, [here, at, 0o777, 0, 0, 0])), EPERM, "{name}");
        assert_eq!(call((c::SYS_symlinkat, [at, here, at, 0, 0, 0])), EPERM, "{name}");

        works(call((c::SYS_kill, [process as u64, 0, 0, 0, 0, 0])));
        assert_eq!(call((c::SYS_kill, [victim, c::SIGKILL as u64, 0, 0, 0, 0])), EPERM, "{name}");
        let attach = c::PTRACE_ATTACH as u64;
        assert_eq!(call((c::SYS_ptrace, [attach, victim, 0, 0, 0, 0])), EPERM, "{name}");
        works(call((c::SYS_socket, [c::AF_INET as u64, c::SOCK_DGRAM as u64, 0, 0, 0, 0])));
        for family in [c::AF_UNIX, c::AF_NETLINK, c::AF_PACKET, c::AF_VSOCK] {
            let result = call((c::SYS_socket, [family as u64, c::SOCK_DGRAM as u64, 0, 0, 0, 0]));
            assert_eq!(result, EPERM, "{name}");
        }
        let fork = (c::SYS_clone, [c::SIGCHLD as u64, 0, 0, 0, 0, 0]);
        assert_eq!(call(fork), EPERM, "{name}");
        let (protection, flags) = (c::PROT_READ | c::PROT_EXEC, c::MAP_PRIVATE | c::MAP_ANONYMOUS);
        let map = (c::SYS_mmap, [0, 4096, protection as u64, flags as u64, u64::MAX, 0]);
        assert_eq!(call(map), EPERM, "{name}");
        checked += 1;
        stopped.into_iter().for_each(Stopped::free);
    }
    assert!(checked >= 9, "{all:?}");
    assert!(other.try_wait().expect("a child").is_none(), "it lives");
    other.kill().and_then(|()| other.wait()).expect("a child");

    // The machine has taken no harm; a program that it starts is its end.
    main.free();
    assert_eq!(machine.exec(&["true"]).status.code(), Some(0));
    let main = Stopped::new(process);
    let place = Place::of(&main);
    let at = place.text(&main, "/bin/true");
    assert_eq!(main.call(&place, c::SYS_execve, [at, 0, 0, 0, 0, 0]), None);
    let deadline = std::time::Instant::now() + LIMIT;
    while machine.field("state") != "crashed" {
        assert!(std::time::Instant::now() < deadline, "{}", machine.field("state"));
        thread::sleep(Duration::from_millis(20));
    }
}

/// A builder VM's process, as `build` starts one, with a guest that waits at its console.
struct BuilderProcess {
    child: Child,
    /// Its guest's console.
    output: BufReader<ChildStdout>,
}

impl BuilderProcess {
    fn new(disks: &[(&Path, bool)]) -> Self {
        finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
        let image = Store::open_default().and_then(|store| store.get("busybox")).expect("the image");
        let description = serde_json::json!({
            "kernel": image.kernel,
            "initrd": image.run_initrd,
            "append": image.manifest.append,
            "disks": disks,
            "memory": 128 << 20,
            "unconfined": false,
            "parent": std::process::id(),
        });
        let mut command = rvisor(["builder-process"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("rvisor starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        serde_json::to_writer(&mut stdin, &description).expect("a reader");
        drop(stdin);
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut process = Self { child, output };
        let mut line = Vec::new();
        assert!(process.output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0), "the guest runs");
        process
    }
}

impl Drop for BuilderProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn builder_process_can_open_its_disks_and_nothing_else() {
    let store = tempfile::tempdir().expect("a directory");
    let path = |name: &str| store.path().join(name);
    for name in ["disk", "payload", "secret"] {
        File::create(path(name)).and_then(|file| file.set_len(1 << 20)).expect("a file");
    }
    let builder = BuilderProcess::new(&[(&path("disk"), false), (&path("payload"), true)]);
    let process = builder.child.id() as i32;
    let all = threads(process);
    for name in ["disk", "hart-0", "output"] {
        assert!(all.iter().any(|(_, it)| it == name), "{all:?}");
    }
    let main = Stopped::new(process);
    let place = Place::of(&main);
    let here = c::AT_FDCWD as u64;
    for (thread, name) in &all {
        let stopped = if *thread == process { None } else { Some(Stopped::new(*thread)) };
        let target = stopped.as_ref().unwrap_or(&main);
        let open = |path: &Path, flags: i32| {
            let at = place.text(&main, path.to_str().expect("text"));
            target.call(&place, c::SYS_openat, [here, at, flags as u64, 0o600, 0, 0])
        };
        for (disk, flags) in [("disk", c::O_RDWR), ("payload", c::O_RDONLY)] {
            let opened = open(&path(disk), flags);
            assert!(opened.is_some_and(|it| it >= 0), "{name}: {disk}: {opened:?}");
        }
        assert_eq!(open(&path("payload"), c::O_RDWR), EACCES, "{name}");
        assert_eq!(open(&path("secret"), c::O_RDONLY), EACCES, "{name}");
        assert_eq!(open(&path("new"), c::O_WRONLY | c::O_CREAT), EACCES, "{name}");
        assert_eq!(open(Path::new("/etc/passwd"), c::O_RDONLY), EACCES, "{name}");
        for family in [c::AF_INET, c::AF_UNIX] {
            let socket = [family as u64, c::SOCK_STREAM as u64, 0, 0, 0, 0];
            assert_eq!(target.call(&place, c::SYS_socket, socket), EPERM, "{name}");
        }
        let fork = target.call(&place, c::SYS_clone, [c::SIGCHLD as u64, 0, 0, 0, 0, 0]);
        assert_eq!(fork, EPERM, "{name}");
        stopped.into_iter().for_each(Stopped::free);
    }
    main.free();
}

#[test]
fn builder_process_ends_with_the_thread_that_started_it() {
    let starter = thread::spawn(|| BuilderProcess::new(&[]));
    let mut builder = starter.join().expect("a process");
    let ended = wait(&mut builder.child, LIMIT).expect("it ends");
    assert_eq!(ended.signal(), Some(c::SIGKILL));
}

#[test]
fn without_sandbox_the_user_is_warned_and_the_process_can_open_what_they_can() {
    let machine = Machine::named("unconfined");
    let words = ["run", "-d", "--no-sandbox", "--name", &machine.0, "busybox"];
    let ended = finish(&mut rvisor(words), b"", LIMIT);
    assert!(ended.stderr.starts_with("rvisor: warning: --no-sandbox:"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1);
    machine.exec(&["true"]).assert(0, "");
    let main = Stopped::new(machine.pid().parse().expect("a number"));
    let place = Place::of(&main);
    let at = place.text(&main, "/etc/passwd");
    let opened = main.call(&place, c::SYS_openat, [c::AT_FDCWD as u64, at, 0, 0, 0, 0]);
    assert!(opened.is_some_and(|it| it >= 0), "{opened:?}");
    main.free();
}

#[test]
fn host_without_landlock_is_told_of_and_the_rest_holds() {
    let calls = [(c::SYS_landlock_create_ruleset, Vec::new())];
    let unknown = SeccompAction::Errno(c::ENOSYS as u32);
    let filter = SeccompFilter::new(calls.into(), SeccompAction::Allow, unknown, TargetArch::x86_64);
    let program: seccompiler::BpfProgram = filter.expect("a filter").try_into().expect("a program");
    let old_host = thread::spawn(move || {
        // For this thread and the processes that it makes.
        seccompiler::apply_filter(&program).expect("it can be put on");
        finish(&mut rvisor(["run", "--rm", "busybox", "--", "uname", "-m"]), b"", LIMIT)
    });
    let ended = old_host.join().expect("a thread");
    ended.assert(0, "riscv64\n");
    assert!(ended.stderr.contains("rvisor: warning: this host has no Landlock"), "{}", ended.stderr);
    let ended = finish(rvisor(["run", "--rm", "busybox", "--", "true"]).stdin(Stdio::null()), b"", LIMIT);
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), ""));
}
