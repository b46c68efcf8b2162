//! A recording as a file that Perfetto and Chromium open: JSON of the Trace Event Format, an array of events that
//! may lack its end. Harts are threads; a trap and its handler's return are a slice, with the slices of what traps
//! meanwhile inside.

use std::fmt::Write as _;
use std::io::{self, Write};

use rvisor_hart::{AccessKind, Cause, HartEvent};
use rvisor_isa::{Exception, Privilege};
use rvisor_waist::GuestPhysical;

use super::names;
use super::recorder::{Batch, Record};

/// Traps inside traps that are kept track of.
const DEEPEST: usize = 64;

/// What a hart is in the middle of.
#[derive(Default)]
struct Track {
    /// The modes that handlers are to return to.
    open: Vec<Privilege>,
    device: Option<(u64, String)>,
    waiting: Option<u64>,
    last: u64,
}

/// Writes events as they come.
pub struct JsonWriter<W> {
    output: W,
    tracks: Vec<Track>,
    is_first: bool,
}

impl<W: Write> JsonWriter<W> {
    /// Begins a file about a machine of this name.
    ///
    /// # Errors
    /// What the output says; the same for the others.
    pub fn new(output: W, machine: &str, harts: usize) -> io::Result<Self> {
        let tracks = (0..harts).map(|_| Track::default()).collect();
        let mut writer = Self { output, tracks, is_first: true };
        writer.output.write_all(b"[\n")?;
        writer.name("process_name", 0, &format!("machine {machine}"))?;
        for hart in 0..harts {
            writer.name("thread_name", hart, &format!("hart {hart}"))?;
        }
        Ok(writer)
    }

    /// Where it goes to.
    pub fn output(&mut self) -> &mut W {
        &mut self.output
    }

    fn name(&mut self, what: &str, hart: usize, name: &str) -> io::Result<()> {
        let name = escape(name);
        self.event(&format!(
            "\"ph\":\"M\",\"name\":\"{what}\",\"tid\":{},\"args\":{{\"name\":\"{name}\"}}",
            hart + 1
        ))
    }

    fn event(&mut self, members: &str) -> io::Result<()> {
        let separator = if std::mem::take(&mut self.is_first) { "" } else { ",\n" };
        write!(self.output, "{separator}{{\"pid\":1,{members}}}")
    }

    /// Writes one hart's next events.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.hart < self.tracks.len() {
            batch.records.iter().try_for_each(|record| self.record(batch.hart, record))?;
        }
        Ok(())
    }

    /// Ends what is open, and the file.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn finish(mut self, lost: u64) -> io::Result<W> {
        for hart in 0..self.tracks.len() {
            let Track { open, waiting, last, .. } = std::mem::take(&mut self.tracks[hart]);
            if let Some(since) = waiting {
                self.whole(hart, "wait", "waits", since, last, "")?;
            }
            open.iter().try_for_each(|_| self.end(hart, last, ""))?;
        }
        if lost > 0 {
            self.name("process_labels", 0, &format!("{lost} events were lost"))?;
        }
        self.output.write_all(b"\n]\n")?;
        Ok(self.output)
    }

    fn record(&mut self, hart: usize, record: &Record) -> io::Result<()> {
        let Record { time, event } = *record;
        self.tracks[hart].last = time;
        match event {
            HartEvent::Trap { trap, pc, from, satp, arguments, .. } => {
                if self.tracks[hart].open.len() == DEEPEST {
                    return Ok(());
                }
                self.tracks[hart].open.push(from);
                let (name, category) = trap_name(trap.cause, &arguments);
                let mut args = format!("\"pc\":\"{pc:#x}\",\"satp\":\"{satp:#x}\"");
                if category == "syscalls" {
                    let list: Vec<_> = arguments[..6].iter().map(|value| format!("{value:#x}")).collect();
                    let _ =
                        write!(args, ",\"number\":{},\"arguments\":\"{}\"", arguments[7], list.join(", "));
                } else if trap.value != 0 {
                    let _ = write!(args, ",\"value\":\"{:#x}\"", trap.value);
                }
                self.begin(hart, &name, category, time, &args)
            }
            HartEvent::Return { to, pc, values, .. } => {
                let args = format!("\"to\":\"{pc:#x}\",\"a0\":\"{:#x}\"", values[0]);
                // Handlers inside that were left for other threads' won't return themselves.
                let open = &mut self.tracks[hart].open;
                let kept = match open.iter().rposition(|&from| from == to) {
                    Some(at) => at,
                    None if to == Privilege::User => 0,
                    None => open.len(),
                };
                let ended = open.len() - kept;
                open.truncate(kept);
                (0..ended).try_for_each(|number| {
                    let is_last = number + 1 == ended;
                    self.end(hart, time, if is_last { &args } else { "" })
                })
            }
            HartEvent::SbiCall { pc, arguments } => {
                let [a0, a1, a2, _, _, _, function, extension] = arguments;
                let name = format!("SBI {} {function}", names::extension(extension));
                let args = format!(
                    "\"pc\":\"{pc:#x}\",\"extension\":\"{extension:#x}\",\"arguments\":\"{a0:#x}, {a1:#x}, {a2:#x}\""
                );
                self.begin(hart, &name, "sbi", time, &args)
            }
            HartEvent::SbiReturn { values: [a0, a1] } => {
                self.end(hart, time, &format!("\"error\":{},\"value\":\"{a1:#x}\"", a0 as i64))
            }
            HartEvent::Device { access, pc } => {
                let kind = if let AccessKind::Store { value } = access.kind {
                    format!("\"store\":\"{value:#x}\"")
                } else {
                    "\"load\":true".to_owned()
                };
                let bytes = access.width.bytes();
                let GuestPhysical(at) = access.address;
                let args = format!("\"address\":\"{at:#x}\",\"bytes\":{bytes},\"pc\":\"{pc:#x}\",{kind}");
                self.tracks[hart].device = Some((time, args));
                Ok(())
            }
            HartEvent::DeviceDone { value } => {
                let Some((since, args)) = self.tracks[hart].device.take() else { return Ok(()) };
                let answer = value.map_or("\"access fault\"".to_owned(), |value| format!("\"{value:#x}\""));
                self.whole(hart, "device", "devices", since, time, &format!("{args},\"answer\":{answer}"))
            }
            HartEvent::Wait => {
                self.tracks[hart].waiting = Some(time);
                Ok(())
            }
            HartEvent::Woke => match self.tracks[hart].waiting.take() {
                Some(since) => self.whole(hart, "wait", "waits", since, time, ""),
                None => Ok(()),
            },
            HartEvent::Fill { access, pc, address, physical, page_size, satp, .. } => {
                let name = names::access(access);
                let time = microseconds(time);
                self.event(&format!(
                    "\"ph\":\"i\",\"s\":\"t\",\"name\":\"TLB fill: {name}\",\"cat\":\"tlb\",\"tid\":{},\"ts\":{time},\
                     \"args\":{{\"address\":\"{address}\",\"physical\":\"{physical}\",\"page\":{page_size},\
                     \"pc\":\"{pc:#x}\",\"satp\":\"{satp:#x}\"}}",
                    hart + 1
                ))
            }
        }
    }

    fn begin(&mut self, hart: usize, name: &str, category: &str, time: u64, args: &str) -> io::Result<()> {
        let (tid, time) = (hart + 1, microseconds(time));
        self.event(&format!(
            "\"ph\":\"B\",\"name\":\"{name}\",\"cat\":\"{category}\",\"tid\":{tid},\"ts\":{time},\"args\":{{{args}}}"
        ))
    }

    fn end(&mut self, hart: usize, time: u64, args: &str) -> io::Result<()> {
        let (tid, time) = (hart + 1, microseconds(time));
        self.event(&format!("\"ph\":\"E\",\"tid\":{tid},\"ts\":{time},\"args\":{{{args}}}"))
    }

    fn whole(
        &mut self,
        hart: usize,
        name: &str,
        category: &str,
        since: u64,
        until: u64,
        args: &str,
    ) -> io::Result<()> {
        let (tid, start, length) = (hart + 1, microseconds(since), microseconds(until.saturating_sub(since)));
        self.event(&format!(
            "\"ph\":\"X\",\"name\":\"{name}\",\"cat\":\"{category}\",\"tid\":{tid},\"ts\":{start},\"dur\":{length},\
             \"args\":{{{args}}}"
        ))
    }
}

/// Name and kind of a trap.
fn trap_name(cause: Cause, arguments: &[u64; 8]) -> (String, &'static str) {
    match cause {
        Cause::Exception(Exception::EnvironmentCallFromUser) => {
            let number = arguments[7];
            let name = names::system_call(number).map_or(format!("system call {number}"), str::to_owned);
            (name, "syscalls")
        }
        Cause::Exception(_) => (names::cause(cause).to_owned(), "traps"),
        Cause::Interrupt(_) => (names::cause(cause).to_owned(), "interrupts"),
    }
}

/// The format's unit, with three digits behind the point.
fn microseconds(nanoseconds: u64) -> String {
    format!("{}.{:03}", nanoseconds / 1000, nanoseconds % 1000)
}

/// Text inside a JSON string.
fn escape(text: &str) -> String {
    let plain = |c: char| if c == '"' || c == '\\' || c.is_control() { '_' } else { c };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests;
