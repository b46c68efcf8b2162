//! The type-1 home costs no more instructions than it is held to, on Rvisor's own machines.

use std::path::Path;
use std::process::Command;

/// Runs to a good end, at the workspace's root; what it printed.
fn finish(program: &Path, words: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(program).args(words).current_dir(root).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn costs_no_more_than_it_is_held_to(options: &[&str]) {
    let xtask = Path::new(env!("CARGO_BIN_EXE_xtask"));
    finish(&xtask.with_file_name("rvisor"), &["pull", "busybox"]);
    let table = finish(xtask, &[&["instructions"], options].concat());
    println!("{table}");
    // The head, the line below it, eight operations and the boot.
    assert_eq!(table.lines().count(), 11, "{table}");
}

#[test]
fn monitor_costs_no_more_than_it_is_held_to() {
    costs_no_more_than_it_is_held_to(&[]);
}

#[test]
fn monitor_costs_no_more_than_it_is_held_to_with_hypervisor_extension() {
    costs_no_more_than_it_is_held_to(&["--hypervisor"]);
}
