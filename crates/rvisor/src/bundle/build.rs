//! `rvisor bundle build` and `rvisor bundle disk`: from a description to the files that the type-1 home starts from.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use rvisor_hosted::disk::Image;
use rvisor_images::Store;
use rvisor_machine::boot::image::LinuxImage;
use rvisor_machine::boot::initrd;
use rvisor_machine::bundle::{self, Bundle, BundledGuest, DiskRange};
use rvisor_waist::SECTOR_SIZE;

use super::description::{Description, Guest};
use super::saved::{self, Saved};
use crate::boot::read_file;
use crate::cli::{BundleBuild, BundleDisk};

/// A guest's files, read.
struct Files {
    command_line: String,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    saved: Option<Saved>,
}

/// `rvisor bundle build`.
pub fn build(options: &BundleBuild) -> anyhow::Result<ExitCode> {
    let (description, directory) = read(&options.description)?;
    let files = each(&description, |_, guest| pack(guest, directory))?;
    let guests = each(&description, |index, guest| bundled(&description, index, guest, &files[index]))?;
    let file = bundle::write(&Bundle { settings: description.settings()?, guests })?;
    std::fs::write(&options.output, &file)
        .with_context(|| format!("can't write {}; choose another file", options.output.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<(Description, &Path)> {
    Ok((Description::read(path)?, path.parent().unwrap_or(Path::new(""))))
}

/// Does something for every guest; errors carry its name.
fn each<'a, T>(
    description: &'a Description,
    mut act: impl FnMut(usize, &'a Guest) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let guests = description.guest.iter().enumerate();
    let result = |(index, guest): (usize, &'a Guest)| {
        act(index, guest).with_context(|| format!("guest {:?}", guest.name))
    };
    guests.map(result).collect()
}

fn bundled<'a>(
    description: &Description,
    index: usize,
    guest: &'a Guest,
    files: &'a Files,
) -> anyhow::Result<BundledGuest<'a>> {
    let saved = files.saved.as_ref();
    let memory = guest.memory(saved.map(Saved::memory))?;
    let sectors = saved.and_then(|saved| saved.sectors);
    let bundled = BundledGuest {
        memory,
        harts: guest.harts(saved.map(Saved::harts))?,
        weight: guest.weight,
        cap: guest.cap()?,
        affinity: guest.affinity()?,
        autostart: guest.start,
        console: guest.console.into(),
        disk: guest.disk.as_ref().map(|disk| disk.range(sectors)).transpose()?,
        network: description.card(index, saved.map(Saved::card))?,
        save: guest.save(memory)?,
        saved: saved.map(Saved::bundled),
        bare: guest.program.is_some(),
        initrd: files.initrd.as_deref(),
        command_line: &files.command_line,
        ..BundledGuest::new(&guest.name, &files.kernel)
    };
    if let Some(saved) = saved {
        saved.check(&bundled)?;
    }
    Ok(bundled)
}

fn image(name: &str) -> anyhow::Result<rvisor_images::Image> {
    Ok(Store::open_default()?.get(name)?)
}

/// Reads a guest's files and checks that they are what they should be.
fn pack(guest: &Guest, directory: &Path) -> anyhow::Result<Files> {
    let given = [
        guest.image.is_some(),
        guest.kernel.is_some(),
        guest.program.is_some(),
        guest.machine.is_some(),
        guest.state.is_some(),
    ];
    match given.into_iter().filter(|is_given| *is_given).count() {
        1 => {}
        0 => bail!(
            "has no kernel; give kernel = \"FILE\", program = \"FILE\", image = \"NAME\" or machine = \"NAME@SNAPSHOT\""
        ),
        _ => bail!("has more than one of image, kernel, program, machine and state; leave all but one out"),
    }
    if let Some(leaving) = saved::open(guest, directory)? {
        if guest.initrd.is_some() || !guest.append.is_empty() {
            bail!("goes on with what it has; leave initrd and append out");
        }
        let (kernel, initrd, command_line) = leaving.boot_files()?;
        return Ok(Files {
            command_line,
            kernel,
            initrd: Some(initrd),
            saved: Some(Saved::new(guest, &leaving)?),
        });
    }
    let memory = guest.memory(None)?;
    let beside = |path: &PathBuf| directory.join(path);
    let (kernel, initrd, append) = match (&guest.image, guest.kernel.as_ref().or(guest.program.as_ref())) {
        (Some(_), _) if guest.initrd.is_some() => bail!("has an image and an initrd; leave one out"),
        (Some(name), _) => {
            let image = image(name)?;
            // With a disk, the image's own system starts; without, only its first program.
            let initrd = if guest.disk.is_some() { image.initrd } else { Some(image.run_initrd) };
            (image.kernel, initrd, image.manifest.append)
        }
        (None, kernel) => {
            (kernel.map(beside).unwrap_or_default(), guest.initrd.as_ref().map(beside), String::new())
        }
    };
    let kernel = read_file(&kernel, "kernel")?;
    let size = if guest.program.is_some() {
        kernel.len() as u64
    } else {
        LinuxImage::parse(&kernel).context("kernel")?.size
    };
    if size >= memory {
        bail!("{} MiB of memory are too little for its kernel; give it more", memory >> 20);
    }
    let initrd = initrd.map(|path| read_file(&path, "initrd")).transpose()?;
    if let Some(initrd) = &initrd {
        initrd::check(initrd).context("initrd")?;
    }
    let words = [append.as_str(), guest.append.as_str()];
    let command_line = words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(Files { command_line, kernel, initrd, saved: None })
}

/// What a range of the disk begins with.
enum Source {
    /// A raw file.
    File(PathBuf),
    /// A machine's disk, as large as the range.
    Image(Arc<dyn Image>),
}

/// A guest's save area, if it has one.
fn save_area_of(guest: &Guest, directory: &Path) -> anyhow::Result<Option<DiskRange>> {
    let known = match saved::open(guest, directory)? {
        Some(leaving) => Some(leaving.state()?.shape()?.memory),
        None => None,
    };
    guest.save(guest.memory(known)?)
}

/// `rvisor bundle disk`: a disk with what the guests' ranges begin with.
pub fn disk(options: &BundleDisk) -> anyhow::Result<ExitCode> {
    let (description, directory) = read(&options.description)?;
    let mut end = options.size.unwrap_or(0);
    let pieces = each(&description, |_, guest| {
        if let Some(save) = save_area_of(guest, directory)? {
            end = end.max(512 * save.start.saturating_add(save.sectors));
        }
        let Some(disk) = &guest.disk else { return Ok(None) };
        let source = match (&disk.from, &guest.image, saved::open(guest, directory)?) {
            (Some(_), _, Some(_)) => bail!("its disk is what it was when it was saved; leave from out"),
            (None, _, Some(leaving)) => leaving.disk()?.map(Source::Image),
            (Some(from), ..) => Some(Source::File(directory.join(from))),
            (None, Some(name), None) => image(name)?.disk.map(Source::File),
            (None, None, None) => None,
        };
        let known = match &source {
            Some(Source::Image(image)) => Some(image.size() / SECTOR_SIZE),
            _ => None,
        };
        let range = disk.range(known)?;
        end = end.max(512 * range.start.saturating_add(range.sectors));
        Ok(source.map(|source| (source, range)))
    })?;
    if end == 0 {
        bail!("no guest has a disk; give one disk = {{ start = \"1M\", size = \"64M\" }}");
    }
    let path = &options.output;
    let mut target = File::create_new(path)
        .with_context(|| format!("can't make {}; choose a file that isn't there", path.display()))?;
    let written = (|| {
        target.set_len(end).context("can't make it that long")?;
        for (source, range) in pieces.into_iter().flatten() {
            let (start, room) = (512 * range.start, 512 * range.sectors);
            match source {
                Source::File(path) => {
                    copy(&path, &mut target, start, room).with_context(|| path.display().to_string())?;
                }
                Source::Image(image) => saved::copy(&*image, &mut target, start)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Copies a raw file to a place of the disk; holes and zeros stay holes.
fn copy(source: &Path, target: &mut File, start: u64, room: u64) -> anyhow::Result<()> {
    const PIECE: usize = 64 << 10;
    let mut file = File::open(source).context("can't read it; check its name and permissions")?;
    let length = file.metadata().context("can't read it")?.len();
    if length > room {
        bail!("its {length} bytes don't fit into the guest's {room}; give the disk more size");
    }
    let mut buffer = vec![0; PIECE];
    let mut at = start;
    loop {
        let count = file.read(&mut buffer).context("can't read it")?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            target
                .seek(SeekFrom::Start(at))
                .and_then(|_| target.write_all(&buffer[..count]))
                .context("can't write the disk")?;
        }
        at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &str) -> anyhow::Error {
        let directory = tempfile::tempdir().expect("a directory");
        let description = directory.path().join("guests.toml");
        std::fs::write(&description, text).expect("a file");
        std::fs::write(directory.path().join("raw"), [0x13; 64]).expect("a file");
        let output = directory.path().join("bundle");
        build(&BundleBuild { description, output }).expect_err("it is refused")
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        let kernel = "[[guest]]\nname = \"a\"\nkernel = \"missing\"\n";
        let raw =
            |name: &str, rest: &str| format!("[[guest]]\nname = \"{name}\"\nprogram = \"raw\"\n{rest}\n");
        for (text, words) in [
            ("", "1 to 32 guests"),
            ("[[guest]]\n", "missing field `name`"),
            ("[[guest]]\nname = \"a\"\ncpu = 1\n", "line 3"),
            ("[[guest]]\nname = \"a\"\n", "no kernel"),
            (kernel, "can't read the kernel"),
            (&format!("{kernel}image = \"x\"\n"), "leave all but one out"),
            (&format!("{kernel}program = \"x\"\n"), "leave all but one out"),
            (&format!("{kernel}memory = \"much\"\n"), "memory"),
            (&raw("a", "network = \"lan\""), "no [[network]] is called \"lan\""),
            (&raw("a", "machine = \"x@y\""), "leave all but one out"),
            ("[[guest]]\nname = \"a\"\nmachine = \"x\"\n", "NAME@SNAPSHOT"),
            ("[[guest]]\nname = \"a\"\nstate = \"missing\"\n", "can't read"),
            ("[[guest]]\nname = \"a\"\nstate = \"raw\"\n", "rvisor export"),
            (&raw("a", "save = { start = \"1M\", size = \"1M\" }"), "leave its size out"),
            (&raw("a", "mac = \"02:00:00:00:00:01\""), "no network"),
            (&raw("a", "cap = 0"), "leave cap out"),
            (&raw("a", "console = \"hvc0\""), "`serial` or `virtio`"),
            (&raw("a", "affinity = [64]"), "0 to 63"),
            (&raw("a", "affinity = []"), "leave it out"),
            (&raw("a", "disk = { start = \"0\", size = \"100\" }"), "multiple of 512"),
            (&raw("a", "disk = { start = \"0\", size = \"0\" }"), "leave disk out"),
            (
                &[
                    raw("a", "disk = { start = \"1M\", size = \"2M\" }"),
                    raw("b", "disk = { start = \"2M\", size = \"1M\" }"),
                ]
                .concat(),
                "\"a\" and \"b\" have disk ranges that overlap",
            ),
            (&format!("[monitor]\nslice = 0\n{}", raw("a", "")), "slice"),
            (
                &format!(
                    "[[network]]\nname = \"x\"\nuplink = true\n[[network]]\nname = \"y\"\nuplink = true\n{}",
                    raw("a", "")
                ),
                "one physical card",
            ),
            (
                &format!("[[network]]\nname = \"x\"\n{}", raw("a", "network = \"x\"\nmac = \"1:2\"")),
                "52:54:00:12:34:56",
            ),
        ] {
            let error = format!("{:#}", built(text));
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn disk_has_each_guests_content_in_its_range() {
        let directory = tempfile::tempdir().expect("a directory");
        let (description, output) = (directory.path().join("guests.toml"), directory.path().join("disk"));
        std::fs::write(directory.path().join("content"), [7; 1000]).expect("a file");
        let guest = |from| {
            format!(
                "[[guest]]\nname = \"a\"\nprogram = \"raw\"\n\
                 disk = {{ start = \"1M\", size = \"1K\", from = \"{from}\" }}\n"
            )
        };
        std::fs::write(&description, guest("content")).expect("a file");
        let options = BundleDisk { description: description.clone(), output: output.clone(), size: None };
        disk(&options).expect("a disk");
        let bytes = std::fs::read(&output).expect("a disk");
        assert_eq!(bytes.len(), (1 << 20) + 1024);
        assert_eq!(&bytes[1 << 20..][..1000], [7; 1000]);
        // Never over what is there, and nothing is left of what failed.
        assert!(disk(&options).is_err());
        std::fs::remove_file(&output).expect("it is there");
        std::fs::write(directory.path().join("content"), [7; 2000]).expect("a file");
        assert!(format!("{:#}", disk(&options).expect_err("too long")).contains("don't fit"));
        assert!(!output.exists());
    }
}
