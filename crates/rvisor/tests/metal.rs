//! The type-1 home on Rvisor's own hosted home: its image is built, given a bundle, and runs Debian's kernel with
//! busybox.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use common::{Terminal, finish, rvisor};

/// For anything that a machine does, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(400);

/// The image of the type-1 home, as `cargo xtask metal` builds it.
fn monitor() -> &'static Path {
    const TARGET: &str = "riscv64gc-unknown-none-elf";
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metal");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--package", "rvisor-metal", "--features", "image"]);
        cargo.args(["--target", TARGET, "--target-dir"]).arg(&directory);
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(variable);
        }
        assert!(cargo.status().expect("cargo runs").success(), "the image builds");
        directory.join(TARGET).join("release/rvisor-metal")
    })
}

/// `rvisor bundle build` of a description.
fn bundle(directory: &Path, description: &str) -> PathBuf {
    let (guests, bundle) = (directory.join("guests.toml"), directory.join("bundle"));
    std::fs::write(&guests, description).expect("a file");
    let words = ["bundle", "build", guests.to_str().expect("text"), "-o", bundle.to_str().expect("text")];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, "");
    bundle
}

fn run(bundle: &Path, options: &[&str]) -> Command {
    let files = ["bundle", "run", bundle.to_str().expect("text"), "--monitor"];
    let mut command = rvisor(files);
    command.arg(monitor()).args(options);
    command
}

#[test]
fn debian_kernel_with_two_harts_reaches_its_first_program() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 3 * LIMIT).assert(0, "busybox\n");
    let directory = tempfile::tempdir().expect("a directory");
    let description = "[[guest]]\nname = 'one'\nimage = 'busybox'\nmemory = '128M'\nharts = 2\n";
    let bundle = bundle(directory.path(), description);
    let mut terminal = Terminal::start(&mut run(&bundle, &["--cpus", "2", "--memory", "512M"]));
    terminal.expect("engine deprivileged", LIMIT);
    terminal.expect("2 handlers for 2 contexts", LIMIT);
    terminal.expect("Run /init as init process", LIMIT);
}

/// The guest `costs`: a kernel that does what its command line says.
fn costs() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("costs");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--package", "costs", "--target-dir"]);
    cargo.arg(&target).current_dir(folder);
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    assert!(cargo.status().expect("cargo runs").success(), "the guest builds");
    target.join("riscv64gc-unknown-none-elf/release/costs")
}

/// What `costs` prints without its counts, alone and as a guest.
fn costs_alone_and_as_guest(kernel: &Path, append: &str) -> [String; 2] {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = kernel.to_str().expect("text");
    let description =
        format!("[[guest]]\nname = 'one'\nkernel = '{kernel}'\nappend = '{append}'\nmemory = '64M'\n");
    let bundle = bundle(directory.path(), &description);
    let mut alone = rvisor(["boot", "--memory", "64M", "--kernel", kernel, "--append", append]);
    [&mut alone, &mut run(&bundle, &["--memory", "256M"])].map(|command| {
        let text = finish(command, b"", LIMIT).text();
        let lines = text.lines().filter_map(|line| line.split_once("costs: "));
        let lines = lines.map(|(_, words)| words.rsplit_once(' ').map_or(words, |(words, _)| words));
        lines.collect::<Vec<_>>().join("\n")
    })
}

#[test]
fn guest_computes_and_traps_as_it_does_alone() {
    let kernel = costs();
    // Random instructions on CSRs, and their sum; then all that traps. The last word of a line is dropped.
    for (operation, lines) in [("csrs", 2), ("null", 1), ("fault", 1), ("switch", 1), ("timer", 1)] {
        let [alone, guest] = costs_alone_and_as_guest(&kernel, &format!("costs={operation},300"));
        assert_eq!((&alone, alone.lines().count()), (&guest, lines), "{operation}");
    }
}

#[test]
fn monitor_without_guests_or_memory_says_so_and_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = monitor().to_str().expect("text");
    let ended = finish(&mut rvisor(["boot", "--kernel", kernel, "--memory", "64M"]), b"", LIMIT);
    assert!(ended.text().contains("rvisor: error: no bundle"), "{}", ended.text());
    // Any kernel: it isn't started.
    let description = format!("[[guest]]\nname = 'big'\nkernel = '{kernel}'\nmemory = '1G'\n");
    let bundle = bundle(directory.path(), &description);
    let ended = finish(&mut run(&bundle, &["--memory", "128M"]), b"", LIMIT);
    assert!(ended.text().contains("guest big: no 1024 MiB"), "{}", ended.text());
}
