//! What this process has of the host, by the files of `/proc` that tell it (proc_pid_smaps(5), proc_pid_status(5)).
//!
//! They are opened before the process is confined, which can't open them any more, and read from their start each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What it has now, and how often it has waited.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Usage {
    /// Bytes of memory that it has mapped and that are there.
    pub resident: u64,
    /// The same, of which what it shares with others counts by its part.
    pub proportional: u64,
    /// Bytes that it has alone, and that would be free without it.
    pub private: u64,
    /// Threads.
    pub threads: u64,
    /// How often a thread has waited for something, and was woken.
    pub wakeups: u64,
}

/// The files.
pub(crate) struct Meter {
    status: File,
    /// Hosts may have been built without it.
    memory: Option<File>,
}

impl Meter {
    pub fn new() -> io::Result<Self> {
        let memory = File::open("/proc/self/smaps_rollup").ok();
        Ok(Self { status: File::open("/proc/self/status")?, memory })
    }

    /// What is used now.
    pub fn read(&self) -> Usage {
        let status = text(&self.status);
        let kilobytes = |text: &str, name| number(text, name) << 10;
        let wakeups = waits();
        let resident = kilobytes(&status, "VmRSS:");
        let memory = self.memory.as_ref().map(text).unwrap_or_default();
        let known = |sum: u64| if memory.is_empty() { resident } else { sum };
        Usage {
            resident,
            proportional: known(kilobytes(&memory, "Pss:")),
            private: known(kilobytes(&memory, "Private_Clean:") + kilobytes(&memory, "Private_Dirty:")),
            threads: number(&status, "Threads:"),
            wakeups,
        }
    }
}

/// Waits of all threads, those that have ended too.
fn waits() -> u64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| u64::try_from(usage.voluntary_context_switches()).unwrap_or(0))
}

fn text(file: &File) -> String {
    let (mut bytes, mut length) = (vec![0; 16 << 10], 0);
    while let Ok(count @ 1..) = file.read_at(&mut bytes[length..], length as u64) {
        length += count;
    }
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// The number behind a name at the start of a line.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_to_is_private_and_counted() {
        let meter = Meter::new().unwrap();
        let before = meter.read();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = meter.read();
        for (before, after) in [
            (before.resident, after.resident),
            (before.proportional, after.proportional),
            (before.private, after.private),
        ] {
            assert!(after >= before + (60 << 20), "{before} {after}");
        }
        assert!(after.private <= after.proportional && after.proportional <= after.resident + (1 << 20));
        assert!(after.threads > 0);
        drop(block);
    }

    #[test]
    fn waits_are_counted() {
        let meter = Meter::new().unwrap();
        let before = meter.read().wakeups;
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(meter.read().wakeups >= before + 20);
    }
}
