//! A recording that is sent to a client while it is made.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rvisor_hosted::machine::Machine;
use rvisor_hosted::trace::{Batch, JsonWriter, Kinds, Story, StoryTeller, Tracer};

use crate::link::FramedLink;
use crate::protocol::{Frame, TraceRequest};

/// How often the clock and the client are looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(50);
/// What is sent at once, at least.
const PIECE: usize = 64 << 10;
/// For how long a story of a program is preferred to one of the kernel.
const PREFERENCE: Duration = Duration::from_secs(1);
/// For how long a story is waited for, unless the client says.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the outcome when there was nothing to tell.
const NOTHING: u8 = 1;

/// A recording at work.
pub(crate) struct Recording {
    tracer: Tracer,
    machine: String,
    harts: usize,
    teller: Option<StoryTeller>,
    until: Option<Instant>,
}

impl Recording {
    /// Begins to record.
    pub fn start(machine: &Machine, name: &str, request: &TraceRequest) -> Result<Self, String> {
        let kinds = request.only.as_deref().map_or(Ok(Kinds::ALL), str::parse)?;
        let story = request.story.as_deref().map(str::parse::<Story>).transpose()?;
        let limit = request.seconds.map(Duration::try_from_secs_f64).transpose();
        let limit = limit.map_err(|error| format!("that isn't a time to trace for: {error}"))?;
        let limit = limit.or(story.map(|_| PATIENCE));
        let tracer = machine.trace(kinds).map_err(|error| error.to_string())?;
        Ok(Self {
            tracer,
            machine: name.to_owned(),
            harts: machine.vm().harts().len(),
            teller: story.map(|story| StoryTeller::new(story, machine.vm(), machine.engine())),
            until: limit.and_then(|limit| Instant::now().checked_add(limit)),
        })
    }

    /// Sends what is recorded until the time is over, the client says so, or the machine ends.
    pub fn serve(mut self, stream: UnixStream) -> io::Result<()> {
        let over = Arc::new(AtomicBool::new(false));
        let (mut input, seen) = (stream.try_clone()?, Arc::clone(&over));
        thread::Builder::new().name("trace-input".into()).spawn(move || {
            while matches!(Frame::read_from(&mut input), Ok(Some(frame)) if frame != Frame::InputEnd) {}
            seen.store(true, Ordering::SeqCst);
        })?;
        let mut output = stream.try_clone()?;
        let end = match self.teller.take() {
            Some(teller) => self.tell(teller, &over),
            None => self.record(stream.try_clone()?, &over)?,
        };
        end.write_to(&mut output)?;
        stream.shutdown(std::net::Shutdown::Both)
    }

    /// The next batch; `None` at the end.
    fn next(&self, over: &AtomicBool) -> Option<Option<Batch>> {
        let is_late = self.until.is_some_and(|until| Instant::now() >= until);
        if is_late || over.load(Ordering::SeqCst) {
            return None;
        }
        self.tracer.next(LOOK).ok()
    }

    fn record(&self, stream: UnixStream, over: &AtomicBool) -> io::Result<Frame> {
        let output = io::BufWriter::with_capacity(PIECE, FramedLink(stream));
        let mut writer = JsonWriter::new(output, &self.machine, self.harts)?;
        while let Some(batch) = self.next(over) {
            match batch {
                Some(batch) => writer.write(&batch)?,
                None => writer.output().flush()?,
            }
        }
        // What the harts have kept comes as soon as they hear that it is over.
        self.tracer.stop();
        let deadline = Instant::now() + 4 * LOOK;
        while let Ok(Some(batch)) = self.tracer.next(deadline.saturating_duration_since(Instant::now())) {
            writer.write(&batch)?;
        }
        let lost = self.tracer.lost();
        writer.finish(lost)?.flush()?;
        if lost > 0 {
            let told =
                format!("rvisor: {lost} events were lost: more came than could be written; try --only\n");
            return Ok(Frame::Stderr(told.into_bytes()));
        }
        Ok(Frame::Exit(0))
    }

    fn tell(&self, mut teller: StoryTeller, over: &AtomicBool) -> Frame {
        let start = Instant::now();
        while let Some(batch) = self.next(over) {
            let any = start.elapsed() > PREFERENCE;
            if let Some(story) = batch.and_then(|batch| teller.hear(&batch, any)) {
                return Frame::Stdout(story.into_bytes());
            }
        }
        let reason = "nothing of the kind happened in the machine; have it do something meanwhile";
        Frame::Failed(NOTHING, reason.into())
    }
}
