//! Platform-level interrupt controller (RISC-V PLIC Specification 1.0.0).
//!
//! All sources are level-triggered. A *context* is a hart in a privilege mode; each drives one line
//! (`mip.MEIP` or `mip.SEIP`). Sources are driven from device threads while harts claim, so the state is
//! shared behind a lock: [`Plic::source`] gives out wires that live as long as they are needed.

mod persist;

use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_waist::{Device, InterruptLine, OutOfRange, StateError, StateReader, StateWriter, Width};
use spin::Mutex;

use crate::word_index;

/// Bytes the device decodes.
pub const SIZE: u64 = 0x60_0000;
/// The highest source; the lowest is 1.
pub const MAX_SOURCE: u32 = 95;
/// The highest priority; 0 means never.
pub const MAX_PRIORITY: u32 = 7;

/// Offset of the pending bits; priorities stand before.
const PENDING: u64 = 0x1000;
/// Offset of the enable bits, [`ENABLE_STRIDE`] bytes a context.
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
/// Offset of threshold and claim/complete, [`CONTEXT_STRIDE`] bytes a context.
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;

/// One bit per source.
type Sources = u128;
const ALL_SOURCES: Sources = ((1 << (MAX_SOURCE + 1)) - 1) & !1;

struct Context {
    enabled: Sources,
    threshold: u32,
    output: Arc<dyn InterruptLine>,
    level: bool,
}

struct State {
    priorities: [u32; MAX_SOURCE as usize + 1],
    /// Levels of the wires.
    asserted: Sources,
    /// Requests that no context has claimed.
    pending: Sources,
    /// Claimed and not completed: the gateway forwards nothing more of these.
    in_service: Sources,
    contexts: Vec<Context>,
}

/// A register of the memory map.
enum Register {
    Priority(usize),
    Pending(usize),
    Enable { context: usize, word: usize },
    Threshold(usize),
    Claim(usize),
    Reserved,
}

impl Register {
    fn decode(offset: u64, width: Width) -> Result<Self, OutOfRange> {
        let index = word_index(offset, width)?;
        let word_behind = |base: u64| index - (base / 4) as usize;
        Ok(match offset {
            0..PENDING => Self::Priority(index),
            PENDING..ENABLE => Self::Pending(word_behind(PENDING)),
            ENABLE..CONTEXT => {
                let (index, stride) = (word_behind(ENABLE), (ENABLE_STRIDE / 4) as usize);
                Self::Enable { context: index / stride, word: index % stride }
            }
            _ => {
                let (index, stride) = (word_behind(CONTEXT), (CONTEXT_STRIDE / 4) as usize);
                match index % stride {
                    0 => Self::Threshold(index / stride),
                    1 => Self::Claim(index / stride),
                    _ => Self::Reserved,
                }
            }
        })
    }
}

/// Word `index` of a bit set; words past its end are zero.
fn word_of(sources: Sources, index: usize) -> u32 {
    u32::try_from(index * 32).ok().and_then(|shift| sources.checked_shr(shift)).unwrap_or(0) as u32
}

/// The bit set with word `index` replaced, as far as there are sources.
fn with_word(sources: Sources, index: usize, value: u32) -> Sources {
    if index >= (Sources::BITS / 32) as usize {
        return sources;
    }
    let shift = index * 32;
    (sources & !(0xffff_ffff << shift) | Sources::from(value) << shift) & ALL_SOURCES
}

impl State {
    /// The request `context` would claim: highest priority first, then lowest source. With `above`, only
    /// those of a higher priority than that.
    fn best(&self, context: &Context, above: u32) -> Option<u32> {
        let mut candidates = self.pending & context.enabled;
        let (mut best, mut priority) = (None, above);
        while candidates != 0 {
            let source = candidates.trailing_zeros();
            candidates &= candidates - 1;
            if self.priorities[source as usize] > priority {
                priority = self.priorities[source as usize];
                best = Some(source);
            }
        }
        best
    }

    /// Lets gateways forward requests, then drives the outputs whose level changed.
    fn update(&mut self) {
        self.pending |= self.asserted & !self.in_service;
        for index in 0..self.contexts.len() {
            let context = &self.contexts[index];
            let level = self.best(context, context.threshold).is_some();
            let context = &mut self.contexts[index];
            if context.level != level {
                context.level = level;
                context.output.set(level);
            }
        }
    }

    fn drive(&mut self, source: u32, level: bool) {
        let bit = 1 << source;
        let asserted = if level { self.asserted | bit } else { self.asserted & !bit };
        if asserted != self.asserted {
            self.asserted = asserted;
            self.update();
        }
    }

    /// Takes the best request, whatever the threshold ("Interrupt Claim Process"). 0 if there is none.
    fn claim(&mut self, context: usize) -> u32 {
        let Some(source) = self.contexts.get(context).and_then(|context| self.best(context, 0)) else {
            return 0;
        };
        self.pending &= !(1 << source);
        self.in_service |= 1 << source;
        self.update();
        source
    }

    /// Ends a request's service. One that isn't enabled for the context is ignored ("Interrupt Completion").
    fn complete(&mut self, context: usize, source: u32) {
        if source <= MAX_SOURCE
            && let Some(context) = self.contexts.get(context)
            && context.enabled & 1 << source != 0
        {
            self.in_service &= !(1 << source);
            self.update();
        }
    }

    fn read(&mut self, register: &Register) -> u32 {
        match *register {
            Register::Priority(source) => self.priorities.get(source).copied().unwrap_or(0),
            Register::Pending(word) => word_of(self.pending, word),
            Register::Enable { context, word } => {
                self.contexts.get(context).map_or(0, |context| word_of(context.enabled, word))
            }
            Register::Threshold(context) => self.contexts.get(context).map_or(0, |context| context.threshold),
            Register::Claim(context) => self.claim(context),
            Register::Reserved => 0,
        }
    }

    fn write(&mut self, register: &Register, value: u32) {
        match *register {
            Register::Priority(source) => {
                if let Some(priority) = self.priorities.get_mut(source).filter(|_| source != 0) {
                    *priority = value & MAX_PRIORITY;
                    self.update();
                }
            }
            Register::Enable { context, word } => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.enabled = with_word(context.enabled, word, value);
                    self.update();
                }
            }
            Register::Threshold(context) => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.threshold = value & MAX_PRIORITY;
                    self.update();
                }
            }
            Register::Claim(context) => self.complete(context, value),
            Register::Pending(_) | Register::Reserved => {}
        }
    }
}

/// The PLIC.
#[derive(Clone)]
pub struct Plic {
    shared: Arc<Mutex<State>>,
}

impl Plic {
    /// A PLIC with one context for each of `outputs`, in the order of the device tree's
    /// `interrupts-extended`. Outputs are driven under the PLIC's lock: they must not call back into it.
    #[must_use]
    pub fn new(outputs: Vec<Arc<dyn InterruptLine>>) -> Self {
        let context = |output| Context { enabled: 0, threshold: 0, output, level: false };
        let state = State {
            priorities: [0; MAX_SOURCE as usize + 1],
            asserted: 0,
            pending: 0,
            in_service: 0,
            contexts: outputs.into_iter().map(context).collect(),
        };
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    /// The wire of a source, or `None` unless it lies in 1..=[`MAX_SOURCE`].
    #[must_use]
    pub fn source(&self, source: u32) -> Option<Arc<dyn InterruptLine>> {
        (1..=MAX_SOURCE)
            .contains(&source)
            .then(|| Arc::new(Source { shared: self.shared.clone(), source }) as _)
    }
}

struct Source {
    shared: Arc<Mutex<State>>,
    source: u32,
}

impl InterruptLine for Source {
    fn set(&self, level: bool) {
        self.shared.lock().drive(self.source, level);
    }
}

impl Device for Plic {
    fn read(&mut self, offset: u64, width: Width) -> Result<u64, OutOfRange> {
        let register = Register::decode(offset, width)?;
        Ok(self.shared.lock().read(&register).into())
    }

    fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<(), OutOfRange> {
        let register = Register::decode(offset, width)?;
        self.shared.lock().write(&register, value as u32);
        Ok(())
    }

    /// Wires keep the level their devices drive.
    fn reset(&mut self) {
        let mut state = self.shared.lock();
        state.priorities.fill(0);
        state.pending = 0;
        state.in_service = 0;
        for context in &mut state.contexts {
            context.enabled = 0;
            context.threshold = 0;
        }
        state.update();
    }

    fn save(&mut self, state: &mut StateWriter) -> Result<(), StateError> {
        self.save_state(state);
        Ok(())
    }

    fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.restore_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::{Wire, hammer};

    const THRESHOLD_1: u64 = CONTEXT + CONTEXT_STRIDE;
    const CLAIM_0: u64 = CONTEXT + 4;
    const CLAIM_1: u64 = THRESHOLD_1 + 4;

    struct Bench {
        plic: Plic,
        outputs: [Arc<Wire>; 2],
    }

    impl Bench {
        fn new() -> Self {
            let outputs = [Arc::new(Wire::default()), Arc::new(Wire::default())];
            let plic = Plic::new(outputs.iter().map(|wire| wire.clone() as _).collect());
            Self { plic, outputs }
        }

        /// Both contexts enable `source` at `priority`.
        fn enable(&mut self, source: u32, priority: u32) {
            self.write(4 * u64::from(source), priority);
            for context in 0..2 {
                let offset = ENABLE + ENABLE_STRIDE * context + 4 * u64::from(source / 32);
                let enabled = self.read(offset);
                self.write(offset, enabled | 1 << (source % 32));
            }
        }

        fn drive(&self, source: u32, level: bool) {
            self.plic.source(source).unwrap().set(level);
        }

        fn read(&mut self, offset: u64) -> u32 {
            self.plic.read(offset, Width::Word).unwrap() as u32
        }

        fn write(&mut self, offset: u64, value: u32) {
            self.plic.write(offset, Width::Word, value.into()).unwrap();
        }

        fn levels(&self) -> [bool; 2] {
            [self.outputs[0].is_high(), self.outputs[1].is_high()]
        }
    }

    #[test]
    fn enabled_source_raises_the_line_and_claim_lowers_it() {
        let mut bench = Bench::new();
        bench.enable(10, 1);
        bench.drive(10, true);
        assert_eq!(bench.levels(), [true, true]);
        assert_eq!(bench.read(PENDING), 1 << 10);
        assert_eq!(bench.read(CLAIM_1), 10);
        assert_eq!(bench.levels(), [false, false]);
        assert_eq!(bench.read(PENDING), 0);
        assert_eq!(bench.read(CLAIM_0), 0);
    }

    #[test]
    fn level_still_high_at_completion_is_pending_again() {
        let mut bench = Bench::new();
        bench.enable(10, 1);
        bench.drive(10, true);
        assert_eq!(bench.read(CLAIM_1), 10);
        bench.write(CLAIM_1, 10);
        assert_eq!(bench.levels(), [true, true]);
        assert_eq!(bench.read(CLAIM_0), 10);
        bench.drive(10, false);
        bench.write(CLAIM_0, 10);
        assert_eq!(bench.levels(), [false, false]);
    }

    #[test]
    fn request_stays_pending_after_its_wire_falls() {
        let mut bench = Bench::new();
        bench.enable(3, 1);
        bench.drive(3, true);
        bench.drive(3, false);
        assert_eq!(bench.read(CLAIM_0), 3);
        bench.write(CLAIM_0, 3);
        assert_eq!(bench.read(CLAIM_0), 0);
    }

    #[test]
    fn higher_priority_is_claimed_first_then_lower_source() {
        let mut bench = Bench::new();
        for (source, priority) in [(5, 2), (4, 2), (70, 7), (1, 1)] {
            bench.enable(source, priority);
            bench.drive(source, true);
        }
        let order: Vec<u32> = (0..5).map(|_| bench.read(CLAIM_0)).collect();
        assert_eq!(order, [70, 4, 5, 1, 0]);
    }

    #[test]
    fn threshold_masks_the_line_but_not_the_claim() {
        let mut bench = Bench::new();
        bench.enable(10, 3);
        bench.write(THRESHOLD_1, 3);
        bench.drive(10, true);
        assert_eq!(bench.levels(), [true, false]);
        bench.write(THRESHOLD_1, 2);
        assert_eq!(bench.levels(), [true, true]);
        bench.write(THRESHOLD_1, 7);
        assert_eq!(bench.read(CLAIM_1), 10);
    }

    #[test]
    fn priority_zero_never_interrupts() {
        let mut bench = Bench::new();
        bench.enable(10, 0);
        bench.drive(10, true);
        assert_eq!(bench.levels(), [false, false]);
        assert_eq!(bench.read(CLAIM_0), 0);
        bench.write(40, 1);
        assert_eq!(bench.levels(), [true, true]);
    }

    #[test]
    fn completion_of_a_source_that_is_not_enabled_is_ignored() {
        let mut bench = Bench::new();
        bench.enable(10, 1);
        bench.drive(10, true);
        assert_eq!(bench.read(CLAIM_0), 10);
        bench.write(ENABLE + ENABLE_STRIDE, 0);
        bench.write(CLAIM_1, 10);
        bench.write(CLAIM_0, 11);
        bench.write(CLAIM_0, u32::MAX);
        assert_eq!(bench.read(CLAIM_0), 0);
        bench.write(CLAIM_0, 10);
        assert_eq!(bench.read(CLAIM_0), 10);
    }

    #[test]
    fn registers_hold_only_bits_that_exist() {
        let mut bench = Bench::new();
        for offset in [0, 4, 4 * 95, 4 * 96, PENDING, CONTEXT, CONTEXT + 8, CONTEXT + 2 * CONTEXT_STRIDE] {
            bench.write(offset, u32::MAX);
        }
        for word in 0..5 {
            bench.write(ENABLE + 4 * word, u32::MAX);
        }
        assert_eq!([0, 4, 4 * 95, 4 * 96].map(|offset| bench.read(offset)), [0, 7, 7, 0]);
        assert_eq!([0, 8, 2 * CONTEXT_STRIDE].map(|offset| bench.read(CONTEXT + offset)), [7, 0, 0]);
        let enables = [0, 4, 8, 12, 16].map(|offset| bench.read(ENABLE + offset));
        assert_eq!(enables, [0xffff_fffe, 0xffff_ffff, 0xffff_ffff, 0, 0]);
        assert_eq!(bench.read(PENDING), 0);
    }

    #[test]
    fn sources_outside_the_range_do_not_exist() {
        let plic = Bench::new().plic;
        assert!(plic.source(0).is_none() && plic.source(96).is_none() && plic.source(95).is_some());
    }

    #[test]
    fn accesses_other_than_aligned_words_fault() {
        let mut plic = Bench::new().plic;
        assert_eq!(plic.read(4, Width::Byte), Err(OutOfRange));
        assert_eq!(plic.read(8, Width::Double), Err(OutOfRange));
        assert_eq!(plic.write(6, Width::Word, 1), Err(OutOfRange));
    }

    #[test]
    fn reset_forgets_requests_but_not_the_level_of_wires() {
        let mut bench = Bench::new();
        bench.enable(10, 1);
        bench.drive(10, true);
        bench.plic.reset();
        assert_eq!(bench.levels(), [false, false]);
        bench.enable(10, 1);
        assert_eq!(bench.levels(), [true, true]);
    }

    #[test]
    fn random_accesses_never_panic() {
        let mut bench = Bench::new();
        bench.drive(33, true);
        hammer(&mut bench.plic, SIZE);
    }
}
