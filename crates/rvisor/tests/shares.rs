//! Shared directories, in a guest. What a hostile guest tries is tested without one, in `rvisor-hosted`.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default); it is pulled if it isn't there.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use common::{Machine, finish, rvisor};

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

#[test]
fn guest_works_on_shared_directories_and_files_are_the_user_s() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
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
    let options = volumes.iter().flat_map(|volume| ["-v", volume]);
    let words =
        ["run", "--rm", "-w", "/src"].into_iter().chain(options).chain(["debian", "--", "sh", "-c", SCRIPT]);
    let ended = finish(&mut rvisor(words), b"", LIMIT);
    let expected = "hello\nf\nhello\nlink leads into the guest\nread-only\n301 entries, 300 lines\n190 entries\n\
                    0:0 750\n1000001\nthrough\nlocked\nno device\n0\n";
    ended.assert(0, expected);

    let sum = std::process::Command::new("sha256sum").arg(src.join("moved")).output().unwrap();
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
fn shares_are_there_in_a_booted_system_and_for_other_users() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("f"), "shared\n").unwrap();
    let machine = Machine::named("shares");
    let volumes = [
        format!("{}:/srv/x:uid=33,gid=33", host.path().display()),
        format!("{}:/tmp/y:ro", host.path().display()),
    ];
    let words = ["run", "-d", "--name", &machine.0, "-v", &volumes[0], "-v", &volumes[1], "debian"];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
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
