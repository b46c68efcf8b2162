//! Numbers and strings of 9P: little-endian, strings with their length (16 bits) before them.

use alloc::vec::Vec;

use rvisor_waist::ShareError;

use super::errno;

/// Takes a message apart. What isn't there is [`errno::EINVAL`].
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ShareError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(errno::EINVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u8(&mut self) -> Result<u8, ShareError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, ShareError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, ShareError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, ShareError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn string(&mut self) -> Result<Vec<u8>, ShareError> {
        let length = self.u16()?;
        let (string, rest) = self.0.split_at_checked(length.into()).ok_or(errno::EINVAL)?;
        self.0 = rest;
        Ok(string.to_vec())
    }

    /// An error if anything is left.
    pub fn end(self) -> Result<(), ShareError> {
        if self.0.is_empty() { Ok(()) } else { Err(errno::EINVAL) }
    }
}

/// Puts a message together.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Longer ones are cut: no file system has a name or target that long.
    pub fn string(&mut self, string: &[u8]) -> &mut Self {
        let string = &string[..string.len().min(u16::MAX.into())];
        self.u16(string.len() as u16);
        self.0.extend(string);
        self
    }
}
