//! Which engine runs a virtual hart: the tables that it has tell.

use alloc::sync::Arc;
use core::sync::atomic::AtomicBool;

use rvisor_hart::Exit;
use rvisor_machine::{Engine, VirtualHart, Vm};

use super::{Deprivileged, Statistics, Trace, Vs};
use crate::arch::Partition;
use crate::shadow::{Shadow, Stage};
use crate::virtualization::VirtualProcessor;

/// The page tables of a virtual hart that the hardware sees.
pub enum Tables {
    /// For the engine `deprivileged`.
    Shadow(Shadow),
    /// For the engine `vs`.
    Stage(Stage),
}

impl Tables {
    /// How often a page was filled.
    #[must_use]
    pub fn fills(&self) -> u64 {
        match self {
            Self::Shadow(shadow) => shadow.fills,
            Self::Stage(stage) => stage.fills,
        }
    }

    /// A trace for the engine that these tables are for: see [`Trace::new`].
    #[must_use]
    pub fn new_trace(&self, is_told: Arc<AtomicBool>) -> Trace {
        Trace::new(matches!(self, Self::Stage(_)), is_told)
    }

    /// Forgets everything: the guest's memory is given back.
    pub fn clear(&mut self) {
        match self {
            Self::Shadow(shadow) => shadow.clear(),
            Self::Stage(stage) => stage.clear(),
        }
    }
}

/// An engine on one physical hart, for one slice of a virtual hart's time.
pub enum AnyEngine<'a, P> {
    /// Without the H extension.
    Deprivileged(Deprivileged<'a, P>),
    /// With it.
    Vs(Vs<'a, P>),
}

impl<'a, P: VirtualProcessor> AnyEngine<'a, P> {
    /// The engine for these tables; it gives the hart back at `slice_end` ticks at the latest.
    pub fn new(tables: &'a mut Tables, processor: &'a mut P, slice_end: u64) -> Self {
        match tables {
            Tables::Shadow(shadow) => Self::Deprivileged(Deprivileged::new(shadow, processor, slice_end)),
            Tables::Stage(stage) => Self::Vs(Vs::new(stage, processor, slice_end)),
        }
    }

    /// Traces what happens from now on.
    pub fn trace(&mut self, trace: &'a mut Trace) {
        match self {
            Self::Deprivileged(engine) => engine.trace(trace),
            Self::Vs(engine) => engine.trace(trace),
        }
    }

    /// Lets the guest's time be so many ticks ahead of the hardware's, modulo 2^64.
    pub fn set_time_offset(&mut self, offset: u64) {
        match self {
            Self::Deprivileged(engine) => engine.set_time_offset(offset),
            Self::Vs(engine) => engine.set_time_offset(offset),
        }
    }

    /// What happened since the engine was made.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        match self {
            Self::Deprivileged(engine) => engine.statistics(),
            Self::Vs(engine) => engine.statistics(),
        }
    }
}

impl<P: VirtualProcessor> Engine<Partition> for AnyEngine<'_, P> {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<Partition>, budget: u64) -> Exit {
        match self {
            Self::Deprivileged(engine) => engine.run(hart, vm, budget),
            Self::Vs(engine) => engine.run(hart, vm, budget),
        }
    }
}
