//! What can't be done is refused at once, in one line that says what to do, and leaves nothing behind.

#[path = "../../images/tests/support/mod.rs"]
mod archive;
mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use archive::{Manner, Server};
use common::{finish, rvisor};
use rvisor_images::archive::{Keyring, Release, mirror};
use rvisor_images::fetch::{FetchOptions, Fetcher};
use rvisor_images::{Name, NewImage, Store};
use tempfile::TempDir;

/// What Rvisor exits with when it couldn't do its part.
const FAILURE: i32 = 125;

/// Runs a command that must fail; returns the line that says why.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let ended = finish(command, b"", Duration::from_secs(60));
    let mut errors = ended.stderr.lines().filter_map(|line| line.strip_prefix("rvisor: error: "));
    let (Some(error), None) = (errors.next(), errors.next()) else {
        panic!("{command:?}: not one error\n{}", ended.stderr);
    };
    assert_eq!(ended.status.code(), Some(FAILURE), "{command:?}: {error}");
    assert!(ended.stdout.is_empty(), "{command:?} wrote {}", ended.text());
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.ends_with(error), "{command:?}: the error isn't the last line\n{}", ended.stderr);
    error.to_owned()
}

/// A directory with files of every kind, where the command runs.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn put(&self, name: &str, content: &[u8]) -> &Self {
        fs::write(self.0.path().join(name), content).expect("a file");
        self
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    /// Runs the words after `rvisor` in the directory; the error must tell each of `told`, and no file comes
    /// or goes.
    #[track_caller]
    fn refuse(&self, words: &str, told: &[&str]) {
        let before = self.names();
        let error = refused(rvisor(words.split(' ')).current_dir(self.0.path()));
        for text in told {
            assert!(error.contains(text), "rvisor {words}: {error:?} doesn't say {text:?}");
        }
        assert_eq!(self.names(), before, "rvisor {words} left something behind");
    }
}

/// The header of a kernel that needs `memory` bytes, and nothing behind it.
fn kernel(memory: u64) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[8..16].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    image[16..24].copy_from_slice(&memory.to_le_bytes());
    image[56..60].copy_from_slice(b"RSC\x05");
    image
}

/// A program of one instruction, a jump to itself, that wants to be at `address`.
fn endless_loop(address: u64) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0\x01\0\0\0".to_vec();
    let word = |elf: &mut Vec<u8>, word: u64| elf.extend(word.to_le_bytes());
    [address, 64, 0].iter().for_each(|value| word(&mut elf, *value));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [120, address, address, 4, 4, 4].iter().for_each(|value| word(&mut elf, *value));
    elf.extend(0x6f_u32.to_le_bytes());
    elf
}

const RAM: u64 = 0x8000_0000;

/// A cpio archive with one file.
fn cpio() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in [("hello\0", &b"world\n"[..]), ("TRAILER!!!\0", b"")] {
        archive.extend(b"070701");
        let fields = [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len(), 0];
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        for part in [name.as_bytes(), content] {
            archive.extend(part);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
}

#[test]
fn file_that_is_not_a_kernel_is_refused() {
    let files = Files::new();
    files.put("empty", b"").put("short", &kernel(1 << 20)[..40]).put("elf", &endless_loop(RAM));
    files.put("gzip", b"\x1f\x8b\x08\0 and so on").put("text", &[b'x'; 4096]);
    let mut x86 = vec![0; 4096];
    x86[0x202..0x206].copy_from_slice(b"HdrS");
    files.put("bzImage", &x86);
    files.refuse("boot --kernel missing", &["kernel missing", "No such file", "check its name"]);
    files.refuse("boot --kernel .", &["kernel .", "Is a directory"]);
    files.refuse("boot --kernel empty", &["empty", "give the kernel's"]);
    files.refuse("boot --kernel short", &["cut short", "copy it again"]);
    files.refuse("boot --kernel bzImage", &["x86", "built for riscv64"]);
    files.refuse("boot --kernel elf", &["ELF", "give the kernel's"]);
    files.refuse("boot --kernel gzip", &["gzip", "decompress it first"]);
    files.refuse("boot --kernel text", &["isn't a RISC-V Linux Image", "give the kernel's"]);
    files.refuse("boot --firmware empty", &["firmware file is empty"]);
    files.refuse("boot --firmware missing", &["firmware missing", "No such file"]);
}

#[test]
fn error_tells_a_cause_once() {
    let files = Files::new();
    files.put("empty", b"");
    let error = refused(rvisor(["boot", "--kernel", "empty"]).current_dir(files.0.path()));
    assert_eq!(error.matches("empty").count(), 1, "{error}");
}

#[test]
fn file_that_is_not_an_initrd_is_refused() {
    let files = Files::new();
    let archive = cpio();
    files.put("kernel", &kernel(1 << 20)).put("empty", b"").put("text", &[b'x'; 4096]);
    files.put("short", &archive[..archive.len() / 3]);
    // A gzip header and the start of a stored block that promises more than there is.
    files.put("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01\xff\xff\0\0abc");
    for (file, told) in [
        ("missing", ["initrd missing", "No such file"]),
        ("empty", ["initrd file is empty", "give a cpio archive"]),
        ("text", ["isn't a cpio archive", "mkinitramfs"]),
        ("short", ["cut short", "copy it again"]),
        ("gzip", ["cut short", "copy it again"]),
    ] {
        files.refuse(&format!("boot --kernel kernel --initrd {file}"), &told);
    }
    files.refuse("boot --bare kernel --initrd short", &["--initrd"]);
}

#[test]
fn file_that_is_not_a_disk_is_refused() {
    let files = Files::new();
    files.put("loop", &endless_loop(RAM)).put("empty", b"").put("odd", &[1; 700]).put("raw", &[0; 1024]);
    let mut qcow2 = vec![0; 512];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    files.put("magic", b"QFI\xfb").put("cut", &qcow2);
    for (disk, told) in [
        ("missing", ["disk missing", "check the path"]),
        ("empty", ["disk empty", "give it a size"]),
        (".", ["disk .", "name a disk image"]),
        ("odd", ["not a multiple of 512", "truncate -s %512"]),
        ("magic", ["disk magic", "truncated"]),
        ("cut", ["disk cut", "qcow2"]),
        ("raw,rw", ["\"rw\" means nothing", "write --disk FILE"]),
        ("raw,format=vdi", ["\"vdi\"", "use raw or qcow2"]),
        (",ro", ["no file", "write --disk FILE"]),
        ("raw --disk raw", ["disk raw is in use", "read-only"]),
    ] {
        files.refuse(&format!("boot --bare loop --disk {disk}"), &told);
    }
    let many = " --disk raw,ro".repeat(9);
    files.refuse(&format!("boot --bare loop{many}"), &["too many", "attach fewer"]);
}

#[test]
fn file_that_is_not_a_bare_program_is_refused() {
    let files = Files::new();
    let elf = endless_loop(RAM);
    let with = |offset: usize, byte: u8| {
        let mut elf = elf.clone();
        elf[offset] = byte;
        elf
    };
    files.put("empty", b"").put("short", &elf[..100]).put("32bit", &with(4, 1)).put("x86", &with(18, 62));
    files.put("low", &endless_loop(0x1000)).put("high", &endless_loop(RAM + (1 << 30)));
    files.put("text", b"#!/bin/sh\n").put("object", &with(16, 1));
    for (file, told) in [
        ("missing", ["program missing", "No such file"]),
        ("empty", ["empty", "built for riscv64"]),
        ("short", ["cut short", "again"]),
        ("32bit", ["32-bit", "build the program for riscv64"]),
        ("x86", ["another processor", "build the program for riscv64"]),
        ("low", ["0x1000", "outside RAM"]),
        ("high", ["outside RAM", "give more memory"]),
        ("text", ["not an ELF file", "built for riscv64"]),
        ("object", ["isn't a program", "link it first"]),
    ] {
        files.refuse(&format!("boot --bare {file}"), &told);
    }
}

#[test]
fn impossible_size_is_refused() {
    let files = Files::new();
    files.put("kernel", &kernel(20 << 20)).put("loop", &endless_loop(RAM));
    files.refuse("boot --kernel kernel --memory 16M", &["16 MiB", "use --memory 23M"]);
    files.refuse("boot --bare loop --memory 0", &["too little", "choose --memory"]);
    files.refuse("boot --bare loop --memory 900T", &["the host can't give", "choose a smaller --memory"]);
    files.refuse("boot --bare loop --memory 5X", &["5X", "such as 512M"]);
    for harts in ["0", "65", "-1", "many", "99999999999"] {
        files.refuse(&format!("boot --bare loop --cpus={harts}"), &["from 1 to 64"]);
    }
    files.refuse("boot --bare loop --timeout soon", &["give seconds"]);
}

#[test]
fn senseless_command_line_is_refused() {
    let files = Files::new();
    files.put("loop", &endless_loop(RAM));
    files.refuse("boot", &["nothing to boot", "give --kernel, --firmware or --bare"]);
    files.refuse("boot --initrd loop", &["--kernel <FILE>", "--help"]);
    files.refuse("boot --bare loop --kernel loop", &["cannot be used with"]);
    files.refuse("boot --bare loop --frob", &["--frob", "--help"]);
    files.refuse("imags", &["imags", "images"]);
    files.refuse("boot --bare loop --engine warp", &["warp", "interpreter"]);
    files.refuse("boot --bare loop --publish 80", &["--publish 80", "as in 8080:80"]);
    files.refuse("boot --bare loop --publish 99999:80", &["--publish 99999:80"]);
    files.refuse("boot --bare loop --net none --publish 8080:80", &["needs a network"]);
    files.refuse("boot --bare loop --dump-dtb missing/file", &["missing/file", "choose another file"]);
    files.refuse(
        "run debian uname -a",
        &["'uname'", "put -- before the command: rvisor run debian -- uname -a"],
    );
    files.refuse("run --rm debian --frob", &["'--frob'", "--help"]);
    files.refuse("kill -s HUP web", &["HUP", "KILL, TERM and INT", "rvisor exec MACHINE kill -s HUP PID"]);
    for words in ["logs --since yesterday web", "events --until 10x"] {
        files.refuse(words, &["such as 10m", "such as 2026-11-27T10:00:00Z"]);
    }
    files.refuse("inspect --format {{.State.Status}} web", &["no templates", "state.status"]);
}

#[test]
fn addresses_are_as_large_as_asked_for_and_else_as_suits_the_memory() {
    let files = Files::new();
    files.put("kernel", &kernel(1 << 20)).put("loop", &endless_loop(RAM));
    for (options, told) in [
        ("--kernel kernel", "sv39"),
        ("--kernel kernel --mmu sv48", "sv48"),
        ("--kernel kernel --mmu sv57", "sv57"),
        ("--kernel kernel --memory 65G", "sv48"),
        ("--bare loop", "sv57"),
        ("--bare loop --mmu sv39", "sv39"),
    ] {
        let directory = files.0.path();
        let line = format!("boot {options} --dump-dtb tree");
        finish(rvisor(line.split(' ')).current_dir(directory), b"", Duration::from_secs(60)).assert(0, "");
        let tree = fs::read(directory.join("tree")).expect("a device tree");
        let modes = ["sv39", "sv48", "sv57"];
        let found = modes.map(|mode| tree.windows(10).any(|part| part == format!("riscv,{mode}").as_bytes()));
        assert_eq!(found, modes.map(|mode| mode == told), "{options}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (words, told) in [("--help", "Usage: rvisor"), ("--version", "rvisor "), ("boot --help", "--cpus")] {
        let ended = finish(&mut rvisor(words.split(' ')), b"", Duration::from_secs(60));
        assert!(
            ended.status.success() && ended.text().contains(told) && ended.stderr.is_empty(),
            "{ended:?}"
        );
    }
}

#[test]
fn port_in_use_is_refused() {
    let files = Files::new();
    files.put("loop", &endless_loop(RAM));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let words = format!("boot --bare loop --publish {port}:80");
    files.refuse(&words, &[&port.to_string(), "choose another port"]);
}

/// A process that is ended with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn disk_of_a_running_machine_is_refused_until_it_ends() {
    let files = Files::new();
    files.put("loop", &endless_loop(RAM)).put("disk", &[0; 1024]);
    let words = ["boot", "--bare", "loop", "--disk", "disk", "--net", "none", "--memory", "1M"];
    let mut command = rvisor(words);
    let child = command.current_dir(files.0.path()).stdin(Stdio::null()).spawn().expect("rvisor starts");
    let running = Running(child);
    let locked = || fs::File::open(files.0.path().join("disk")).expect("the disk").try_lock_shared().is_err();
    while !locked() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let holder = format!("process {}", running.0.id());
    for disk in ["disk", "disk,ro"] {
        let words = format!("boot --bare loop --disk {disk} --timeout 1");
        files.refuse(&words, &["disk disk is in use", &holder, "stop it"]);
    }
    drop(running);
    assert!(!locked());
}

/// An empty state directory.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn rvisor(&self, words: &str) -> Command {
        let mut command = rvisor(words.split(' '));
        command.env("RVISOR_HOME", self.0.path()).current_dir(self.0.path());
        command
    }

    #[track_caller]
    fn refuse(&self, words: &str, told: &[&str]) {
        let error = refused(&mut self.rvisor(words));
        for text in told {
            assert!(error.contains(text), "rvisor {words}: {error:?} doesn't say {text:?}");
        }
        for folder in ["images", "drafts", "blobs/sha256", "machines"] {
            let left = fs::read_dir(self.0.path().join(folder)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "rvisor {words} left something in {folder}");
        }
    }
}

#[test]
fn unknown_names_are_refused() {
    let home = Home::new();
    home.refuse("run plan9", &["plan9", "debian, busybox", "rvisor build"]);
    home.refuse("pull debian:sid", &["there is only debian:trixie"]);
    home.refuse("run Bad/Name", &["isn't an image name"]);
    home.refuse("rm nothing", &["no machine is called nothing", "rvisor ps"]);
    home.refuse("rmi nothing", &["no image nothing", "rvisor images"]);
    home.refuse("run --name a/b busybox", &["\"a/b\"", "letters, digits and hyphens"]);
    home.refuse("rm ..", &["\"..\"", "letters, digits and hyphens"]);
    home.refuse("run --network lab busybox", &["no network called lab", "rvisor network create lab"]);
    home.refuse("run --network none -p 80:80 busybox", &["--publish needs a network", "`none`"]);
    for command in ["start", "stop", "kill", "restart", "pause", "resume", "rm", "wait"] {
        let ended = finish(&mut home.rvisor(&format!("{command} one .. two")), b"", Duration::from_secs(60));
        assert_eq!(ended.status.code(), Some(FAILURE), "{command}: {}", ended.stderr);
        let lines: Vec<_> = ended.stderr.lines().collect();
        let about = ["called one", "\"..\"", "called two"];
        let is_told =
            |(line, about): (&&str, &str)| line.starts_with("rvisor: error: ") && line.contains(about);
        assert!(lines.len() == 3 && lines.iter().zip(about).all(is_told), "{command}: {}", ended.stderr);
    }
    let ended = finish(&mut home.rvisor("rm -f one two"), b"", Duration::from_secs(60));
    ended.assert(0, "");
    assert_eq!(
        ended.stderr.lines().filter(|line| line.starts_with("rvisor: warning: no machine")).count(),
        2
    );
}

#[test]
fn network_whose_name_is_taken_is_refused() {
    let home = Home::new();
    finish(&mut home.rvisor("network create lab"), b"", Duration::from_secs(60)).assert(0, "lab\n");
    home.refuse("network create lab", &["called lab already", "another name", "rvisor network rm lab"]);
    let ended = finish(&mut home.rvisor("network rm none lab"), b"", Duration::from_secs(60));
    ended.assert(FAILURE, "lab\n");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn bad_recipe_is_refused() {
    let home = Home::new();
    for (name, text, told) in [
        ("empty", "", "missing field `base`"),
        ("syntax", "base = \"x\nsize = 1", "line 1"),
        ("field", "base = \"debian:trixie\"\npakages = []", "pakages"),
        ("base", "base = \"arch\"", "use \"debian:trixie\""),
        ("binary", "\u{1}\u{2}", "line 1"),
    ] {
        let file = format!("{name}.toml");
        fs::write(home.0.path().join(&file), text).expect("a recipe");
        home.refuse(&format!("build {file}"), &[&file, told]);
    }
    fs::write(home.0.path().join("latin"), [0xe9, 0xff]).expect("a file");
    home.refuse("build latin", &["latin", "UTF-8"]);
    home.refuse("build missing.toml", &["missing.toml", "No such file"]);
    fs::write(home.0.path().join("good.toml"), "base = \"busybox:trixie\"").expect("a recipe");
    home.refuse("build good.toml --tag A/B", &["\"A/B\" isn't an image name"]);
}

/// A home with an image `small`, which can't boot but whose machines can be made.
fn home_with_image() -> Home {
    let home = Home::new();
    let store = Store::open(home.0.path()).expect("a store");
    let draft = store.draft().expect("a draft");
    let file = |name: &str, content: &[u8]| {
        let path = draft.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    };
    let image = NewImage {
        kernel: file("kernel", &kernel(1 << 20)),
        run_initrd: file("initrd", &cpio()),
        disk: Some(file("disk", &[0; 1024])),
        memory: 64 << 20,
        ..NewImage::default()
    };
    store.add(&Name::parse("small").expect("a name"), &image).expect("an image");
    home
}

#[test]
fn machine_that_cannot_be_made_leaves_no_directory() {
    let home = home_with_image();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    for (words, told) in [
        ("run --name m --memory 1M small".to_owned(), "use --memory 64M"),
        (format!("run --name m --publish {port}:80 small"), "choose another port"),
        ("run --name m --memory 900T small".to_owned(), "choose a smaller --memory"),
    ] {
        let error = refused(&mut home.rvisor(&words));
        assert!(error.contains(told), "{error}");
        assert_eq!(fs::read_dir(home.0.path().join("machines")).map_or(0, Iterator::count), 0, "{words}");
    }
}

#[test]
fn name_that_is_taken_is_refused() {
    let home = home_with_image();
    fs::create_dir_all(home.0.path().join("machines/web")).expect("a directory");
    let error = refused(&mut home.rvisor("run --name web small"));
    assert!(error.contains("called web already") && error.contains("rvisor rm web"), "{error}");
}

#[test]
fn image_with_a_missing_file_is_refused() {
    let home = home_with_image();
    let blobs = home.0.path().join("blobs/sha256");
    for blob in fs::read_dir(blobs).expect("a directory") {
        fs::remove_file(blob.expect("a file").path()).expect("a file that can be removed");
    }
    let error = refused(&mut home.rvisor("run small"));
    assert!(error.contains("small") && error.contains("rvisor rmi small"), "{error}");
}

#[test]
fn home_that_cannot_be_written_is_refused() {
    let error = refused(rvisor(["images"]).env("RVISOR_HOME", "/dev/null/home"));
    assert!(error.contains("can't create /dev/null/home"), "{error}");
    assert_eq!(error.matches("Not a directory").count(), 1, "{error}");
}

#[test]
fn mirror_that_cannot_be_trusted_is_refused() {
    let home = Home::new();
    let (server, _) = archive::archive(&[("busybox-static", b"x", ""), ("linux-image-riscv64", b"x", "")]);
    let pull = format!("pull busybox --mirror {}", server.url);
    home.refuse(&pull, &[&server.url, "no valid signature"]);
    assert!(server.requests("/pool").is_empty(), "nothing more is asked of it");
    server.put("/dists/trixie/InRelease", "<html>captive portal</html>");
    home.refuse(&pull, &[&server.url]);
    server.treat("/dists/trixie/InRelease", Manner::Missing);
    home.refuse(&pull, &[&server.url, "404"]);
    home.refuse("pull busybox --mirror ftp://mirror.example", &["begins with http://"]);
}

#[test]
fn mirror_that_does_not_answer_is_refused() {
    let home = Home::new();
    home.refuse("pull busybox --mirror http://127.0.0.1:1", &["http://127.0.0.1:1", "refused"]);
    home.refuse(&format!("pull busybox --mirror file://{}", home.0.path().display()), &["InRelease"]);
}

/// The real archive's signed table of contents and where it says that its index is.
fn real_release(cache: &Path) -> (String, String) {
    let mirror = mirror::find(None).expect("a mirror");
    let url = format!("{mirror}/dists/trixie/InRelease");
    let fetcher = Fetcher::new(cache, FetchOptions::default()).expect("a fetcher");
    let text = fetcher.text(&url, 1 << 24).expect("the archive");
    let release = Release::verify(&url, &text, &Keyring::debian().expect("keys")).expect("a signature");
    let file = release.file("main/binary-riscv64/Packages.xz").expect("an index");
    let path = format!("/dists/trixie/main/binary-riscv64/by-hash/SHA256/{}", file.sha256);
    assert!(release.by_hash);
    (text, path)
}

#[test]
fn mirror_that_sends_something_else_is_refused() {
    let home = Home::new();
    let (release, index) = real_release(&home.0.path().join("other-cache"));
    let server = Server::start();
    let pull = format!("pull busybox --mirror {}", server.url);
    server.put("/dists/trixie/InRelease", release.clone());
    server.put(&index, vec![b'x'; 100_000]);
    home.refuse(&pull, &[&index, "again"]);
    server.put(&index, vec![b'x'; 64 << 20]);
    home.refuse(&pull, &[&index, "choose another mirror"]);
    server.treat(&index, Manner::StopsHalfWayWithoutRanges);
    server.put(&index, vec![b'x'; 100_000]);
    home.refuse(&pull, &[&index, "run the same command again"]);
    server.put("/dists/trixie/InRelease", release.replacen("Suite: stable", "Suite: sid", 1));
    home.refuse(&pull, &["no valid signature"]);
}
