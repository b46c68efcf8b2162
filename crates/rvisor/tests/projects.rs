//! The book's "Recipes for projects", by the commands that stand there. What installs something is left out, and
//! machines and images have names that are no user's.

mod common;

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::book::Page;
use common::{Ended, Machine, finish, images, rvisor};
use rvisor_images::Store;

/// For cargo and a machine, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

const PAGE: &str = "recipes-for-projects.md";
const CARGO: &str = "`cargo test` with Rvisor as the runner";
const MAKE: &str = "`make check` of a C project";
const CI: &str = "A job in CI";

/// Words at the beginning of commands that install something, which is done before a test.
const INSTALLS: [&str; 3] = ["sudo apt-get install", "rustup target add", "cargo install"];

fn installs(command: &str) -> bool {
    INSTALLS.iter().any(|words| command.starts_with(words))
}

/// A project in a directory of its own.
struct Project {
    _directory: tempfile::TempDir,
    /// Without links on the way, as the guest has it too.
    path: PathBuf,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().canonicalize().expect("its path");
        let project = Self { _directory: directory, path };
        files.iter().for_each(|(name, content)| project.write(name, content));
        project
    }

    /// Writes a file of it. One that begins with `#!` can be executed.
    fn write(&self, name: &str, content: &str) {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, content).expect("a file");
        if content.starts_with("#!") {
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a program");
        }
    }

    fn place(&self) -> &str {
        self.path.to_str().expect("text")
    }

    /// A shell in its directory that finds this Rvisor and this cargo, and takes commands up to one that fails.
    fn shell(&self, commands: &[&str]) -> Command {
        let programs = [env!("CARGO_BIN_EXE_rvisor"), env!("CARGO")].map(Path::new);
        let before = programs.iter().filter_map(|program| program.parent()).map(Path::to_owned);
        let rest = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(before.chain(env::split_paths(&rest))).expect("a path");
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &commands.join("\n")]).current_dir(&self.path).env("PATH", path);
        shell.env("CARGO_TARGET_DIR", self.path.join("target")).env("CARGO_NET_OFFLINE", "true");
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RVISOR_LOG"] {
            shell.env_remove(variable);
        }
        shell
    }

    fn run(&self, commands: &[&str]) -> Ended {
        finish(&mut self.shell(commands), b"", LIMIT)
    }
}

const MANIFEST: &str = r#"
[package]
name = "guest"
version = "0.1.0"
edition = "2024"

[[test]]
name = "guest"
harness = false

[workspace]
"#;

/// Opens the file that it is told, copies it to standard output, and ends with code 7 if it isn't there.
const TEST: &str = r#"
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

global_asm!(".globl _start", "_start: mv a0, sp", "call main");

unsafe fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    unsafe { asm!("ecall", in("a7") number, inlateout("a0") a => result, in("a1") b, in("a2") c) };
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn main(stack: *const usize) -> ! {
    unsafe {
        let path = if *stack > 1 { *stack.add(2) } else { c"data/expected".as_ptr() as usize };
        let file = call(56, -100_isize as usize, path, 0);
        if file < 0 {
            call(94, 7, 0, 0);
        }
        let mut bytes = [0_u8; 256];
        let length = call(63, file as usize, bytes.as_mut_ptr() as usize, bytes.len());
        call(64, 1, bytes.as_ptr() as usize, length as usize);
        call(94, 0, 0, 0);
    }
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
"#;

#[test]
fn cargo_runs_tests_in_a_guest() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let page = Page::open(PAGE);
    let project = Project::new(&[
        ("Cargo.toml", MANIFEST),
        ("src/lib.rs", "#![no_std]\n"),
        ("tests/guest.rs", TEST),
        ("data/expected", "from the host\n"),
    ]);
    // The page's runner, for a target that needs no linker of a distribution's.
    let sessions = page.sessions(CARGO);
    let runner = sessions[0].iter().find(|command| command.contains("_RUNNER=")).expect("the runner");
    let runner = runner.replace("_LINUX_GNU_", "_NONE_ELF_");
    let cargo = |words: &str| {
        let test = "cargo test --quiet --target riscv64gc-unknown-none-elf --test guest";
        let commands = [&*runner, "export CARGO_PROFILE_TEST_PANIC=abort", &format!("{test} {words}")];
        project.run(&commands)
    };
    cargo("").assert(0, "from the host\n");
    let failed = cargo("-- data/missing");
    assert_ne!(failed.status.code(), Some(0));
    assert!(failed.stderr.contains("exit status: 7"), "{}", failed.stderr);
}

/// A package with all kinds of tests, and another one in its workspace.
const PACKAGES: [(&str, &str); 7] = [
    (
        "Cargo.toml",
        r#"
[package]
name = "sums"
version = "0.1.0"
edition = "2024"

[[test]]
name = "code"
harness = false

[workspace]
members = ["member"]
"#,
    ),
    (
        "src/lib.rs",
        r#"
/// The sum of numbers, one a line.
///
/// ```
/// assert_eq!(sums::sum("1\n2\n"), 3);
/// assert_eq!(std::env::consts::ARCH, "riscv64");
/// ```
pub fn sum(text: &str) -> u64 {
    text.lines().map(|line| line.parse::<u64>().unwrap()).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_on_riscv() {
        assert_eq!(std::env::consts::ARCH, "riscv64");
    }

    #[test]
    fn reads_a_file_of_the_project() {
        assert_eq!(super::sum(&std::fs::read_to_string("data/numbers").unwrap()), 6);
    }

    #[test]
    #[should_panic]
    fn unwinds() {
        super::sum("no number");
    }
}
"#,
    ),
    (
        "tests/code.rs",
        r#"
fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/code");
    std::process::exit(std::fs::read_to_string(path).unwrap().trim().parse().unwrap());
}
"#,
    ),
    ("data/numbers", "1\n2\n3\n"),
    ("data/code", "0\n"),
    ("member/Cargo.toml", "[package]\nname = \"member\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
    (
        "member/src/lib.rs",
        r#"
#[test]
fn runs_in_its_own_directory() {
    assert!(std::fs::exists("src/lib.rs").unwrap() && !std::fs::exists("member").unwrap());
}
"#,
    ),
];

/// Checks that all tests of the package ran, and passed.
#[track_caller]
fn assert_passed(ended: &Ended) {
    let text = ended.text();
    assert_eq!(ended.status.code(), Some(0), "{text}{}", ended.stderr);
    for test in ["reads_a_file_of_the_project", "runs_on_riscv", "unwinds - should panic"] {
        assert!(text.contains(&format!("test tests::{test} ... ok")), "{text}");
    }
    assert!(text.contains("test src/lib.rs - sum (line 4) ... ok"), "{text}{}", ended.stderr);
}

#[test]
#[ignore = "needs the target riscv64gc-unknown-linux-gnu, and Debian's gcc-riscv64-linux-gnu"]
fn cargo_tests_a_package_with_std() {
    /// What a program of tests ends with if one has failed.
    const FAILED: i32 = 101;
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let page = Page::open(PAGE);
    let mut sessions = page.sessions(CARGO);
    sessions.iter_mut().for_each(|session| session.retain(|command| !installs(command)));
    let [gnu, _musl, kept] = &sessions[..] else { panic!("three sessions: {sessions:?}") };
    let project = Project::new(&PACKAGES);
    assert_passed(&project.run(gnu));

    project.write("data/code", "7\n");
    let failed = project.run(gnu);
    assert_eq!(failed.status.code(), Some(7), "{}", failed.stderr);
    project.write("data/code", "0\n");
    project.write("data/numbers", "1\n");
    let failed = project.run(gnu);
    assert_eq!(failed.status.code(), Some(FAILED), "{}", failed.stderr);
    assert!(failed.text().contains("reads_a_file_of_the_project ... FAILED"), "{}", failed.text());
    project.write("data/numbers", "1\n2\n3\n");

    // One machine for all of them, in a shell where the rest is set already.
    let machine = Machine::named("tests");
    let set: Vec<_> = gnu.iter().copied().filter(|command| command.contains("export")).collect();
    let kept: Vec<_> = kept.iter().map(|command| command.replace("tests", &machine.0)).collect();
    let [start, runner, test, remove] = &kept[..] else { panic!("four commands: {kept:?}") };
    assert_passed(&project.run(&[&set[..], &[start, runner, test]].concat()));
    // And for all packages of a workspace.
    let config = page.code(CARGO, "toml")[0];
    project.write(".cargo/config.toml", &config.replace("tests", &machine.0));
    let set: Vec<_> = set.into_iter().filter(|command| !command.contains("CARGO_TARGET")).collect();
    let all = project.run(&[&set[..], &[&format!("{test} --workspace")]].concat());
    assert_passed(&all);
    assert!(all.text().contains("test runs_in_its_own_directory ... ok"), "{}", all.text());
    project.run(&[remove]).assert(0, &format!("{}\n", machine.0));
}

/// A project as autoconf has it, without autoconf.
const CONFIGURED: [(&str, &str); 6] = [
    (
        "configure",
        r#"#!/bin/sh
set -e
case $1 in --host=*) cc=${1#--host=}-gcc ;; *) cc=cc ;; esac
echo 'int check[sizeof(void *) == 8 ? 1 : -1];' >conftest.c
$cc -c conftest.c
rm conftest.c conftest.o
sed "s/@CC@/$cc/" Makefile.in >Makefile
"#,
    ),
    (
        "Makefile.in",
        "sum: main.o sum.o\n\t@CC@ -o $@ $^\n%.o: %.c\n\t@CC@ -O2 -c -o $@ $<\n\
         check: sum\n\t./sum <numbers | diff expected -\n\t@echo checked on `uname -m`\n",
    ),
    ("sum.c", "long sum(long a, long b) { return a + b; }\n"),
    (
        "main.c",
        "#include <stdio.h>\nlong sum(long, long);\nint main(void) {\n    long all = 0, number;\n    \
         while (scanf(\"%ld\", &number) == 1) all = sum(all, number);\n    printf(\"%ld\\n\", all);\n    return 0;\n}\n",
    ),
    ("numbers", "1\n2\n3\n"),
    ("expected", "6\n"),
];

/// The session under the page's heading that begins with these words, with the tests' image.
fn session(page: &Page, words: &str) -> Vec<String> {
    let image = format!(" {} ", images::with_compiler());
    let mut sessions = page.sessions(MAKE).into_iter();
    let session = sessions.find(|commands| commands[0].starts_with(words)).expect("a session");
    session.into_iter().map(|command| command.replace(" build ", &image)).collect()
}

/// Checks that the project was built for RISC-V, that its check has passed, and whose its files are.
#[track_caller]
fn assert_checked(project: &Project, ended: &Ended) {
    /// `EM_RISCV`, where an ELF file names its machine.
    const RISCV: [u8; 2] = [243, 0];
    assert_eq!(ended.status.code(), Some(0), "{}{}", ended.text(), ended.stderr);
    assert!(ended.text().ends_with("\nchecked on riscv64\n"), "{}", ended.text());
    let owner = fs::metadata(&project.path).expect("the project");
    for name in ["Makefile", "main.o", "sum.o", "sum"] {
        let file = fs::metadata(project.path.join(name)).expect("what was built");
        assert_eq!((file.uid(), file.gid()), (owner.uid(), owner.gid()), "{name}");
    }
    assert_eq!(fs::read(project.path.join("sum")).expect("the program")[18..20], RISCV);
}

#[test]
fn c_project_is_built_and_checked_in_a_guest() {
    /// What make ends with if a command has failed.
    const MAKE_FAILED: i32 = 2;
    let page = Page::open(PAGE);
    assert!(page.code(MAKE, "toml")[0].starts_with("# build.toml\n"));
    let session = session(&page, "rvisor build build.toml");
    // What the first one does is done.
    let [_, check] = &session[..] else { panic!("two commands: {session:?}") };
    let project = Project::new(&CONFIGURED);
    assert_checked(&project, &project.run(&[check]));

    project.write("expected", "7\n");
    let failed = project.run(&[check]);
    assert_eq!(failed.status.code(), Some(MAKE_FAILED), "{}{}", failed.text(), failed.stderr);
    assert!(failed.text().ends_with("\n< 7\n---\n> 6\n"), "{}", failed.text());
}

#[test]
#[ignore = "needs make and Debian's gcc-riscv64-linux-gnu"]
fn c_project_that_was_built_here_is_checked_in_a_guest() {
    let session = session(&Page::open(PAGE), "./configure");
    let project = Project::new(&CONFIGURED);
    let ended = project.run(&session.iter().map(String::as_str).collect::<Vec<_>>());
    assert_checked(&project, &ended);
}

/// The variables of the page's job, for a workspace.
fn variables<'a>(job: &'a str, workspace: &str) -> Vec<(&'a str, String)> {
    let lines = job.lines().skip_while(|line| line.trim() != "env:").skip(1);
    let lines: Vec<_> = lines.take_while(|line| line.starts_with("      ")).collect();
    // A value is on its variable's line, or on the next one.
    let values = lines.iter().enumerate().filter_map(|(index, line)| {
        let (name, value) = line.trim().split_once(": ")?;
        let value = if value == ">-" { lines.get(index + 1)?.trim() } else { value };
        // The mirror's variable is empty in a repository that doesn't set it.
        let value = value.replace("${{ vars.DEBIAN_MIRROR }}", "");
        Some((name, value.replace("${{ github.workspace }}", workspace)))
    });
    values.collect()
}

#[test]
#[ignore = "needs the target riscv64gc-unknown-linux-gnu, and Debian's gcc-riscv64-linux-gnu"]
fn job_in_ci_runs_the_tests() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let page = Page::open(PAGE);
    let job = page.code(CI, "yaml")[0];
    let steps = job.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
    let steps: Vec<_> = steps.filter(|command| !installs(command)).collect();
    let [pull, test] = steps[..] else { panic!("two steps: {steps:?}") };
    let project = Project::new(&PACKAGES);
    // What the step with the cache brings back.
    let store = Store::open_default().expect("a store").root().canonicalize().expect("its path");
    symlink(store, project.path.join(".rvisor")).expect("a link");
    let variables = variables(job, project.place());
    assert_eq!(variables.len(), 4, "{variables:?}");
    let run = |step| {
        assert!(!format!("{step}{variables:?}").contains("${{"), "{step} {variables:?}");
        let variables = variables.iter().map(|(name, value)| (name, value));
        finish(project.shell(&[step]).envs(variables), b"", LIMIT)
    };
    run(pull).assert(0, "debian\n");
    assert_passed(&run(test));
}
