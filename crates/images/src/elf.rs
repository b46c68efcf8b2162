//! The two things that are asked of a guest's ELF files: which libraries a program needs, and which modules a
//! kernel module needs.

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, SectionHeader as _};
use object::{Endianness, read};

/// The file names of the libraries that a program or library is linked with.
pub fn needed_libraries(elf: &[u8]) -> read::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, elf)?;
    let Some((entries, strings)) = sections.dynamic(endian, elf)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, elf, strings)?;
    let needed = entries.iter().filter(|entry| entry.d_tag(endian) == DT_NEEDED);
    needed.map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())).collect()
}

/// The names of the modules that have to be there before a kernel module (its `depends` and `softdep` notes).
pub fn needed_modules(elf: &[u8]) -> read::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, elf)?;
    let Some((_, section)) = sections.section_by_name(endian, b".modinfo") else { return Ok(Vec::new()) };
    let notes = section.data(endian, elf)?.split(|&byte| byte == 0);
    let mut needed = Vec::new();
    for note in notes.map(String::from_utf8_lossy) {
        if let Some(names) = note.strip_prefix("depends=") {
            needed.extend(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        } else if let Some(rest) = note.strip_prefix("softdep=pre:") {
            needed.extend(rest.split_whitespace().take_while(|word| *word != "post:").map(str::to_owned));
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_and_truncated_files_return_error() {
        for elf in [
            &b""[..],
            b"\x7fELF",
            &[0; 64],
            b"MZ and so on, for more than sixty-four bytes of what isn't ELF.....",
        ] {
            assert!(needed_libraries(elf).is_err());
            assert!(needed_modules(elf).is_err());
        }
    }
}
