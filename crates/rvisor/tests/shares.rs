//! Shared directories, in a guest. What a hostile guest tries is tested without one, in `rvisor-hosted`.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default); it is pulled if it isn't there.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use common::{finish, rvisor};

/// For anything that a machine does, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(400);

/// What is done in the guest; each line of its output says what worked. `/src` is shared, `/ro` is shared for reading.
const SCRIPT: &str = r#"
set -e
cd /src
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
    let words = ["run", "--rm"].into_iter().chain(options).chain(["debian", "--", "sh", "-c", SCRIPT]);
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
