//! The Debian image: commands, a whole boot to a login on one to four harts, and the same disk under firmware.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default). It is pulled if it isn't there, which
//! takes a while.

mod common;

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::package::file_of_package;
use common::turn::Turn;
use common::{Terminal, finish, rvisor};
use rvisor_hosted::disk::{Format, create_overlay};
use rvisor_images::{Image, Store};
use tempfile::TempDir;

/// For a boot to the login, on a slow and busy host.
const BOOT: Duration = Duration::from_secs(900);
/// The same in lockstep.
const LONG_BOOT: Duration = Duration::from_secs(3600);
/// For anything else.
const LIMIT: Duration = Duration::from_secs(300);
/// For the image to be built.
const PULL: Duration = Duration::from_secs(3600);

/// A mirror where nobody listens.
const NO_MIRROR: &str = "http://127.0.0.1:1";

/// The image, and the turn to run a machine from it.
fn debian() -> (Turn, &'static Image) {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        finish(&mut rvisor(["pull", "debian"]), b"", PULL).assert(0, "debian\n");
        Store::open_default().and_then(|store| store.get("debian")).expect("the image")
    });
    (Turn::take(), image)
}

/// A machine with a disk of its own over the image's.
struct OwnDisk(TempDir);

impl OwnDisk {
    fn new(image: &Image) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let base = image.disk.as_deref().expect("the image has a disk");
        create_overlay(&directory.path().join("disk.qcow2"), base, Some(Format::Raw)).expect("an overlay");
        Self(directory)
    }

    /// `rvisor boot ARGUMENTS… --disk DISK`, on a terminal.
    fn boot(&self, arguments: &[&str]) -> Terminal {
        let disk = self.0.path().join("disk.qcow2");
        let words = [&["boot"], arguments, &["--disk", text(&disk)]].concat();
        Terminal::start(&mut rvisor(words))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The arguments for Debian's own kernel and initial RAM disk.
fn own_kernel(image: &Image) -> [&str; 6] {
    let initrd = image.initrd.as_deref().expect("the image has an initrd");
    // On a starved host, devices take longer to appear than systemd waits by itself.
    static APPEND: OnceLock<String> = OnceLock::new();
    let append =
        APPEND.get_or_init(|| format!("{} systemd.default_device_timeout_sec=900", image.manifest.append));
    ["--kernel", text(&image.kernel), "--initrd", text(initrd), "--append", append]
}

/// Waits for root's shell, which the image opens without a password, on the machine of this name.
#[track_caller]
fn log_in(terminal: &mut Terminal, host: &str) {
    terminal.expect(&format!("{host} login:"), BOOT);
    terminal.expect(&format!("root@{host}"), BOOT);
}

/// What the guest's shell has typed into it, and what it must answer.
#[track_caller]
fn ask(terminal: &mut Terminal, question: &str, answer: &str) {
    terminal.send(&format!("{question}\r"));
    terminal.expect(answer, LIMIT);
}

#[track_caller]
fn power_off(mut terminal: Terminal) {
    terminal.send("poweroff\r");
    assert_eq!(terminal.end(LIMIT).code(), Some(0));
}

#[test]
fn command_runs_without_network_once_the_image_is_there() {
    let (_turn, _) = debian();
    let words = ["run", "--rm", "--mirror", NO_MIRROR, "debian", "--", "uname", "-m"];
    finish(&mut rvisor(words), b"", BOOT).assert(0, "riscv64\n");
}

#[test]
fn command_has_its_streams_and_exit_code() {
    let (_turn, _) = debian();
    let command = ". /etc/os-release; echo $ID; hostname; cat; echo oops >&2; exit 7";
    let name = format!("streams-{}", std::process::id());
    let words = ["run", "--rm", "--name", &name, "debian", "--", "sh", "-c", command];
    let ended = finish(&mut rvisor(words), b"input\n", BOOT);
    ended.assert(7, &format!("debian\n{name}\ninput\n"));
    assert_eq!(ended.stderr, "oops\n");
}

#[test]
fn run_without_a_command_is_a_login_shell_on_a_terminal() {
    let (_turn, _) = debian();
    let name = format!("shell-{}", std::process::id());
    let mut terminal = Terminal::start(&mut rvisor(["run", "--rm", "--name", &name, "debian"]));
    terminal.expect("Ctrl-A x ends the machine", LIMIT);
    log_in(&mut terminal, &name);
    ask(&mut terminal, "echo $0 on $(tty) is $(id -un)", "-bash on /dev/ttyS0 is root");
    ask(&mut terminal, "apt list 2>&1 | grep -c ^dpkg/", "1");
    power_off(terminal);
}

#[test]
fn boots_to_a_login_with_one_hart_and_reboots() {
    let (_turn, image) = debian();
    let disk = OwnDisk::new(image);
    let mut terminal = disk.boot(&own_kernel(image));
    log_in(&mut terminal, "debian");
    ask(&mut terminal, "touch /kept; echo $(findmnt -no FSTYPE,SOURCE /) $(nproc)", "ext4 /dev/vda1 1");
    terminal.send("reboot\r");
    log_in(&mut terminal, "debian");
    ask(&mut terminal, "ls /kept; echo state: $(systemctl is-system-running --wait)", "state: running");
    power_off(terminal);
}

fn boots_to_a_login_with(harts: &str) {
    let (_turn, image) = debian();
    let disk = OwnDisk::new(image);
    let mut terminal = disk.boot(&[&own_kernel(image)[..], &["--cpus", harts]].concat());
    log_in(&mut terminal, "debian");
    ask(&mut terminal, "echo harts: $(nproc)", &format!("harts: {harts}"));
    power_off(terminal);
}

#[test]
fn boots_to_a_login_with_two_harts() {
    boots_to_a_login_with("2");
}

#[test]
fn boots_to_a_login_with_four_harts() {
    boots_to_a_login_with("4");
}

/// Takes several minutes, and asks for a host that has a core to spare.
#[test]
#[ignore = "long; `cargo test --release -p rvisor --test debian -- --ignored --nocapture`"]
fn boots_to_a_login_in_lockstep() {
    let (_turn, image) = debian();
    let disk = OwnDisk::new(image);
    let started = Instant::now();
    let mut terminal = disk.boot(&[&own_kernel(image)[..], &["--engine", "lockstep"]].concat());
    terminal.expect("debian login:", LONG_BOOT);
    println!("login prompt after {:.0} s", started.elapsed().as_secs_f64());
    terminal.expect("root@debian", LONG_BOOT);
    power_off(terminal);
}

#[test]
fn opensbi_starts_the_kernel() {
    let (_turn, image) = debian();
    let disk = OwnDisk::new(image);
    let firmware =
        file_of_package("opensbi", "riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin", disk.0.path());
    let mut terminal =
        disk.boot(&[&own_kernel(image)[..], &["--firmware", text(&firmware), "--cpus", "2"]].concat());
    terminal.expect("OpenSBI v1.6", LIMIT);
    // The disk under firmware is booted to its login below.
    terminal.expect("Brought up 1 node, 2 CPUs", LIMIT);
    terminal.expect("Run /init as init process", BOOT);
    terminal.send("\x01x");
    assert_eq!(terminal.end(LIMIT).code(), Some(0));
}

/// U-Boot in S-mode: in M-mode it has no SBI to offer to a kernel.
#[test]
fn opensbi_and_u_boot_boot_the_disk() {
    let (_turn, image) = debian();
    let disk = OwnDisk::new(image);
    let firmware = file_of_package("opensbi", "riscv64-linux-gnu/opensbi/generic/fw_jump.bin", disk.0.path());
    let loader = file_of_package("u-boot-qemu", "qemu-riscv64_smode/u-boot.bin", disk.0.path());
    let mut terminal = disk.boot(&["--firmware", text(&firmware), "--kernel", text(&loader)]);
    terminal.expect("OpenSBI v1.6", LIMIT);
    terminal.expect("U-Boot 2025.01", LIMIT);
    terminal.expect("Retrieving file: /vmlinuz", LIMIT);
    log_in(&mut terminal, "debian");
    power_off(terminal);
}

#[test]
fn u_boot_in_m_mode_reads_the_disk() {
    let (_turn, image) = debian();
    let disk = OwnDisk::new(image);
    let firmware = file_of_package("u-boot-qemu", "qemu-riscv64/u-boot.bin", disk.0.path());
    let mut terminal = disk.boot(&["--firmware", text(&firmware)]);
    terminal.expect("U-Boot 2025.01", LIMIT);
    terminal.expect("Hit any key to stop autoboot", LIMIT);
    terminal.send(" ");
    terminal.expect("=> ", LIMIT);
    ask(&mut terminal, "ls virtio 0:1 /boot/extlinux", "extlinux.conf");
    terminal.expect("=> ", LIMIT);
    terminal.send("\x01x");
    assert_eq!(terminal.end(LIMIT).code(), Some(0));
}
