//! Which virtual hart runs next: shares by weight, caps, affinity; none of a waiting one.
//!
//! Virtual harts are *tasks*; those of one guest form a *group*. A group's *virtual time* is the time that its tasks ran
//! divided by its weight; a ready task of the group with the least goes first. A group that has waited gets no credit
//! for it. A group with a cap doesn't run while it has used its part of the current *window*.

use alloc::vec::Vec;

/// A virtual hart, by its place in the queue.
pub type TaskId = usize;
/// A guest, by its place in the queue.
pub type GroupId = usize;

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Could run.
    Ready,
    /// Runs on this physical hart.
    Running(usize),
    /// Sleeps until it is woken, or until a time in ticks.
    Waiting(Option<u64>),
    /// Its guest is off.
    Off,
}

/// What a guest may have of the processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Beside those of others, 1 or more.
    pub weight: u32,
    /// Percent of one physical hart at most; zero for no limit.
    pub cap: u32,
    /// Physical harts, one bit for each; zero for all.
    pub affinity: u64,
}

/// A task that is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Picked {
    /// Which.
    pub task: TaskId,
    /// Until when, in ticks.
    pub until: u64,
    /// Ticks that it was ready and had to wait.
    pub stolen: u64,
}

/// What to do after a task was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Nothing: it is its turn later.
    Nothing,
    /// Interrupt this hart, which is idle or runs the task.
    Interrupt(usize),
    /// Have this hart run something else.
    Preempt(usize),
}

struct Task {
    group: GroupId,
    state: State,
    /// Since when it is ready.
    since: u64,
    /// When it was picked last.
    picked: u64,
    /// Ticks it has run, and how often it was picked.
    ran: u64,
    switches: u64,
}

struct Group {
    share: Share,
    virtual_time: u64,
    is_paused: bool,
    window: u64,
    /// Ticks used of the window.
    used: u64,
}

/// A physical hart.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Until when it sleeps, in ticks, where it has nothing to run.
    idle: Option<u64>,
    /// Where a group that has waited starts at the earliest: the virtual time of the one that is furthest behind here.
    floor: u64,
}

/// All tasks, and the physical harts that share them.
pub struct Queue {
    tasks: Vec<Task>,
    groups: Vec<Group>,
    places: Vec<Place>,
    slice: u64,
}

/// Virtual time of one tick at weight 1.
const SCALE: u64 = 1 << 16;
/// Ticks of a window: 100 ms.
const WINDOW: u64 = 1_000_000;
/// No slice is shorter: 0.1 ms.
const LEAST_SLICE: u64 = 1000;
/// A woken task takes the hart of one that is this many ticks ahead, at weight 1: 1 ms at weight 100.
const AHEAD: u64 = 100;

impl Group {
    fn allowance(&self) -> u64 {
        WINDOW / 100 * u64::from(self.share.cap)
    }

    /// Starts new windows up to `now`: what was used too much counts on.
    fn look_at_window(&mut self, now: u64) {
        let windows = now.saturating_sub(self.window) / WINDOW;
        if windows > 0 {
            self.window += windows * WINDOW;
            self.used = self.used.saturating_sub(windows.saturating_mul(self.allowance()));
        }
    }

    fn is_throttled(&self) -> bool {
        self.share.cap != 0 && self.used >= self.allowance()
    }

    fn may_run(&self) -> bool {
        !self.is_paused && !self.is_throttled()
    }

    fn allows(&self, hart: usize) -> bool {
        self.share.affinity == 0 || self.share.affinity >> hart & 1 == 1
    }
}

impl Queue {
    /// No task, on so many physical harts; each runs for `slice` ticks at most.
    #[must_use]
    pub fn new(harts: usize, slice: u64) -> Self {
        Self {
            tasks: Vec::new(),
            groups: Vec::new(),
            places: alloc::vec![Place::default(); harts],
            slice: slice.max(LEAST_SLICE),
        }
    }

    /// Adds a group without tasks.
    pub fn add_group(&mut self, share: Share) -> GroupId {
        let share = Share { weight: share.weight.max(1), ..share };
        self.groups.push(Group { share, virtual_time: 0, is_paused: false, window: 0, used: 0 });
        self.groups.len() - 1
    }

    /// Adds a task that is off.
    pub fn add(&mut self, group: GroupId) -> TaskId {
        self.tasks.push(Task { group, state: State::Off, since: 0, picked: 0, ran: 0, switches: 0 });
        self.tasks.len() - 1
    }

    /// Takes the task that `hart` is to run from `now` on. Without one, the hart counts as idle until it asks
    /// again, and has to ask at [`idle_until`](Self::idle_until). Others may have become ready that it can't run: see
    /// [`help`](Self::help).
    pub fn pick(&mut self, hart: usize, now: u64) -> Option<Picked> {
        for id in 0..self.tasks.len() {
            if matches!(self.tasks[id].state, State::Waiting(Some(until)) if until <= now) {
                self.make_ready(id, now);
            }
        }
        self.groups.iter_mut().for_each(|group| group.look_at_window(now));
        self.raise_floor();
        let first = (0..self.tasks.len())
            .filter(|id| self.is_runnable(*id) && self.groups[self.tasks[*id].group].allows(hart))
            // Among tasks of a group, the one that has waited longest.
            .min_by_key(|id| (self.groups[self.tasks[*id].group].virtual_time, self.tasks[*id].since));
        self.places[hart].idle = None;
        let Some(task) = first else {
            self.places[hart].idle = Some(self.next_deadline(hart, now).unwrap_or(u64::MAX));
            return None;
        };
        let Task { group, since, .. } = self.tasks[task];
        let until = self.slice_end(hart, group, now);
        let entry = &mut self.tasks[task];
        (entry.state, entry.picked) = (State::Running(hart), now);
        entry.switches += 1;
        Some(Picked { task, until, stolen: now.saturating_sub(since) })
    }

    /// What an idle hart has to be told: there is a task that it could run.
    pub fn help(&mut self) -> Wake {
        let mut runnable = (0..self.tasks.len()).filter(|id| self.is_runnable(*id));
        runnable
            .find_map(|id| self.idle_hart(self.tasks[id].group))
            .map_or(Wake::Nothing, |hart| self.interrupt_idle(hart))
    }

    /// An idle hart that a group may run on.
    fn idle_hart(&self, group: GroupId) -> Option<usize> {
        let group = &self.groups[group];
        (0..self.places.len()).find(|hart| self.places[*hart].idle.is_some() && group.allows(*hart))
    }

    /// The next one that needs a hart shall have another.
    fn interrupt_idle(&mut self, hart: usize) -> Wake {
        self.places[hart].idle = None;
        Wake::Interrupt(hart)
    }

    /// When a hart for which there was no task has to ask again, in ticks.
    #[must_use]
    pub fn idle_until(&self, hart: usize) -> u64 {
        // Whoever isn't idle any more has been interrupted.
        self.places[hart].idle.unwrap_or(u64::MAX)
    }

    fn is_runnable(&self, id: TaskId) -> bool {
        self.tasks[id].state == State::Ready && self.groups[self.tasks[id].group].may_run()
    }

    /// When a task of `group` that begins now has to stop: with its slice, its cap, or when another's timer goes off
    /// for which no idle hart wakes.
    fn slice_end(&self, hart: usize, group: GroupId, now: u64) -> u64 {
        let group = &self.groups[group];
        let mut slice = self.slice;
        if group.share.cap != 0 {
            slice = slice.min(group.allowance().saturating_sub(group.used));
        }
        let end = now + slice.max(LEAST_SLICE);
        // One that sleeps longer didn't know of it when it went to sleep.
        let is_served = |group: GroupId, deadline: u64| {
            let mut places = self.places.iter().enumerate();
            places.any(|(other, place)| {
                place.idle.is_some_and(|until| until <= deadline) && self.groups[group].allows(other)
            })
        };
        let deadlines = self.deadlines(hart, now).filter(|(group, deadline)| !is_served(*group, *deadline));
        let first = deadlines.map(|(_, deadline)| deadline).min().unwrap_or(u64::MAX);
        end.min(first).max(now + LEAST_SLICE)
    }

    /// Gives a task back that ran until `now`.
    pub fn put(&mut self, id: TaskId, now: u64, state: State) {
        let task = &mut self.tasks[id];
        let ran = now.saturating_sub(task.picked);
        task.ran += ran;
        (task.state, task.since) = (state, now);
        let group = &mut self.groups[task.group];
        group.virtual_time += ran.saturating_mul(SCALE) / u64::from(group.share.weight);
        group.used += if group.share.cap == 0 { 0 } else { ran };
    }

    /// Makes a waiting task ready.
    pub fn wake(&mut self, id: TaskId, now: u64) -> Wake {
        match self.tasks.get(id).map(|task| task.state) {
            Some(State::Waiting(_)) => {
                self.make_ready(id, now);
                self.place_for(id)
            }
            Some(State::Running(hart)) => Wake::Interrupt(hart),
            Some(State::Ready | State::Off) | None => Wake::Nothing,
        }
    }

    /// The hart that a task which is now ready should have: an idle one, or that of the task that is furthest ahead.
    fn place_for(&mut self, id: TaskId) -> Wake {
        let group = self.tasks[id].group;
        if !self.groups[group].may_run() {
            return Wake::Nothing;
        }
        if let Some(hart) = self.idle_hart(group) {
            return self.interrupt_idle(hart);
        }
        let group = &self.groups[group];
        let running = self.tasks.iter().filter_map(|task| match task.state {
            State::Running(hart) if group.allows(hart) => Some((self.groups[task.group].virtual_time, hart)),
            _ => None,
        });
        match running.max() {
            Some((time, hart)) if time > group.virtual_time.saturating_add(AHEAD * SCALE) => {
                Wake::Preempt(hart)
            }
            _ => Wake::Nothing,
        }
    }

    fn make_ready(&mut self, id: TaskId, now: u64) {
        self.raise_floor();
        let group = self.tasks[id].group;
        if !is_active(&self.tasks, group) {
            self.lift(group);
        }
        let task = &mut self.tasks[id];
        (task.state, task.since) = (State::Ready, now);
    }

    /// A hart's floor follows the group that is furthest behind, of those that could run there; who couldn't gets no
    /// credit.
    fn raise_floor(&mut self) {
        for (hart, place) in self.places.iter_mut().enumerate() {
            let active = |id: &GroupId| {
                let group = &self.groups[*id];
                group.may_run() && group.allows(hart) && is_active(&self.tasks, *id)
            };
            let least = (0..self.groups.len()).filter(active).map(|id| self.groups[id].virtual_time).min();
            place.floor = place.floor.max(least.unwrap_or(0));
        }
        for id in 0..self.groups.len() {
            if !self.groups[id].may_run() {
                self.lift(id);
            }
        }
    }

    /// Takes from a group the credit for the time that it waited.
    fn lift(&mut self, group: GroupId) {
        let group = &mut self.groups[group];
        let floors = self
            .places
            .iter()
            .enumerate()
            .filter(|(hart, _)| group.allows(*hart))
            .map(|(_, place)| place.floor);
        group.virtual_time = group.virtual_time.max(floors.max().unwrap_or(0));
    }

    /// When something can change for `hart`: the first timer of a waiting task, the next window of a throttled group.
    #[must_use]
    pub fn next_deadline(&self, hart: usize, now: u64) -> Option<u64> {
        self.deadlines(hart, now).map(|(_, deadline)| deadline).min()
    }

    /// When something can change for `hart`, and through which group.
    fn deadlines(&self, hart: usize, now: u64) -> impl Iterator<Item = (GroupId, u64)> {
        let deadline = move |task: &Task| {
            let group = &self.groups[task.group];
            let deadline = match task.state {
                _ if group.is_paused || !group.allows(hart) => None,
                State::Waiting(until) => until,
                State::Ready if group.is_throttled() => Some(group.window + WINDOW),
                _ => None,
            };
            deadline.filter(|deadline| *deadline > now).map(|deadline| (task.group, deadline))
        };
        self.tasks.iter().filter_map(deadline)
    }

    /// Starts a task whose guest was off. Returns what to do about it.
    pub fn start(&mut self, id: TaskId, now: u64) -> Wake {
        self.make_ready(id, now);
        self.place_for(id)
    }

    /// Keeps a group from running from its next slice on, or lets it go on.
    pub fn pause(&mut self, group: GroupId, is_paused: bool) {
        self.groups[group].is_paused = is_paused;
    }

    /// Whether a group is kept from running.
    #[must_use]
    pub fn is_paused(&self, group: GroupId) -> bool {
        self.groups[group].is_paused
    }

    /// What a task does.
    #[must_use]
    pub fn state(&self, id: TaskId) -> State {
        self.tasks[id].state
    }

    /// Ticks that a task has run, and how often it was picked.
    #[must_use]
    pub fn ran(&self, id: TaskId) -> (u64, u64) {
        (self.tasks[id].ran, self.tasks[id].switches)
    }
}

/// Whether one of a group's tasks runs or could.
fn is_active(tasks: &[Task], group: GroupId) -> bool {
    let is_active = |task: &Task| matches!(task.state, State::Ready | State::Running(_));
    tasks.iter().any(|task| task.group == group && is_active(task))
}

#[cfg(test)]
mod tests;
