//! Shared directories, in a guest. What a hostile guest tries is tested without one, in `rvisor-hosted`.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default); it is pulled if it isn't there.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{Ended, Machine, finish, images, rvisor};

/// For anything that a machine does, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(400);

/// What is done in the guest; each line of its output says what worked. `/src` is shared, `/ro` is shared for reading.
const SCRIPT: &str = r#"
set -e
cat hello; cat /ro/sub/f; cat "/etc/one file"
! cat outside 2>/dev/null && echo link leads into the guest
! touch /ro/x 2>/dev/null && ! echo x >>/ro/sub/f && echo read-only 2>/dev/null
mkdir -p deep/er
i=0; while [ $i -lt 300 ]; do echo $i >deep/file-$i; i=$((i + 1)); done
echo $(ls deep | wc -l) entries, $(cat deep/file-* | wc -l) lines
rm deep/file-1*; echo $(ls deep | wc -l) entries
dd if=/dev/urandom of=big bs=65536 count=40 2>/dev/null
cp big copy; sync; cmp big copy; sha256sum big | cut -d' ' -f1 >sum
exec 5<>open; rm open; echo kept >&5; mv big moved; ln moved hard; ln -s moved soft
echo 1234567890 >append; echo more >>append; : >empty; echo long-line >cut; echo x >cut
chown 1:1 cut; chmod 750 cut; stat -c '%u:%g %a' cut
dd if=/dev/zero of=sparse bs=1 count=1 seek=1000000 2>/dev/null; stat -c %s sparse
mkfifo fifo; (echo through >fifo &); cat fifo
flock -x lock -c 'echo locked'
! mknod device c 1 3 2>/dev/null && echo no device
touch -d '2001-02-03 04:05:06' old; umount /ro; ls /ro | wc -l
"#;

/// With these options for the machine, too.
fn guest_works_on_shares(options: &[&str]) {
    let host = tempfile::tempdir().unwrap();
    let (src, ro) = (host.path().join("src"), host.path().join("a:b"));
    fs::create_dir_all(&src).unwrap();
    fs::create_dir_all(ro.join("sub")).unwrap();
    fs::write(src.join("hello"), "hello\n").unwrap();
    fs::write(ro.join("sub/f"), "f\n").unwrap();
    fs::write(host.path().join("secret"), "secret\n").unwrap();
    symlink(host.path().join("secret"), src.join("outside")).unwrap();
    let volumes = [
        format!("{}:/src", src.display()),
        format!("{}:/ro:ro", ro.display()),
        format!("{}:/etc/one file", src.join("hello").display()),
    ];
    let volumes: Vec<_> = volumes.iter().flat_map(|volume| ["-v", volume]).collect();
    let command = ["debian", "--", "sh", "-c", SCRIPT];
    let words = [&["run", "--rm", "-w", "/src"], &volumes[..], options, &command].concat();
    let ended = finish(&mut rvisor(words), b"", LIMIT);
    let expected = "hello\nf\nhello\nlink leads into the guest\nread-only\n301 entries, 300 lines\n190 entries\n\
                    0:0 750\n1000001\nthrough\nlocked\nno device\n0\n";
    ended.assert(0, expected);

    let sum = Command::new("sha256sum").arg(src.join("moved")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(sum.split(' ').next(), fs::read_to_string(src.join("sum")).unwrap().split('\n').next());
    assert_eq!(fs::read(src.join("soft")).unwrap(), fs::read(src.join("copy")).unwrap());
    assert_eq!(fs::read_to_string(src.join("append")).unwrap(), "1234567890\nmore\n");
    assert_eq!(fs::read_to_string(src.join("cut")).unwrap(), "x\n");
    assert_eq!(fs::metadata(src.join("hard")).unwrap().nlink(), 2);
    let cut = fs::metadata(src.join("cut")).unwrap();
    assert_eq!((cut.uid(), cut.permissions().mode() & 0o7777), (rustix::process::geteuid().as_raw(), 0o750));
    assert_eq!(fs::metadata(src.join("old")).unwrap().mtime() / 86400, 11356);
    assert!(!src.join("open").exists() && !src.join("device").exists());
    assert_eq!(fs::read_to_string(ro.join("sub/f")).unwrap(), "f\n");
}

#[test]
fn guest_works_on_shared_directories_and_files_are_the_user_s() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    guest_works_on_shares(&["--cold"]);
    guest_works_on_shares(&[]);
}

#[test]
fn machine_with_shares_begins_as_a_copy_and_is_not_saved() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("f"), "shared\n").unwrap();
    let volume = format!("{}:/deep/in/it:ro", host.path().display());
    let machine = Machine::run("copy", &["-v", &volume, "debian", "--", "sleep", "infinity"]);
    machine
        .exec(&["sh", "-c", "cat /deep/in/it/f; mountpoint -q /run/rvisor-shares || echo put"])
        .assert(0, "shared\nput\n");
    assert!(machine.directory().join("base.qcow2").exists(), "the disk of what it is a copy of");
    machine.refuse(&["snapshot", "create"], "has shared directories (--volume)");
    // Where it can't be put, nothing is run.
    let bad = format!("{}:/etc/passwd/x", host.path().display());
    for options in [&["--cold"][..], &[]] {
        let words = [&["run", "--rm", "-v", &bad], options, &["debian", "--", "echo", "ran"]].concat();
        let ended = finish(&mut rvisor(words), b"", LIMIT);
        ended.assert(125, "");
        assert!(ended.stderr.contains("can't put a shared directory at /etc/passwd/x"), "{}", ended.stderr);
    }
}

/// With these options for the machine, too.
fn shares_are_in_their_places(options: &[&str]) {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("f"), "shared\n").unwrap();
    let machine = Machine::named("shares");
    let volumes = [
        format!("{}:/srv/x:uid=33,gid=33", host.path().display()),
        format!("{}:/tmp/y:ro", host.path().display()),
    ];
    let words = ["run", "-d", "--name", &machine.0, "-v", &volumes[0], "-v", &volumes[1]];
    finish(&mut rvisor([&words[..], options, &["debian"]].concat()), b"", LIMIT)
        .assert(0, &format!("{}\n", machine.0));
    let exec = |options: &[&str], script: &str| {
        let words = [&["exec"], options, &[machine.0.as_str(), "sh", "-c", script]].concat();
        finish(&mut rvisor(words), b"", LIMIT)
    };
    // Once the system has started, and mounted what it mounts.
    exec(&[], "timeout 300 systemctl is-system-running --wait >/dev/null; cat /srv/x/f /tmp/y/f")
        .assert(0, "shared\nshared\n");
    let script =
        "id -u; id -g; echo $HOME; echo mine >/srv/x/g; stat -c %U /srv/x/g; ! touch /tmp/y/h 2>/dev/null";
    exec(&["-u", "www-data", "-w", "/"], script).assert(0, "33\n33\n/var/www\nwww-data\n");
    exec(&["-u", "12:34"], "id -u; id -g").assert(0, "12\n34\n");
    assert_eq!(exec(&["-u", "nobody-here"], "true").status.code(), Some(126));
    assert_eq!(fs::read_to_string(host.path().join("g")).unwrap(), "mine\n");
    assert_eq!(fs::metadata(host.path().join("g")).unwrap().uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn shares_are_there_in_a_booted_system_and_for_other_users() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    shares_are_in_their_places(&["--cold"]);
    shares_are_in_their_places(&[]);
}

/// A project in C that counts words.
const PROJECT: [(&str, &str); 5] = [
    (".gitignore", "*.o\n/words\n"),
    ("Makefile", "words: main.o count.o\n\tcc -o $@ $^\n%.o: %.c count.h\n\tcc -O2 -c -o $@ $<\n"),
    ("count.h", "long count(void);\n"),
    (
        "count.c",
        "#include <stdio.h>\n#include \"count.h\"\nlong count(void) {\n    long words = 0;\n    char word[100];\n    \
         while (scanf(\"%99s\", word) == 1) words++;\n    return words;\n}\n",
    ),
    (
        "main.c",
        "#include <stdio.h>\n#include \"count.h\"\nint main(void) { printf(\"%ld\\n\", count()); return 0; }\n",
    ),
];

/// When a file was written, in nanoseconds since 1970.
fn written(path: &Path) -> i128 {
    let file = fs::metadata(path).expect("a file");
    i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec())
}

#[test]
fn c_project_with_its_repository_is_built_in_the_guest() {
    /// A user of the guest, who has no rights there but over the share.
    const USER: &str = "1000:1000";
    const COMMIT: &str = "git -c user.name=A -c user.email=a@example.org commit --quiet --all --message";
    let image = images::with_compiler();
    let host = tempfile::tempdir().unwrap();
    let src = host.path().join("src");
    fs::create_dir(&src).unwrap();
    for (name, content) in PROJECT {
        fs::write(src.join(name), content).unwrap();
    }
    let here = |script: &str| -> Ended {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).current_dir(&src);
        finish(shell.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null"), b"", LIMIT)
    };
    here(&format!("git init --quiet && git add . && {COMMIT} first")).assert(0, "");
    let machine = Machine::named("project");
    let volume = format!("{}:/src:uid=1000,gid=1000", src.display());
    let words = ["run", "-d", "--name", &machine.0, "-v", &volume, image, "--", "sleep", "infinity"];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
    let guest = |script: &str| -> Ended {
        let words = ["exec", "-u", USER, "-e", "HOME=/tmp", "-w", "/src", &machine.0, "sh", "-c", script];
        finish(&mut rvisor(words), b"", LIMIT)
    };
    let status = |expected: &str| {
        let ask = "git status --porcelain --ignored";
        guest(ask).assert(0, expected);
        here(ask).assert(0, expected);
    };
    status("");

    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i128;
    let (main, count) = ("cc -O2 -c -o main.o main.c\n", "cc -O2 -c -o count.o count.c\n");
    let link = "cc -o words main.o count.o\n";
    guest("make").assert(0, &format!("{main}{count}{link}"));
    guest("make").assert(0, "make: 'words' is up to date.\n");
    guest("echo one two three | ./words").assert(0, "3\n");
    let products = "!! count.o\n!! main.o\n!! words\n";
    status(products);
    let times = ["main.c", "main.o", "count.o", "words"].map(|name| written(&src.join(name)));
    assert!(times.is_sorted(), "{times:?}");
    // The host's file systems tell the time of their clock's last tick, up to ten milliseconds ago.
    assert!(times[0] < begun && begun - 10_000_000 <= times[1], "{begun} {times:?}");

    // Each side sees what the other one changes.
    fs::write(src.join("count.c"), PROJECT[3].1.replace("words++", "words += 2")).unwrap();
    guest("make").assert(0, &format!("{count}{link}"));
    guest("echo one two three | ./words").assert(0, "6\n");
    status(&format!(" M count.c\n{products}"));
    guest(&format!("{COMMIT} second")).assert(0, "");
    status(products);
    here("git fsck --strict --no-progress && git log --format=%s").assert(0, "second\nfirst\n");
    assert_all_belong_to_owner(&src);
}

/// Whoever owns a directory owns all that is in it.
fn assert_all_belong_to_owner(directory: &Path) {
    let owner = fs::metadata(directory).unwrap();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let (path, file) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            assert_eq!((file.uid(), file.gid()), (owner.uid(), owner.gid()), "{}", path.display());
            if file.is_dir() {
                directories.push(path);
            }
        }
    }
}

/// A package in Rust, and one beside it that it depends on, with a test.
const PACKAGE: [(&str, &str); 4] = [
    (
        "Cargo.toml",
        "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n\
         count = { path = \"count\" }\n",
    ),
    (
        "src/main.rs",
        "fn main() {\n    let text = std::io::read_to_string(std::io::stdin()).unwrap();\n    \
         println!(\"{} {}\", count::words(&text), std::env::consts::ARCH);\n}\n",
    ),
    ("count/Cargo.toml", "[package]\nname = \"count\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
    (
        "count/src/lib.rs",
        "pub fn words(text: &str) -> usize { text.split_whitespace().count() }\n\n#[test]\nfn words_are_counted() \
         { assert_eq!(words(\"one  two\"), 2); }\n",
    ),
];

#[test]
#[ignore = "builds an image with Debian's cargo: a quarter of an hour, and some 3 GiB of disk"]
fn package_in_rust_is_built_in_the_guest() {
    let image = images::with_cargo();
    let host = tempfile::tempdir().unwrap();
    let src = host.path().join("src");
    for (name, content) in PACKAGE {
        let path = src.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let machine = Machine::named("cargo");
    let volume = format!("{}:/src", src.display());
    let memory = ["--memory", "2G", "--cpus", "2"];
    let command = [image, "--", "sleep", "infinity"];
    let words = [&["run", "-d", "--name", &machine.0, "-v", &volume], &memory[..], &command].concat();
    finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
    let guest = |script: &str| -> Ended {
        let words = ["exec", "-e", "HOME=/tmp", "-w", "/src", &machine.0, "sh", "-c", script];
        finish(&mut rvisor(words), b"", LIMIT)
    };
    let compiled = |script: &str, expected: &[&str]| {
        let ended = guest(script);
        assert!(ended.status.success(), "{script}: {}", ended.stderr);
        let lines = ended.stderr.lines().filter_map(|line| line.trim().strip_prefix("Compiling "));
        let mut names: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{script}: {}", ended.stderr);
    };
    compiled("cargo build --release --offline", &["count", "words"]);
    guest("echo one two three | target/release/words").assert(0, "3 riscv64\n");
    compiled("cargo build --release --offline", &[]);
    // What the host changes is compiled anew, and nothing else.
    let changed = PACKAGE[1].1.replace("count::words(&text)", "2 * count::words(&text)");
    fs::write(src.join("src/main.rs"), changed).unwrap();
    compiled("cargo build --release --offline", &["words"]);
    guest("echo one two three | target/release/words").assert(0, "6 riscv64\n");
    let ended = guest("cargo test --offline --workspace");
    assert!(ended.text().contains("test words_are_counted ... ok"), "{}{}", ended.text(), ended.stderr);
    // Two at once: cargo's lock on its directory holds on a share, too.
    let script =
        "touch count/src/lib.rs; cargo build --offline & cargo build --offline; a=$?; wait $! && exit $a";
    assert!(guest(script).status.success());
    assert!(src.join("target/release/words").exists());
    assert_all_belong_to_owner(&src);
    guest("cargo clean && ls").assert(0, "Cargo.lock\nCargo.toml\ncount\nsrc\n");
}

#[test]
fn what_can_not_be_shared_is_refused_in_one_line() {
    for (volume, told) in [
        ("/no/such/place:/x", "/no/such/place"),
        ("/proc:/x", "view of processes"),
        ("/tmp:x", "absolute"),
        ("/tmp:/a/../b", "neither . nor .."),
        ("/tmp", "write HOST:GUEST"),
    ] {
        let ended = finish(&mut rvisor(["run", "--rm", "-v", volume, "busybox", "--", "true"]), b"", LIMIT);
        assert_eq!(ended.status.code(), Some(125), "{volume}");
        assert!(ended.stderr.contains(told) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
}
