//! How long a hart's thread could have run while the host ran others: Linux's scheduler counts it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The host is asked this often at most.
const PERIOD: Duration = Duration::from_millis(10);

/// The calling thread's account.
pub struct StolenTime {
    /// Not there where the host doesn't count, or doesn't tell.
    file: Option<File>,
    last: u64,
    next_look: Instant,
}

impl StolenTime {
    /// Opens the account of the thread that calls.
    pub fn of_this_thread() -> Self {
        let file = File::open("/proc/thread-self/schedstat").ok();
        let mut account = Self { file, last: 0, next_look: Instant::now() };
        account.last = account.read().unwrap_or(0);
        account
    }

    /// Nanoseconds stolen since the last time; zero if that was a moment ago.
    pub fn take(&mut self) -> u64 {
        let now = Instant::now();
        if self.file.is_none() || now < self.next_look {
            return 0;
        }
        self.next_look = now + PERIOD;
        let Some(total) = self.read() else { return 0 };
        let stolen = total.saturating_sub(self.last);
        self.last = total;
        stolen
    }

    fn read(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.file.as_ref()?.read_at(&mut text, 0).ok()?;
        wait(&text[..length])
    }
}

/// The second of three numbers: nanoseconds on the processor, waiting for it, and slices.
fn wait(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_waited_is_the_second_number() {
        assert_eq!(wait(b"123 456 7\n"), Some(456));
        assert_eq!((wait(b"123"), wait(b"1 x 2"), wait(&[0xff])), (None, None, None));
    }

    #[test]
    fn account_never_goes_back() {
        let mut account = StolenTime::of_this_thread();
        account.next_look = Instant::now();
        let first = account.take();
        assert!(first < Duration::from_secs(60).as_nanos() as u64);
        assert_eq!(account.take(), 0);
    }
}
