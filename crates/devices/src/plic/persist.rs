//! The PLIC's state in a snapshot.

use rvisor_waist::{StateError, StateReader, StateWriter};

use super::{ALL_SOURCES, MAX_PRIORITY, Plic, Sources};

/// Numbers of the fields. A set of sources is two numbers, the lower half first.
mod field {
    pub const PRIORITIES: u16 = 1;
    pub const ASSERTED: u16 = 2;
    pub const PENDING: u16 = 3;
    pub const IN_SERVICE: u16 = 4;
    pub const ENABLED: u16 = 5;
    pub const THRESHOLDS: u16 = 6;
}

fn halves(sources: Sources) -> [u64; 2] {
    [sources as u64, (sources >> 64) as u64]
}

fn sources(halves: &[u64]) -> Result<Sources, StateError> {
    match *halves {
        [low, high] => Ok((Sources::from(high) << 64 | Sources::from(low)) & ALL_SOURCES),
        _ => Err(StateError::Malformed),
    }
}

fn priority(value: u64) -> Result<u32, StateError> {
    match u32::try_from(value) {
        Ok(value @ 0..=MAX_PRIORITY) => Ok(value),
        _ => Err(StateError::Invalid("interrupt priority")),
    }
}

impl Plic {
    pub(super) fn save_state(&self, writer: &mut StateWriter) {
        let state = self.shared.lock();
        writer.numbers(field::PRIORITIES, state.priorities.iter().map(|&priority| priority.into()));
        writer.numbers(field::ASSERTED, halves(state.asserted));
        writer.numbers(field::PENDING, halves(state.pending));
        writer.numbers(field::IN_SERVICE, halves(state.in_service));
        writer.numbers(field::ENABLED, state.contexts.iter().flat_map(|context| halves(context.enabled)));
        writer.numbers(field::THRESHOLDS, state.contexts.iter().map(|context| context.threshold.into()));
    }

    pub(super) fn restore_state(&self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        let mut state = self.shared.lock();
        let priorities = reader.numbers(field::PRIORITIES)?;
        if priorities.len() != state.priorities.len() {
            return Err(StateError::Mismatch("number of interrupt sources"));
        }
        for (to, from) in state.priorities.iter_mut().zip(priorities) {
            *to = priority(from)?;
        }
        state.asserted = sources(&reader.numbers(field::ASSERTED)?)?;
        state.pending = sources(&reader.numbers(field::PENDING)?)?;
        state.in_service = sources(&reader.numbers(field::IN_SERVICE)?)?;
        let (enabled, thresholds) = (reader.numbers(field::ENABLED)?, reader.numbers(field::THRESHOLDS)?);
        let contexts = state.contexts.len();
        if enabled.len() != 2 * contexts || thresholds.len() != contexts {
            return Err(StateError::Mismatch("number of harts"));
        }
        for ((context, enabled), threshold) in
            state.contexts.iter_mut().zip(enabled.chunks_exact(2)).zip(thresholds)
        {
            context.enabled = sources(enabled)?;
            context.threshold = priority(threshold)?;
        }
        state.update();
        Ok(())
    }
}
