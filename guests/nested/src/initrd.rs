//! The initial RAM disk: a cpio archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst) of the
//! kernel's log and one program.

type Result<T> = core::result::Result<T, &'static str>;

const DIRECTORY: u32 = 0o040_755;
const DEVICE: u32 = 0o020_600;
const PROGRAM: u32 = 0o100_755;
/// Bytes of a header.
const HEADER: usize = 110;

/// Writes the archive, for which `read` gives the program; its size.
pub fn write(room: &mut [u8], read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<usize> {
    let mut at = 0;
    entry(room, &mut at, b"dev\0", DIRECTORY, 0, (0, 0))?;
    entry(room, &mut at, b"dev/kmsg\0", DEVICE, 0, (1, 11))?;
    let name = b"init\0";
    let content = (at + HEADER + name.len()).next_multiple_of(4);
    let size = read(room.get_mut(content..).ok_or("the initial RAM disk is too small")?)?;
    entry(room, &mut at, name, PROGRAM, size, (0, 0))?;
    at = (at + size).next_multiple_of(4);
    entry(room, &mut at, b"TRAILER!!!\0", 0, 0, (0, 0))?;
    Ok(at)
}

/// Writes a header and a name; `at` stands at the content afterwards.
fn entry(room: &mut [u8], at: &mut usize, name: &[u8], mode: u32, size: usize, device: (u32, u32)) -> Result<()> {
    let end = (*at + HEADER + name.len()).next_multiple_of(4);
    let bytes = room.get_mut(*at..end).ok_or("the initial RAM disk is too small")?;
    bytes.fill(0);
    bytes[..6].copy_from_slice(b"070701");
    let (number, links) = (*at as u32, 1);
    let length = name.len() as u32;
    let fields = [number, mode, 0, 0, links, 0, size as u32, 0, 0, device.0, device.1, length, 0];
    for (place, field) in bytes[6..HEADER].chunks_exact_mut(8).zip(fields) {
        for (digit, byte) in place.iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(field >> (28 - 4 * digit) & 15) as usize];
        }
    }
    bytes[HEADER..HEADER + name.len()].copy_from_slice(name);
    *at = end;
    Ok(())
}
