//! Commands for several things: each is done, whatever becomes of the others.

use std::fmt::Display;
use std::process::ExitCode;
use std::thread;

use crate::{FAILURE, in_one_line};

/// Does something with each of `things`, in their order. What it can't be done with is told at once, in a line of its own.
/// Returns whether it could be done with all.
pub fn each<T>(things: impl IntoIterator<Item = T>, mut what: impl FnMut(T) -> anyhow::Result<()>) -> bool {
    let mut is_done = true;
    for thing in things {
        if let Err(error) = what(thing) {
            complain(&error);
            is_done = false;
        }
    }
    is_done
}

/// The same with all at once, for what takes its time; `done` is called in their order with those that it could be done with.
pub fn all_at_once<T: Copy + Send>(
    things: &[T],
    what: impl Fn(T) -> anyhow::Result<()> + Sync,
    mut done: impl FnMut(T),
) -> bool {
    let what = &what;
    thread::scope(|scope| {
        let threads: Vec<_> = things.iter().map(|&thing| (thing, scope.spawn(move || what(thing)))).collect();
        each(threads, |(thing, thread)| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            done(thing);
            Ok(())
        })
    })
}

/// What the program exits with once each was tried.
pub fn code(is_done: bool) -> ExitCode {
    if is_done { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
}

/// Says why something can't be done.
pub fn complain(error: &anyhow::Error) {
    eprintln!("rvisor: error: {}", in_one_line(error));
}

/// Says what may be as the user wants it, or not.
pub fn warn(text: impl Display) {
    eprintln!("rvisor: warning: {text}");
}
