//! How the state of a machine's parts is written down, for a machine that goes on elsewhere (the book, "The
//! snapshot format").
//!
//! A *section* is a list of fields, each a number, a length and bytes, in ascending order of their numbers. A
//! field may be a section again. Parts grow by fields with new numbers: a reader takes what an older writer left
//! out as it is after a reset, and refuses what it doesn't know, since a state that is dropped is a wrong state.
//!
//! Readers trust nothing: the bytes may come from anybody.

use alloc::vec::Vec;
use core::fmt;

/// Bytes before a field's own: number (16 bits), length (32 bits), little-endian.
const HEADER: usize = 6;

/// Why a state can't be saved or restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateError {
    /// A device whose state isn't in the format.
    Unsupported(&'static str),
    /// A field ends behind its section, or fields aren't in order.
    Malformed,
    /// A field that must be there isn't.
    Missing(u16),
    /// A field that this reader doesn't know.
    Unknown(u16),
    /// Another version of the format.
    Version(u32),
    /// A field with a value that can't be.
    Invalid(&'static str),
    /// The machine has other parts than the one that was saved.
    Mismatch(&'static str),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(what) => write!(f, "the state of {what} can't be saved"),
            Self::Malformed => f.write_str("the saved state is damaged"),
            Self::Missing(field) => write!(f, "the saved state lacks field {field}"),
            Self::Unknown(field) => {
                write!(f, "the saved state has field {field}, which a newer Rvisor has written")
            }
            Self::Version(version) => {
                write!(f, "the saved state has version {version} of its format, not this Rvisor's")
            }
            Self::Invalid(what) => write!(f, "the saved state has an impossible {what}"),
            Self::Mismatch(what) => write!(f, "the saved machine had another {what}"),
        }
    }
}

impl core::error::Error for StateError {}

/// Writes a section.
#[derive(Default, Debug)]
pub struct StateWriter {
    bytes: Vec<u8>,
    last: Option<u16>,
}

impl StateWriter {
    /// A section without fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field of any bytes. Numbers ascend: that they do is up to the caller, and its tests.
    pub fn bytes(&mut self, number: u16, bytes: &[u8]) {
        debug_assert!(self.last.is_none_or(|last| last < number), "field {number} out of order");
        self.last = Some(number);
        self.bytes.extend(number.to_le_bytes());
        self.bytes.extend((bytes.len() as u32).to_le_bytes());
        self.bytes.extend(bytes);
    }

    /// Adds a number.
    pub fn number(&mut self, number: u16, value: u64) {
        self.bytes(number, &value.to_le_bytes());
    }

    /// Adds a list of numbers.
    pub fn numbers(&mut self, number: u16, values: impl IntoIterator<Item = u64>) {
        let bytes: Vec<u8> = values.into_iter().flat_map(u64::to_le_bytes).collect();
        self.bytes(number, &bytes);
    }

    /// Adds a section.
    pub fn section<E>(
        &mut self,
        number: u16,
        fill: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut inner = Self::new();
        fill(&mut inner)?;
        self.bytes(number, &inner.bytes);
        Ok(())
    }

    /// The section's bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a section, field by field in ascending order.
#[derive(Clone, Copy, Debug)]
pub struct StateReader<'a> {
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// A reader at the beginning of a section.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The field of this number, if it is there; one before it that nobody has asked for is unknown.
    pub fn optional(&mut self, number: u16) -> Result<Option<&'a [u8]>, StateError> {
        let Some((header, rest)) = self.rest.split_first_chunk::<HEADER>() else {
            return if self.rest.is_empty() { Ok(None) } else { Err(StateError::Malformed) };
        };
        let found = u16::from_le_bytes([header[0], header[1]]);
        let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
        if found > number {
            return Ok(None);
        }
        if found < number {
            return Err(StateError::Unknown(found));
        }
        let (field, rest) = rest.split_at_checked(length).ok_or(StateError::Malformed)?;
        self.rest = rest;
        Ok(Some(field))
    }

    /// The field of this number, for who looks at one thing in a section that somebody else reads.
    pub fn find(&self, number: u16) -> Result<Option<&'a [u8]>, StateError> {
        let mut rest = self.rest;
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
            let (field, after) = after.split_at_checked(length).ok_or(StateError::Malformed)?;
            if u16::from_le_bytes([header[0], header[1]]) == number {
                return Ok(Some(field));
            }
            rest = after;
        }
        if rest.is_empty() { Ok(None) } else { Err(StateError::Malformed) }
    }

    /// The field of this number.
    pub fn bytes(&mut self, number: u16) -> Result<&'a [u8], StateError> {
        self.optional(number)?.ok_or(StateError::Missing(number))
    }

    /// A number.
    pub fn number(&mut self, number: u16) -> Result<u64, StateError> {
        self.bytes(number)?.try_into().map(u64::from_le_bytes).map_err(|_| StateError::Malformed)
    }

    /// A number that fits a smaller type.
    pub fn small<T: TryFrom<u64>>(&mut self, number: u16, what: &'static str) -> Result<T, StateError> {
        self.number(number)?.try_into().map_err(|_| StateError::Invalid(what))
    }

    /// A number that is 0 or 1.
    pub fn flag(&mut self, number: u16) -> Result<bool, StateError> {
        match self.number(number)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StateError::Invalid("flag")),
        }
    }

    /// A list of numbers.
    pub fn numbers(&mut self, number: u16) -> Result<Vec<u64>, StateError> {
        self.optional_numbers(number)?.ok_or(StateError::Missing(number))
    }

    /// A list of numbers that needn't be there.
    pub fn optional_numbers(&mut self, number: u16) -> Result<Option<Vec<u64>>, StateError> {
        let Some(bytes) = self.optional(number)? else { return Ok(None) };
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(StateError::Malformed);
        }
        Ok(Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
    }

    /// A section.
    pub fn section(&mut self, number: u16) -> Result<StateReader<'a>, StateError> {
        self.bytes(number).map(Self::new)
    }

    /// Checks that nothing is left.
    pub fn end(self) -> Result<(), StateError> {
        match self.rest.first_chunk::<2>() {
            None if self.rest.is_empty() => Ok(()),
            None => Err(StateError::Malformed),
            Some(number) => Err(StateError::Unknown(u16::from_le_bytes(*number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Vec<u8> {
        let mut writer = StateWriter::new();
        writer.number(1, 7);
        writer.numbers(3, [1, 2]);
        let inner = |inner: &mut StateWriter| -> Result<(), StateError> {
            inner.number(9, 1);
            Ok(())
        };
        writer.section(4, inner).unwrap();
        writer.finish()
    }

    #[test]
    fn fields_are_read_back_and_missing_ones_are_told() {
        let bytes = section();
        let mut reader = StateReader::new(&bytes);
        assert_eq!(reader.number(1), Ok(7));
        assert_eq!(reader.optional(2), Ok(None));
        assert_eq!(reader.numbers(3), Ok(alloc::vec![1, 2]));
        let mut inner = reader.section(4).unwrap();
        assert_eq!(inner.flag(9), Ok(true));
        inner.end().unwrap();
        assert_eq!(reader.number(5), Err(StateError::Missing(5)));
        reader.end().unwrap();
    }

    #[test]
    fn field_that_nobody_asked_for_is_unknown() {
        let bytes = section();
        let mut reader = StateReader::new(&bytes);
        assert_eq!(reader.numbers(3), Err(StateError::Unknown(1)));
        assert_eq!(reader.end(), Err(StateError::Unknown(1)));
    }

    #[test]
    fn cut_off_section_returns_error() {
        let bytes = section();
        for length in 1..bytes.len() {
            let mut reader = StateReader::new(&bytes[..length]);
            let read = reader.number(1).and_then(|_| reader.numbers(3)).and_then(|_| reader.section(4));
            assert!(read.is_err(), "{length}");
        }
    }
}
