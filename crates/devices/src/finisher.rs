//! SiFive test finisher: the register through which a guest turns the machine off or starts it again.
//!
//! It decides nothing: it tells the closure given at construction, which must make the VM stop. Known to
//! device trees as `sifive,test0`/`sifive,test1`.

use alloc::boxed::Box;

use rvisor_waist::{Device, OutOfRange, StateError, StateReader, StateWriter, Width};

/// Bytes the device decodes.
pub const SIZE: u64 = 0x1000;

/// What a guest asks the machine to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerRequest {
    /// Turn off; all is well.
    PowerOff,
    /// Start again from power-on.
    Reset,
    /// Turn off; the guest failed with this code.
    Fail(u16),
}

impl PowerRequest {
    /// The request that a store of `value` means, or `None` for one that means nothing. The command is in bits
    /// 15:0, the code of a failure in bits 31:16.
    #[must_use]
    pub const fn from_register(value: u32) -> Option<Self> {
        match value & 0xffff {
            0x3333 => Some(Self::Fail((value >> 16) as u16)),
            0x5555 => Some(Self::PowerOff),
            0x7777 => Some(Self::Reset),
            _ => None,
        }
    }
}

/// The finisher.
pub struct Finisher {
    request: Box<dyn FnMut(PowerRequest) + Send>,
}

impl Finisher {
    /// A finisher that calls `request` for every valid command, on the thread of the hart that stored it.
    #[must_use]
    pub fn new(request: Box<dyn FnMut(PowerRequest) + Send>) -> Self {
        Self { request }
    }

    /// Firmware stores halves as well as words; nothing else is answered.
    fn check(offset: u64, width: Width) -> Result<(), OutOfRange> {
        match width {
            Width::Half | Width::Word if offset.is_multiple_of(width.bytes()) => Ok(()),
            _ => Err(OutOfRange),
        }
    }
}

impl Device for Finisher {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        Self::check(offset, width).map(|()| 0)
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        Self::check(offset, width)?;
        if offset == 0 {
            match PowerRequest::from_register(value as u32) {
                Some(request) => (self.request)(request),
                None => log::debug!("finisher: store of {value:#x} means nothing"),
            }
        }
        Ok(())
    }

    fn reset(&mut self) {}

    /// It has none.
    fn save(&mut self, _state: &mut StateWriter) -> Result<(), StateError> {
        Ok(())
    }

    fn restore(&mut self, _state: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    use spin::Mutex;

    use super::*;
    use crate::test_utils::hammer;

    fn finisher() -> (Finisher, Arc<Mutex<Vec<PowerRequest>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let sink = requests.clone();
        (Finisher::new(Box::new(move |request| sink.lock().push(request))), requests)
    }

    #[test]
    fn commands_reach_the_closure() {
        let (mut finisher, requests) = finisher();
        finisher.write(0, Width::Word, 0x5555).unwrap();
        finisher.write(0, Width::Half, 0x7777).unwrap();
        finisher.write(0, Width::Word, 0x002a_3333).unwrap();
        use PowerRequest::*;
        assert_eq!(*requests.lock(), [PowerOff, Reset, Fail(42)]);
    }

    #[test]
    fn other_values_and_registers_do_nothing() {
        let (mut finisher, requests) = finisher();
        finisher.write(0, Width::Word, 0x1234).unwrap();
        finisher.write(4, Width::Word, 0x5555).unwrap();
        assert_eq!(finisher.read(0, Width::Word), Ok(0));
        assert!(requests.lock().is_empty());
    }

    #[test]
    fn bytes_doubles_and_misaligned_accesses_fault() {
        let (mut finisher, _) = finisher();
        assert_eq!(finisher.write(0, Width::Byte, 0x55), Err(OutOfRange));
        assert_eq!(finisher.write(0, Width::Double, 0x5555), Err(OutOfRange));
        assert_eq!(finisher.read(2, Width::Word), Err(OutOfRange));
    }

    #[test]
    fn random_accesses_never_panic() {
        hammer(&mut finisher().0, SIZE);
    }
}
