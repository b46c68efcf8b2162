use super::*;
use crate::directory::Machines;
use crate::directory::tests::config;

/// A machine that has ended, with a disk.
fn machine(machines: &Machines) -> Directory {
    let config = crate::Config { base_disk: Some("2".repeat(64)), disks: vec![1 << 20], ..config() };
    let fill = |path: &Path| {
        fs::write(path.join("disk.qcow2"), "one").context("write", path)?;
        fs::write(path.join("disk-1.qcow2"), "other").context("write", path)?;
        fs::write(path.join(BASE), "base").context("write", path)
    };
    machines.create("web", &config, fill).unwrap().0
}

fn setting() -> (tempfile::TempDir, Machines, Directory) {
    let directory = tempfile::tempdir().unwrap();
    let machines = Machines::new(directory.path());
    let web = machine(&machines);
    (directory, machines, web)
}

fn disk(directory: &Directory) -> String {
    fs::read_to_string(directory.disk()).unwrap()
}

#[test]
fn disks_go_back_to_what_they_were() {
    let (_directory, _machines, web) = setting();
    assert_eq!(web.make_snapshot(None, false).unwrap().name, "1");
    fs::write(web.disk(), "two, and longer").unwrap();
    assert_eq!(web.make_snapshot(Some("second"), false).unwrap().name, "second");
    fs::write(web.disk(), "three").unwrap();
    for (name, content) in [("1", "one"), ("second", "two, and longer"), ("1", "one")] {
        let lock = web.lock().unwrap();
        web.restore_snapshot(name, &lock).unwrap();
        assert_eq!(disk(&web), content);
    }
    let names: Vec<_> = web.snapshots().unwrap().into_iter().map(|(info, _)| info.name).collect();
    assert_eq!(names, ["1", "second"]);
    web.remove_snapshot("1").unwrap();
    assert!(web.remove_snapshot("1").is_err());
    assert!(web.make_snapshot(Some("second"), false).is_err());
    assert!(web.make_snapshot(Some("../x"), false).is_err());
}

#[test]
fn half_made_snapshot_is_none_and_goes_with_the_next() {
    let (_directory, _machines, web) = setting();
    web.make_snapshot(None, false).unwrap();
    let half = web.snapshots_path().join(".new-2");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("disk.qcow2"), "half").unwrap();
    // All but its name may be there.
    fs::copy(web.snapshots_path().join("1").join(INFO), half.join(INFO)).unwrap();
    assert_eq!(web.snapshots().unwrap().len(), 1);
    assert_eq!(web.make_snapshot(None, false).unwrap().name, "2");
    assert!(!half.exists());
}

#[test]
fn compressed_memory_comes_back_and_a_newer_format_is_refused() {
    let (_directory, _machines, web) = setting();
    fs::create_dir(web.file(RESUME)).unwrap();
    let memory = [vec![0; 1 << 20], vec![3; 1 << 20]].concat();
    for (name, content) in saved::FILES.iter().zip([&b"state"[..], &memory, b"host"]) {
        fs::write(web.file(RESUME).join(name), content).unwrap();
    }
    web.make_snapshot(Some("large"), false).unwrap();
    web.make_snapshot(Some("small"), true).unwrap();
    let size = |name: &str| {
        web.snapshots().unwrap().into_iter().find(|(info, _)| info.name == name).map(|(_, size)| size)
    };
    assert!(size("small").unwrap() < 100_000 && size("large").unwrap() > 1 << 20);
    web.forget_saved().unwrap();
    for name in ["small", "large"] {
        web.restore_snapshot(name, &web.lock().unwrap()).unwrap();
        let read = |name: &str| fs::read(web.file(RESUME).join(name)).unwrap();
        assert!(read("memory") == memory && read("state") == b"state" && read("host.json") == b"host");
    }
    let packed = web.snapshots_path().join("small").join(saved::PACKED);
    let mut bytes = fs::read(&packed).unwrap();
    bytes[100] ^= 1;
    fs::write(&packed, bytes).unwrap();
    fs::write(web.disk(), "newer").unwrap();
    let refused = web.restore_snapshot("small", &web.lock().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("damaged"), "{refused}");
    assert_eq!(disk(&web), "newer");
    web.restore_snapshot("large", &web.lock().unwrap()).unwrap();
    let info = web.snapshots_path().join("small").join(INFO);
    let text = fs::read_to_string(&info).unwrap().replace("\"format\": 2", "\"format\": 3");
    fs::write(&info, text).unwrap();
    let refused = web.restore_snapshot("small", &web.lock().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("newer"), "{refused}");
}

/// A kill can come between any two changes: what is there is one or the other after the next look.
#[test]
fn interrupted_restore_is_finished_by_the_next_who_takes_the_lock() {
    let (_directory, machines, web) = setting();
    web.make_snapshot(Some("a"), false).unwrap();
    fs::write(web.disk(), "two").unwrap();
    fs::write(web.other_disk(0), "changed").unwrap();
    fs::write(web.file(RESTORE), r#"{"snapshot": "a"}"#).unwrap();
    // The first disk was done, the second half.
    fs::write(web.disk(), "one").unwrap();
    fs::write(web.file("disk-1.qcow2.new"), "ha").unwrap();
    assert!(web.remove_snapshot("a").is_err(), "it is needed");
    let again = machines.open("web").unwrap();
    let lock = again.lock().unwrap();
    again.finish_restore(&lock).unwrap();
    assert_eq!(fs::read_to_string(again.other_disk(0)).unwrap(), "other");
    assert!(!again.file(RESTORE).exists());
    again.finish_restore(&lock).unwrap();
}

#[test]
fn copy_has_the_same_disks_and_is_its_own() {
    let (_directory, machines, web) = setting();
    let (copy, _lock, running) = machines.copy(&web, None, "shop").unwrap();
    assert!(!running);
    assert_eq!(disk(&copy), "one");
    assert_eq!(fs::read_to_string(copy.file(BASE)).unwrap(), "base");
    fs::write(copy.disk(), "two").unwrap();
    assert_eq!(disk(&web), "one");
    web.remove().unwrap();
    assert_eq!(fs::read_to_string(copy.file(BASE)).unwrap(), "base");
    assert!(machines.copy(&copy, None, "shop").is_err());
    assert_eq!(machines.list().unwrap().len(), 1, "nothing else is left");
}
