use super::*;

const SLICE: u64 = 50_000;

fn share(weight: u32) -> Share {
    Share { weight, cap: 0, affinity: 0 }
}

/// A queue with a group of one ready task for each share.
fn queue(harts: usize, shares: &[Share]) -> Queue {
    let mut queue = Queue::new(harts, SLICE);
    for share in shares {
        let group = queue.add_group(*share);
        let task = queue.add(group);
        queue.start(task, 0);
    }
    queue
}

/// Lets all harts work until `end`: every task runs for as long as it may.
fn work(queue: &mut Queue, harts: usize, end: u64) {
    let mut running: Vec<Option<Picked>> = alloc::vec![None; harts];
    let mut now = 0;
    while now < end {
        for (hart, slot) in running.iter_mut().enumerate() {
            if let Some(picked) = slot.take_if(|picked| picked.until <= now) {
                queue.put(picked.task, now, State::Ready);
            }
            if slot.is_none() {
                *slot = queue.pick(hart, now);
            }
        }
        now += 500;
    }
    running.into_iter().flatten().for_each(|picked| queue.put(picked.task, now, State::Ready));
}

fn shares(queue: &Queue, tasks: core::ops::Range<usize>, end: u64) -> Vec<f64> {
    tasks.map(|id| queue.ran(id).0 as f64 / end as f64).collect()
}

fn assert_near(found: &[f64], expected: &[f64]) {
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= 0.01 * expected;
    assert!(found.iter().zip(expected).all(near), "{found:?}, not {expected:?}");
}

const LONG: u64 = 500 * SLICE;

#[test]
fn busy_tasks_share_by_weight() {
    let mut queue = queue(1, &[share(100), share(200), share(400)]);
    work(&mut queue, 1, LONG);
    assert_near(&shares(&queue, 0..3, LONG), &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]);
}

#[test]
fn harts_of_a_guest_share_its_weight() {
    let mut queue = queue(1, &[share(100), share(100)]);
    let other = queue.add(0);
    queue.start(other, 0);
    work(&mut queue, 1, LONG);
    assert_near(&shares(&queue, 0..3, LONG), &[0.25, 0.5, 0.25]);
}

#[test]
fn two_harts_are_never_idle_while_there_is_work() {
    let mut queue = queue(2, &[share(100), share(100), share(100)]);
    work(&mut queue, 2, LONG);
    assert_near(&shares(&queue, 0..3, LONG), &[2.0 / 3.0; 3]);
}

#[test]
fn capped_guest_stays_at_its_cap_even_alone() {
    let capped = Share { cap: 30, ..share(100) };
    let mut alone = queue(2, &[capped]);
    work(&mut alone, 2, LONG);
    assert_near(&shares(&alone, 0..1, LONG), &[0.3]);
    let mut beside = queue(1, &[capped, share(100)]);
    work(&mut beside, 1, LONG);
    assert_near(&shares(&beside, 0..2, LONG), &[0.3, 0.7]);
}

#[test]
fn guest_runs_only_where_its_affinity_allows() {
    let mut queue = queue(2, &[Share { affinity: 2, ..share(100) }, share(100)]);
    assert_eq!(queue.pick(0, 0).map(|picked| picked.task), Some(1));
    assert_eq!(queue.pick(1, 0).map(|picked| picked.task), Some(0));
    queue.put(0, 10, State::Waiting(Some(20)));
    queue.put(1, 10, State::Waiting(None));
    assert_eq!((queue.next_deadline(0, 10), queue.next_deadline(1, 10)), (None, Some(20)));
    assert_eq!((queue.pick(0, 11), queue.pick(1, 11)), (None, None));
    assert_eq!((queue.idle_until(0), queue.idle_until(1)), (u64::MAX, 20));
    assert_eq!(queue.wake(0, 12), Wake::Interrupt(1));
    assert_eq!(queue.pick(0, 13), None);
}

#[test]
fn task_that_waited_has_no_credit() {
    let mut queue = queue(1, &[share(1), share(1)]);
    queue.put(1, 0, State::Waiting(None));
    let mut now = 0;
    let mut turn = |queue: &mut Queue| {
        let picked = queue.pick(0, now).unwrap();
        now += 10;
        queue.put(picked.task, now, State::Ready);
        picked.task
    };
    for _ in 0..100 {
        assert_eq!(turn(&mut queue), 0);
    }
    queue.wake(1, 1000);
    let turns = (0..100).filter(|_| turn(&mut queue) == 1).count();
    assert!((49..=52).contains(&turns), "{turns}");
}

#[test]
fn woken_task_interrupts_an_idle_hart_once() {
    let mut queue = queue(2, &[share(1), share(1)]);
    for id in [0, 1] {
        queue.put(id, 0, State::Waiting(None));
    }
    assert_eq!((queue.pick(0, 0), queue.pick(1, 0)), (None, None));
    assert_eq!((queue.wake(0, 1), queue.wake(1, 1)), (Wake::Interrupt(0), Wake::Interrupt(1)));
    assert_eq!(queue.wake(0, 1), Wake::Nothing);
}

#[test]
fn woken_task_preempts_one_that_is_ahead() {
    let mut queue = queue(2, &[share(100), share(100), share(100)]);
    queue.put(2, 0, State::Waiting(None));
    let pick = |queue: &mut Queue, hart, now| queue.pick(hart, now).map(|picked| picked.task);
    assert_eq!((pick(&mut queue, 0, 0), pick(&mut queue, 1, 0)), (Some(0), Some(1)));
    // All are even: who wakes has no credit for its sleep.
    assert_eq!(queue.wake(2, 10), Wake::Nothing);
    assert!(queue.tasks[2].state == State::Ready);
    queue.put(0, SLICE, State::Ready);
    assert_eq!(pick(&mut queue, 0, SLICE), Some(2));
    queue.put(2, SLICE + 10, State::Waiting(None));
    // Task 0 has had a slice, the group of task 1 is charged later: it is the one that is ahead.
    assert_eq!(pick(&mut queue, 0, SLICE + 10), Some(0));
    assert_eq!(queue.wake(2, SLICE + 20), Wake::Preempt(0));
}

#[test]
fn running_task_that_is_woken_has_its_hart_interrupted() {
    let mut queue = queue(2, &[share(1)]);
    assert!(queue.pick(1, 0).is_some());
    assert_eq!(queue.wake(0, 0), Wake::Interrupt(1));
    assert_eq!(queue.state(0), State::Running(1));
}

#[test]
fn waiting_task_is_picked_at_its_time() {
    let mut queue = queue(1, &[share(1)]);
    queue.put(0, 0, State::Waiting(Some(100)));
    assert_eq!((queue.pick(0, 99), queue.next_deadline(0, 99)), (None, Some(100)));
    assert_eq!(queue.pick(0, 100).map(|picked| picked.task), Some(0));
}

#[test]
fn slice_ends_when_anothers_timer_goes_off() {
    let mut queue = queue(1, &[share(1), share(1)]);
    queue.put(1, 0, State::Waiting(Some(9000)));
    let picked = queue.pick(0, 0).unwrap();
    assert_eq!((picked.task, picked.until), (0, 9000));
}

#[test]
fn time_ready_and_not_running_is_stolen() {
    let mut queue = queue(1, &[share(1)]);
    queue.put(0, 0, State::Waiting(Some(100)));
    assert_eq!(queue.pick(0, 150).map(|picked| picked.stolen), Some(0));
    queue.put(0, 200, State::Ready);
    assert_eq!(queue.pick(0, 230).map(|picked| picked.stolen), Some(30));
}

#[test]
fn paused_guest_runs_no_more_until_it_goes_on() {
    let mut queue = queue(1, &[share(1)]);
    queue.pause(0, true);
    assert_eq!((queue.pick(0, 0), queue.next_deadline(0, 0)), (None, None));
    queue.pause(0, false);
    assert!(queue.pick(0, 1).is_some());
}

#[test]
fn task_of_an_ended_guest_never_runs() {
    let mut queue = queue(1, &[share(1)]);
    queue.put(0, 0, State::Off);
    assert_eq!((queue.wake(0, 1), queue.pick(0, 1)), (Wake::Nothing, None));
    assert_eq!(queue.start(0, 2), Wake::Interrupt(0));
    assert!(queue.pick(0, 2).is_some());
}

#[test]
fn idle_hart_is_told_of_a_task_that_another_cannot_run_now() {
    let mut queue = queue(2, &[share(1), share(1)]);
    for id in [0, 1] {
        queue.put(id, 0, State::Waiting(Some(100)));
    }
    assert_eq!((queue.pick(1, 10), queue.help()), (None, Wake::Nothing));
    // Both timers go off where one can run.
    assert!(queue.pick(0, 100).is_some());
    assert_eq!((queue.help(), queue.help()), (Wake::Interrupt(1), Wake::Nothing));
}

#[test]
fn idle_hart_is_told_of_a_task_whose_slice_is_over() {
    let mut queue = queue(2, &[share(1)]);
    assert!(queue.pick(0, 0).is_some());
    assert_eq!((queue.pick(1, 0), queue.idle_until(1)), (None, u64::MAX));
    let other = queue.add_group(share(1));
    let other = queue.add(other);
    queue.start(other, 10);
    assert!(queue.pick(1, 10).is_some());
    queue.put(other, 20, State::Waiting(None));
    assert_eq!(queue.pick(1, 20), None);
    queue.put(0, SLICE, State::Ready);
    queue.wake(other, SLICE);
    // The one that was woken was given the idle hart; the first has its own.
    assert_eq!(queue.pick(0, SLICE).map(|picked| picked.task), Some(0));
    assert_eq!(queue.help(), Wake::Nothing);
}

#[test]
fn idle_hart_is_told_of_none_that_it_may_not_run() {
    let mut queue = queue(2, &[Share { affinity: 1, ..share(1) }, Share { affinity: 1, ..share(1) }]);
    assert_eq!(queue.pick(1, 0), None);
    assert!(queue.pick(0, 0).is_some());
    assert_eq!(queue.help(), Wake::Nothing);
}

#[test]
fn slice_is_cut_for_a_timer_that_no_idle_hart_knows() {
    let mut queue = queue(2, &[share(1), share(1)]);
    // The other hart went to sleep before the timer was set.
    queue.put(1, 0, State::Waiting(None));
    assert!(queue.pick(0, 0).is_some());
    assert_eq!(queue.pick(1, 0), None);
    queue.put(0, 10, State::Ready);
    queue.tasks[1].state = State::Waiting(Some(9000));
    assert_eq!(queue.pick(0, 10).map(|picked| picked.until), Some(9000));
    // And when it has looked again, it isn't.
    queue.put(0, 20, State::Ready);
    assert_eq!((queue.pick(1, 20).map(|picked| picked.task), queue.pick(0, 20)), (Some(0), None));
    assert_eq!(queue.idle_until(0), 9000);
    queue.put(0, 30, State::Ready);
    assert_eq!(queue.pick(1, 30).map(|picked| picked.until), Some(30 + SLICE));
}

#[test]
fn who_slept_has_no_credit_where_a_slower_clock_runs_elsewhere() {
    let pinned = |weight, hart: u64| Share { affinity: 1 << hart, ..share(weight) };
    // The first group's virtual time passes slowly, on a hart of its own.
    let mut queue = queue(2, &[pinned(1000, 1), pinned(100, 0), pinned(100, 0)]);
    queue.put(2, 0, State::Waiting(None));
    work(&mut queue, 2, LONG);
    queue.wake(2, LONG);
    let turns = (0..100).filter(|turn| {
        let picked = queue.pick(0, LONG + turn * 10).unwrap();
        queue.put(picked.task, LONG + turn * 10 + 10, State::Ready);
        picked.task == 2
    });
    let turns = turns.count();
    assert!((49..=52).contains(&turns), "{turns}");
}
