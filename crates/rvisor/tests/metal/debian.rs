//! The whole Debian userland as a guest of the type-1 home, on its range of the disk, up to its login. Takes minutes each, and needs the
//! image `debian`, and QEMU for two of them.

use std::time::Duration;

use crate::common::{Terminal, finish, rvisor};
use crate::{LIMIT, bundle, run};

/// QEMU without the H extension needs nearly all of it, on a busy host.
const BOOT: Duration = Duration::from_secs(1800);

/// On a slow or busy host udev needs more than the 90 s that systemd waits for the serial line.
const DESCRIPTION: &str = "\
[[network]]
name = 'lan'
uplink = true

[[guest]]
name = 'debian'
image = 'debian'
append = 'systemd.default_device_timeout_sec=900'
memory = '512M'
harts = 2
disk = { start = '1M', size = '4G' }
network = 'lan'
";

fn debian_logs_in(hardware: &[&str]) {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let directory = tempfile::tempdir().expect("a directory");
    let bundle = bundle(directory.path(), DESCRIPTION);
    let (guests, disk) = (directory.path().join("guests.toml"), directory.path().join("disk"));
    let [guests, disk] = [guests.to_str().expect("text"), disk.to_str().expect("text")];
    finish(&mut rvisor(["bundle", "disk", guests, "-o", disk]), b"", LIMIT).assert(0, "");
    let options = ["--cpus", "2", "--memory", "1G", "--disk", disk];
    let mut terminal = Terminal::start(&mut run(&bundle, &[&options, hardware].concat()));
    terminal.expect("debian login:", BOOT);
    terminal.expect("root@debian:~#", LIMIT);
    // What was typed has other letters than the answer.
    terminal.send("echo $((6 * 7))nd; df / | grep -o vda1; sync; poweroff\r");
    terminal.expect("42nd", LIMIT);
    terminal.expect("vda1", LIMIT);
    terminal.expect("rvisor: guest debian: powered off", LIMIT);
    assert!(terminal.end(LIMIT).success());
}

#[test]
#[ignore = "takes minutes"]
fn debian_reaches_its_login() {
    debian_logs_in(&[]);
}

#[test]
#[ignore = "takes minutes"]
fn debian_reaches_its_login_with_hypervisor_extension() {
    debian_logs_in(&["--extensions", "h"]);
}

#[test]
#[ignore = "needs QEMU; takes minutes"]
fn debian_reaches_its_login_on_qemu() {
    debian_logs_in(&["--machine", "qemu"]);
}

#[test]
#[ignore = "needs QEMU; takes minutes"]
fn debian_reaches_its_login_on_qemu_with_hypervisor_extension() {
    debian_logs_in(&["--machine", "qemu", "--extensions", "h"]);
}
