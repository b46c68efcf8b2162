//! Which virtual hart runs next: shares by weight, none of a waiting one.
//!
//! Each task's *virtual time* is the time it ran divided by its weight; the ready task with the least goes first. A
//! task that has waited gets no credit for it.

use alloc::vec::Vec;

/// A virtual hart, by its place in the queue.
pub type TaskId = usize;

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Could run.
    Ready,
    /// Runs on this physical hart.
    Running(usize),
    /// Sleeps until it is woken, or until a time in ticks.
    Waiting(Option<u64>),
    /// Its guest has ended.
    Off,
}

struct Task {
    state: State,
    weight: u64,
    virtual_time: u64,
    /// Ticks it has run.
    ran: u64,
}

/// All tasks, and which physical harts have none.
pub struct Queue {
    tasks: Vec<Task>,
    idle: Vec<bool>,
    /// The virtual time of the task that ran last: where a waking one starts at the earliest.
    floor: u64,
}

/// Virtual time of one tick at weight 1.
const SCALE: u64 = 1 << 16;

impl Queue {
    /// No task, on so many physical harts.
    #[must_use]
    pub fn new(harts: usize) -> Self {
        Self { tasks: Vec::new(), idle: alloc::vec![false; harts], floor: 0 }
    }

    /// Adds a task that is ready. `weight` is 1 or more.
    pub fn add(&mut self, weight: u32) -> TaskId {
        let weight = u64::from(weight).max(1);
        self.tasks.push(Task { state: State::Ready, weight, virtual_time: self.floor, ran: 0 });
        self.tasks.len() - 1
    }

    /// Takes the task that `hart` is to run from `now` on. Without one, the hart counts as idle until it asks
    /// again.
    pub fn pick(&mut self, hart: usize, now: u64) -> Option<TaskId> {
        for id in 0..self.tasks.len() {
            if matches!(self.tasks[id].state, State::Waiting(Some(until)) if until <= now) {
                self.make_ready(id);
            }
        }
        let ready = self.tasks.iter().enumerate().filter(|(_, task)| task.state == State::Ready);
        let first = ready.min_by_key(|(_, task)| task.virtual_time).map(|(id, _)| id);
        self.idle[hart] = first.is_none();
        if let Some(id) = first {
            self.tasks[id].state = State::Running(hart);
            self.floor = self.floor.max(self.tasks[id].virtual_time);
        }
        first
    }

    /// Gives a task back that ran for `ran` ticks.
    pub fn put(&mut self, id: TaskId, ran: u64, state: State) {
        let task = &mut self.tasks[id];
        task.state = state;
        task.ran += ran;
        task.virtual_time += ran.saturating_mul(SCALE) / task.weight;
    }

    /// Makes a waiting task ready. Returns the physical hart to interrupt: an idle one that can take it, or the
    /// one that runs it and has to look at what it was told.
    pub fn wake(&mut self, id: TaskId) -> Option<usize> {
        match self.tasks.get(id)?.state {
            State::Waiting(_) => {
                self.make_ready(id);
                let hart = self.idle.iter().position(|idle| *idle)?;
                // The next one woken shall have another.
                self.idle[hart] = false;
                Some(hart)
            }
            State::Running(hart) => Some(hart),
            State::Ready | State::Off => None,
        }
    }

    fn make_ready(&mut self, id: TaskId) {
        let task = &mut self.tasks[id];
        task.state = State::Ready;
        task.virtual_time = task.virtual_time.max(self.floor);
    }

    /// When the first waiting task has to go on.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let until = |task: &Task| if let State::Waiting(until) = task.state { until } else { None };
        self.tasks.iter().filter_map(until).min()
    }

    /// Starts a task again whose guest had ended.
    pub fn restart(&mut self, id: TaskId) {
        self.make_ready(id);
    }

    /// What a task does.
    #[must_use]
    pub fn state(&self, id: TaskId) -> State {
        self.tasks[id].state
    }

    /// Ticks that a task has run.
    #[must_use]
    pub fn ran(&self, id: TaskId) -> u64 {
        self.tasks[id].ran
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_tasks_share_by_weight() {
        let mut queue = Queue::new(1);
        let tasks = [1, 2, 4].map(|weight| queue.add(weight));
        for now in 0..7000 {
            let id = queue.pick(0, now).unwrap();
            queue.put(id, 10, State::Ready);
        }
        let ran = tasks.map(|id| queue.ran(id));
        for (share, expected) in ran.into_iter().zip([10_000u64, 20_000, 40_000]) {
            assert!(share.abs_diff(expected) < expected / 100, "{ran:?}");
        }
    }

    #[test]
    fn task_that_waited_has_no_credit() {
        let mut queue = Queue::new(1);
        let (busy, sleeper) = (queue.add(1), queue.add(1));
        queue.put(sleeper, 0, State::Waiting(None));
        for now in 0..100 {
            assert_eq!(queue.pick(0, now), Some(busy));
            queue.put(busy, 10, State::Ready);
        }
        assert_eq!(queue.wake(sleeper), None);
        let mut turns = 0;
        for now in 100..200 {
            let id = queue.pick(0, now).unwrap();
            turns += usize::from(id == sleeper);
            queue.put(id, 10, State::Ready);
        }
        assert!((49..=52).contains(&turns), "{turns}");
    }

    #[test]
    fn woken_task_interrupts_an_idle_hart_once() {
        let mut queue = Queue::new(2);
        let (one, two) = (queue.add(1), queue.add(1));
        for id in [one, two] {
            queue.put(id, 0, State::Waiting(None));
        }
        assert_eq!((queue.pick(0, 0), queue.pick(1, 0)), (None, None));
        assert_eq!((queue.wake(one), queue.wake(two)), (Some(0), Some(1)));
        assert_eq!(queue.wake(one), None);
    }

    #[test]
    fn running_task_that_is_woken_has_its_hart_interrupted() {
        let mut queue = Queue::new(2);
        let id = queue.add(1);
        assert_eq!(queue.pick(1, 0), Some(id));
        assert_eq!(queue.wake(id), Some(1));
        assert_eq!(queue.state(id), State::Running(1));
    }

    #[test]
    fn waiting_task_is_picked_at_its_time() {
        let mut queue = Queue::new(1);
        let id = queue.add(1);
        queue.put(id, 0, State::Waiting(Some(100)));
        assert_eq!((queue.pick(0, 99), queue.next_deadline()), (None, Some(100)));
        assert_eq!(queue.pick(0, 100), Some(id));
    }

    #[test]
    fn task_of_an_ended_guest_never_runs() {
        let mut queue = Queue::new(1);
        let id = queue.add(1);
        queue.put(id, 0, State::Off);
        assert_eq!((queue.wake(id), queue.pick(0, 1)), (None, None));
        queue.restart(id);
        assert_eq!(queue.pick(0, 1), Some(id));
    }
}
