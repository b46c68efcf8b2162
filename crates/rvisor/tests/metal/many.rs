//! Several guests at once: two Debian kernels with busybox and a kernel of our own, each with a card on one network and a range of the
//! disk; then U-Boot beside them. Written once, run on hardware of four kinds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::initrd::linux;
use crate::common::Terminal;
use crate::common::guests::guest;
use crate::common::package::file_of_package;
use crate::{LIMIT, bundle, run, words_for};

const MIB: u64 = 1 << 20;
/// Ranges of the disk: where each begins, and its bytes.
const ONE: (u64, u64) = (MIB, 2 * MIB);
const TWO: (u64, u64) = (4 * MIB, 2 * MIB);
const TINY: (u64, u64) = (7 * MIB, MIB / 4);
const BOOT: (u64, u64) = (8 * MIB, MIB);
const DISK: u64 = 10 * MIB;

/// With `more` words on our own kernel's command line.
fn description(directory: &Path, more: &str) -> String {
    let neighbour = linux(include_str!("neighbour.sh"), directory);
    let loader = file_of_package("u-boot-qemu", "qemu-riscv64_smode/u-boot.bin", directory);
    let range = |(start, size): (u64, u64)| format!("disk = {{ start = '{start}', size = '{size}' }}");
    let linux = |name: &str, own: u8, peer: u8, more: &str, at| {
        let append = format!("name={name} net=10.0.2.{own} ping=10.0.2.{peer},10.0.2.103");
        neighbour.table(name, "96M", &append, &format!("network = 'lan'\n{more}\n{}", range(at)))
    };
    let program = |name: &str, file: &Path, more: &str, at| {
        format!(
            "[[guest]]\nname = '{name}'\nprogram = '{}'\nnetwork = 'lan'\n{more}\n{}\n",
            file.display(),
            range(at)
        )
    };
    let tiny =
        format!("memory = '16M'\nharts = 2\nappend = 'net=10.0.2.103 ping=10.0.2.101,10.0.2.102 {more}'");
    [
        "[[network]]\nname = 'lan'\nuplink = true\n".into(),
        linux("one", 101, 102, "", ONE),
        linux("two", 102, 101, "harts = 2", TWO),
        program("tiny", &guest("kernel"), &tiny, TINY),
        program("boot", &loader, "memory = '64M'\nstart = false", BOOT),
    ]
    .concat()
}

/// What stands in a guest's range of the disk.
fn content(disk: &File, (start, size): (u64, u64)) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    disk.read_exact_at(&mut bytes, start).expect("the disk");
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As `guests/kernel` computes it.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The whole scenario, with these options for the hardware.
fn guests_share(hardware: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let bundle = bundle(directory.path(), &description(directory.path(), words_for(hardware)));
    let path = directory.path().join("disk");
    let disk = File::create_new(&path).and_then(|file| file.set_len(DISK)).and_then(|()| File::open(&path));
    let disk = disk.expect("a disk");
    let options = ["--cpus", "2", "--memory", "640M", "--disk", path.to_str().expect("text")];
    let mut terminal = Terminal::start(&mut run(&bundle, &[&options, hardware].concat()));
    terminal.refuse("FAILED");
    terminal.expect_all(
        &[
            "one: harts: 1",
            "two: harts: 2",
            "kernel: 2 harts answer",
            "kernel: disk of 512 sectors is sound",
            "one: 10.0.2.102 answers",
            "one: 10.0.2.103 answers",
            "two: 10.0.2.101 answers",
            "two: 10.0.2.103 answers",
            "kernel: [10, 0, 2, 101] answers",
            "kernel: [10, 0, 2, 102] answers",
        ],
        // Two boots at once, perhaps in QEMU without the H extension, which is slow.
        3 * LIMIT,
    );
    keyboard_is_the_chosen_guests(&mut terminal);
    boot_loader_works(&mut terminal);
    for (key, answer) in [
        ("1", "one: all heard: alpha delta end"),
        ("2", "two: all heard: beta end"),
        ("3", "kernel: all heard: gamma end"),
    ] {
        terminal.send(&format!("\x02{key}end\r"));
        terminal.expect(answer, LIMIT);
    }
    terminal.send("\x024poweroff\r");
    terminal.expect("guest boot: powered off", LIMIT);
    let text = terminal.transcript().to_owned();
    assert!(terminal.end(LIMIT).success(), "{text}");
    disk_has_what_guests_say(&disk, &text);
}

/// What is typed reaches the guest that has the keyboard, as the guests' own lists show in the end, too.
fn keyboard_is_the_chosen_guests(terminal: &mut Terminal) {
    for (key, name, word) in
        [("1", "one", "alpha"), ("2", "two", "beta"), ("n", "tiny", "gamma"), ("1", "one", "delta")]
    {
        terminal.send(&format!("\x02{key}"));
        terminal.expect(&format!("rvisor: keyboard: {name}"), LIMIT);
        terminal.send(&format!("{word}\r"));
        let name = if name == "tiny" { "kernel" } else { name };
        terminal.expect(
            &format!("[{}] {name}: heard {word}", if name == "kernel" { "tiny" } else { name }),
            LIMIT,
        );
    }
}

/// U-Boot is started at the monitor's prompt, and used: its disk, its neighbours, and the network outside.
fn boot_loader_works(terminal: &mut Terminal) {
    terminal.send("\x02m");
    terminal.expect("rvisor> ", LIMIT);
    terminal.send("start boot\rconsole boot\r");
    terminal.expect("rvisor: keyboard: boot", LIMIT);
    terminal.expect("Hit any key to stop autoboot", LIMIT);
    terminal.send("\r");
    terminal.expect("=> ", LIMIT);
    for (line, answer) in [
        ("virtio info", "2048 x 512"),
        ("setenv autoload no; until dhcp; do true; done", "DHCP client bound to address 10.0.2.15"),
        ("ping 10.0.2.2", "host 10.0.2.2 is alive"),
        ("ping 10.0.2.101", "host 10.0.2.101 is alive"),
        ("ping 10.0.2.103", "host 10.0.2.103 is alive"),
    ] {
        terminal.send(&format!("{line}\r"));
        terminal.expect(answer, LIMIT);
        terminal.expect("=> ", LIMIT);
    }
}

/// Each range has what its guest wrote there, and what is nobody's is as it was.
fn disk_has_what_guests_say(disk: &File, text: &str) {
    let sums = [
        format!("one: disk has {}", sha256(&content(disk, ONE))),
        format!("two: disk has {}", sha256(&content(disk, TWO))),
        format!("kernel: disk has {:016x}", fnv(&content(disk, TINY))),
    ];
    for sum in &sums {
        assert!(text.contains(sum), "{sum}\n{text}");
    }
    let ranges = [(0, 0), ONE, TWO, TINY, (DISK, 0)];
    for ends in ranges.windows(2) {
        let (end, next) = (ends[0].0 + ends[0].1, ends[1].0);
        assert!(content(disk, (end, next - end)).iter().all(|byte| *byte == 0), "from {end:#x}");
    }
}

#[test]
fn linux_our_own_kernel_and_u_boot_share_hardware() {
    guests_share(&[]);
}

#[test]
fn linux_our_own_kernel_and_u_boot_share_hardware_with_hypervisor_extension() {
    guests_share(&["--extensions", "h"]);
}

#[test]
#[ignore = "needs QEMU; takes minutes"]
fn linux_our_own_kernel_and_u_boot_share_qemu() {
    guests_share(&["--machine", "qemu"]);
}

#[test]
#[ignore = "needs QEMU; takes minutes"]
fn linux_our_own_kernel_and_u_boot_share_qemu_with_hypervisor_extension() {
    guests_share(&["--machine", "qemu", "--extensions", "h"]);
}
