//! Signals at the watermarks: whatever was in transit, the one that is left is true.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use crate::admission::Admission;
use crate::backpressure::BackpressureController;
use crate::backpressure::BackpressureSignal::{Pause, Resume, SlowDown};
use crate::caps::Places;
use crate::handle::Batch;
use crate::harness::{
    admission, buffer, controller, dead_letter, explore, explore_both, explore_within, item, items,
    take,
};

/// What admits, and a stage with places for all that a model pushes: they are not given back.
struct Door {
    admission: Arc<Admission>,
    places: Places,
}

fn door(capacity: u32, idle_budget: u32, controller: BackpressureController) -> Arc<Door> {
    let admission = Admission::new(capacity, idle_budget, controller, None);
    let places = admission.make_places(1000, 1000);
    Arc::new(Door { admission, places })
}

impl Door {
    /// Opens an account, as the registry does.
    fn open(&self, capacity: u32) -> u32 {
        let index = self.admission.open_account(&Arc::from("a"), capacity, 0);
        self.admission.follow_pool();
        index
    }

    /// Takes what the caps allow, in the ways that a push tries one after the other.
    fn push(&self, account: u32, wanted: u32) -> u32 {
        let Self { admission, places } = self;
        let first = admission.try_acquire_fast(account, places, wanted);
        if first.or_else(|| admission.try_acquire_exact(account, places, wanted)).is_some() {
            return wanted;
        }
        admission.try_acquire(account, places, wanted).records
    }

    fn settle(&self, account: u32, credits: u32) {
        if credits > 0 {
            self.admission.release_credits(account, credits, None);
        }
    }

    fn push_and_settle(&self, account: u32) {
        let credits = self.push(account, 1);
        self.settle(account, credits);
    }

    fn signals(&self, account: u32) -> [crate::backpressure::BackpressureSignal; 2] {
        [self.admission.controller().current(), self.admission.account(account).cell().signal()]
    }
}

#[test]
fn a_cap_that_is_lowered_while_the_level_rises_leaves_true_signals() {
    for of_account in [true, false] {
        explore_within(2, move || {
            let door = door(8, 0, controller());
            let account = door.open(8);
            let other = thread::spawn({
                let door = Arc::clone(&door);
                move || door.push(account, 2)
            });
            let seen = if of_account {
                door.admission.set_account_capacity(account, 2);
                1
            } else {
                door.admission.set_capacity(2, 0);
                0
            };
            assert_eq!(other.join().unwrap(), 2);
            assert_eq!(door.signals(account)[seen], Pause);
        });
    }
}

#[test]
fn a_watermark_that_two_threads_cross_leaves_a_true_signal() {
    explore_within(3, || {
        let door = door(2, 0, controller());
        let accounts = [door.open(2), door.open(2)];
        let other = thread::spawn({
            let door = Arc::clone(&door);
            move || door.push_and_settle(accounts[1])
        });
        door.push_and_settle(accounts[0]);
        let kept = door.push(accounts[0], 1);
        other.join().unwrap();
        assert_eq!(kept, 1);
        // One of two is below the low watermark, though both may have been held at once before.
        assert_eq!(door.signals(accounts[0])[0], Resume);
        door.settle(accounts[0], 1);
        for account in accounts {
            assert_eq!(door.signals(account), [Resume; 2]);
        }
    });
}

#[test]
fn a_watermark_that_two_threads_of_one_source_cross_leaves_a_true_signal() {
    explore(|| {
        let door = door(8, 0, controller());
        let account = door.open(2);
        let other = thread::spawn({
            let door = Arc::clone(&door);
            move || door.push_and_settle(account)
        });
        let kept = door.push(account, 1);
        other.join().unwrap();
        assert_eq!(kept, 1);
        // One of two is below the low watermark, though both may have been held at once before.
        assert_eq!(door.signals(account), [Resume; 2]);
        door.settle(account, 1);
        assert_eq!(door.signals(account), [Resume; 2]);
    });
}

#[test]
fn a_full_pool_that_three_threads_leave_and_fill_again_reports_full_at_the_end() {
    explore_within(2, || {
        let door = door(3, 0, controller());
        let account = door.open(3);
        assert_eq!(door.push(account, 3), 3);
        let settle_and_push = move |door: &Door| {
            door.settle(account, 1);
            assert_eq!(door.push(account, 1), 1, "its own credit is free again");
        };
        let others = [(); 2].map(|()| {
            let door = Arc::clone(&door);
            thread::spawn(move || settle_and_push(&door))
        });
        settle_and_push(&door);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(door.signals(account), [Pause; 2]);
        door.settle(account, 3);
        assert_eq!(door.signals(account), [Resume; 2]);
    });
}

#[test]
fn a_source_that_is_closed_while_it_takes_leaves_a_true_signal() {
    explore(|| {
        let door = door(2, 0, controller());
        let (closing, open) = (door.open(2), door.open(2));
        let other = thread::spawn({
            let door = Arc::clone(&door);
            move || door.push_and_settle(closing)
        });
        assert_eq!(door.push(open, 1), 1);
        door.admission.close_account(closing);
        other.join().unwrap();
        // Only one of two is left, whatever was in transit when the signal last followed.
        assert_eq!(door.signals(open)[0], Resume);
        door.settle(open, 1);
    });
}

#[test]
fn a_push_that_gives_idle_credits_back_leaves_a_true_signal() {
    explore(|| {
        let controller = BackpressureController::with_watermarks(0.8, 0.7).unwrap();
        let door = door(10, 8, controller);
        let account = door.open(10);
        // One in use and eight idle, the most that an account may keep alone: above the high mark.
        assert_eq!(door.push(account, 5), 5);
        (0..4).for_each(|_| door.settle(account, 1));
        assert_eq!(door.signals(account), [SlowDown, Resume]);
        let other = thread::spawn({
            let door = Arc::clone(&door);
            move || assert_eq!(door.push(account, 1), 1)
        });
        door.open(10);
        other.join().unwrap();
        // With two accounts each may keep half as many, and whichever comes first gives the others back.
        assert!(door.admission.ledger().leased() < 7);
        assert_eq!(door.signals(account), [Resume; 2]);
    });
}

#[test]
fn a_letter_that_is_parked_leaves_a_true_signal() {
    explore_both(|buffer| {
        let manager = buffer(2, 4, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        // There is room for one letter.
        for id in [0, 1] {
            a.try_send(&stage, item("a", id)).unwrap();
            let batch = take(&stage, 1).unwrap();
            if id == 0 {
                dead_letter(batch);
                continue;
            }
            let parker = thread::spawn(move || dead_letter(batch));
            if b.try_send(&stage, item("b", 2)).is_ok() {
                take(&stage, 1).unwrap().ack();
            }
            parker.join().unwrap();
        }
        // One of two is held, and perhaps one lies idle. Exactly leased, it is below the low watermark.
        let level = admission(&a).ledger().leased();
        let expected = if level == 2 { Pause } else { Resume };
        assert_eq!(manager.controller().current(), expected, "at {level} of 2");
    });
}

#[test]
fn a_receiver_of_signals_ends_up_on_the_latest() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let mut signals = source.signals();
        let other = thread::spawn({
            let source = source.clone();
            move || source.try_send_batch(&stage, items("a", 0..2)).unwrap()
        });
        while block_on(signals.changed()) != Pause {}
        other.join().unwrap();
        assert_eq!(signals.current(), source.signal());
    });
}

#[test]
fn a_stage_that_two_threads_fill_and_empty_has_a_true_signal() {
    explore_within(3, || {
        let manager = buffer(8, 2, 8);
        let stage = manager.stage("stage").unwrap();
        let sources = ["a", "b"].map(|id| manager.source(id).unwrap());
        let [a, b] = sources;
        let other = thread::spawn({
            let stage = stage.clone();
            move || b.try_send(&stage, item("b", 0)).map(|()| take(&stage, 1).map(Batch::ack))
        });
        a.try_send(&stage, item("a", 1)).unwrap();
        let _ = other.join().unwrap();
        // One or two of two are held, though both may have been held at once before.
        let held = stage.len();
        let expected = if held == 2 { Pause } else { Resume };
        assert_eq!((stage.signal(), a.signal()), (expected, expected), "{held} of 2");
        while let Some(batch) = take(&stage, 1) {
            batch.ack();
        }
        assert_eq!(stage.signal(), Resume);
    });
}

#[test]
fn a_receiver_of_a_source_hears_of_the_stage_that_it_turns_to() {
    explore_within(3, || {
        let manager = buffer(8, 2, 8);
        let (first, next) = (manager.stage("first").unwrap(), manager.stage("next").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send(&first, item("a", 0)).unwrap();
        let mut signals = source.signals();
        let other = thread::spawn({
            let source = source.clone();
            // The first push turns to the stage, and the second one fills it.
            move || [1, 2].map(|id| source.try_send(&next, item("a", id)).unwrap())
        });
        assert_eq!(block_on(signals.wait_for(|signal| signal == Pause)), Pause);
        other.join().unwrap();
        assert_eq!(source.signal(), Pause);
    });
}
