//! The machine as gdb sees it: harts are threads, number 1 is hart 0.

use std::collections::BTreeSet;
use std::convert::Infallible;

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use rvisor_hart::Watchpoint;

use super::monitor;
use super::registers::{CoreRegisters, Register, Riscv64, csrs, description};
use crate::debugger::{Debugger, Resume};

/// Longest that is read from or written to memory at once.
const LONGEST: usize = 1 << 16;

/// A machine under gdb.
pub struct GdbTarget {
    pub debugger: Debugger,
    /// Memory accesses are by guest physical address.
    pub is_physical: bool,
    /// The machine is to be ended once gdb has its answer.
    pub ends: bool,
    description: String,
    software: BTreeSet<u64>,
    hardware: BTreeSet<u64>,
    watchpoints: Vec<Watchpoint>,
    actions: Vec<Option<Resume>>,
    /// What harts do for which gdb has said nothing.
    others: Resume,
}

/// gdb's number of a hart.
pub fn tid(hart: usize) -> Tid {
    Tid::new(hart + 1).unwrap_or(Tid::MIN)
}

/// The hart of a number.
pub fn hart(tid: Tid) -> usize {
    tid.get() - 1
}

/// What isn't possible, as gdb shows it: "no such process".
const GONE: TargetError<Infallible> = TargetError::Errno(3);
/// "Bad address".
const UNMAPPED: TargetError<Infallible> = TargetError::Errno(14);

impl GdbTarget {
    /// The target of an attached debugger. `None` if the machine is paused, or ends.
    pub fn new(debugger: Debugger) -> Option<Self> {
        let csrs = debugger.hart(0, csrs)?;
        let actions = vec![None; debugger.vm().harts().len()];
        Some(Self {
            debugger,
            is_physical: false,
            ends: false,
            description: description(&csrs),
            software: BTreeSet::new(),
            hardware: BTreeSet::new(),
            watchpoints: Vec::new(),
            actions,
            others: Resume::Run,
        })
    }

    /// Whether gdb set the breakpoint at an address as a software one.
    pub fn is_software(&self, address: u64) -> bool {
        self.software.contains(&address)
    }

    fn points_changed(&self) {
        let breakpoints = self.software.union(&self.hardware).copied().collect();
        self.debugger.set_points(breakpoints, self.watchpoints.clone());
    }
}

impl Target for GdbTarget {
    type Arch = Riscv64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for GdbTarget {
    fn read_registers(&mut self, registers: &mut CoreRegisters, tid: Tid) -> TargetResult<(), Self> {
        let read = self.debugger.hart(hart(tid), |hart, _| (hart.hart.x, hart.hart.pc));
        (registers.x, registers.pc) = read.ok_or(GONE)?;
        Ok(())
    }

    fn write_registers(&mut self, registers: &CoreRegisters, tid: Tid) -> TargetResult<(), Self> {
        let (x, pc) = (registers.x, registers.pc);
        let write = move |hart: &mut rvisor_machine::VirtualHart, vm: &_| {
            hart.hart.x[1..].copy_from_slice(&x[1..]);
            Register::Pc.write(hart, vm, pc)
        };
        self.debugger.hart(hart(tid), write).flatten().ok_or(GONE)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let length = data.len().min(LONGEST);
        let bytes = if self.is_physical {
            self.debugger.read_physical(start, length)
        } else {
            self.debugger.read(hart(tid), start, length)
        };
        let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or(UNMAPPED)?;
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let written = if self.is_physical {
            self.debugger.write_physical(start, data)
        } else {
            self.debugger.write(hart(tid), start, data)
        };
        if written { Ok(()) } else { Err(UNMAPPED) }
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.debugger.vm().harts().len()).for_each(|hart| active(tid(hart)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for GdbTarget {
    fn read_register(
        &mut self,
        tid: Tid,
        register: Register,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let read = self.debugger.hart(hart(tid), move |hart, vm| register.read(hart, vm));
        let bytes = read.ok_or(GONE)?.ok_or(TargetError::NonFatal)?.to_le_bytes();
        let place = buffer.get_mut(..bytes.len()).ok_or(TargetError::NonFatal)?;
        place.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, tid: Tid, register: Register, value: &[u8]) -> TargetResult<(), Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..value.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(value);
        let value = u64::from_le_bytes(bytes);
        let written = self.debugger.hart(hart(tid), move |hart, vm| register.write(hart, vm, value));
        written.ok_or(GONE)?.ok_or(TargetError::NonFatal)
    }
}

impl MultiThreadResume for GdbTarget {
    fn resume(&mut self) -> Result<(), Infallible> {
        self.debugger.resume(|hart| self.actions[hart].unwrap_or(self.others));
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.actions.fill(None);
        self.others = Resume::Run;
        Ok(())
    }

    // Harts know no signals.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        if let Some(action) = self.actions.get_mut(hart(tid)) {
            *action = Some(Resume::Run);
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for GdbTarget {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        if let Some(action) = self.actions.get_mut(hart(tid)) {
            *action = Some(Resume::Step);
        }
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for GdbTarget {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.others = Resume::Hold;
        Ok(())
    }
}

impl Breakpoints for GdbTarget {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

/// Both kinds go by address: there is no need to write `ebreak` into the guest.
impl SwBreakpoint for GdbTarget {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.software.insert(address);
        self.points_changed();
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let was = self.software.remove(&address);
        self.points_changed();
        Ok(was)
    }
}

impl HwBreakpoint for GdbTarget {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.hardware.insert(address);
        self.points_changed();
        Ok(true)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let was = self.hardware.remove(&address);
        self.points_changed();
        Ok(was)
    }
}

fn watchpoint(start: u64, length: u64, kind: WatchKind) -> Watchpoint {
    let kind = match kind {
        WatchKind::Write => rvisor_hart::WatchKind::Write,
        WatchKind::Read => rvisor_hart::WatchKind::Read,
        WatchKind::ReadWrite => rvisor_hart::WatchKind::Access,
    };
    Watchpoint { start, length: length.max(1), kind }
}

/// Watchpoints of one machine: each access to a page with one looks at all of them.
const MOST_WATCHPOINTS: usize = 64;

impl HwWatchpoint for GdbTarget {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        if self.watchpoints.len() == MOST_WATCHPOINTS {
            return Ok(false);
        }
        self.watchpoints.push(watchpoint(address, length, kind));
        self.points_changed();
        Ok(true)
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let removed = watchpoint(address, length, kind);
        let at = self.watchpoints.iter().position(|point| *point == removed);
        if let Some(at) = at {
            self.watchpoints.swap_remove(at);
            self.points_changed();
        }
        Ok(at.is_some())
    }
}

impl MonitorCmd for GdbTarget {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        out.write_raw(monitor::answer(self, &String::from_utf8_lossy(command)).as_bytes());
        Ok(())
    }
}

impl ThreadExtraInfo for GdbTarget {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let text = monitor::describe(self, hart(tid));
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl TargetDescriptionXmlOverride for GdbTarget {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let text = self.description.as_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
        let length = rest.len().min(length).min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
