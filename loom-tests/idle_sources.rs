//! Sources that hold nothing, and whose places new names take.

use loom::future::block_on;
use loom::thread;

use crate::handle::Stage;
use crate::harness::{Item, drain, evicting, explore, explore_within, item};
use crate::manager::BufferManager;

/// Pushes by name, and returns whether the record was accepted. It is refused for want of a place
/// only, never by a source that gave its place.
fn push(manager: &BufferManager<Item>, of: &'static str, id: u32) -> bool {
    match block_on(manager.buffer_for_stage("stage", item(of, id))) {
        Ok(()) => true,
        Err(rejected) => {
            let text = rejected.reason.to_string();
            assert!(text.starts_with("too many sources"), "{text}");
            false
        }
    }
}

/// Settles what there is at the moment, and returns how many records that is.
fn settle(stage: &Stage<Item>) -> usize {
    stage.try_recv_batch(8).map_or(0, |batch| {
        let taken = batch.len();
        batch.ack();
        taken
    })
}

#[test]
fn of_two_names_for_one_place_one_or_both_in_turn_have_it_and_no_record_is_lost() {
    explore_within(3, || {
        let manager = evicting(1);
        let stage = manager.stage("stage").unwrap();
        let other = thread::spawn({
            let (manager, stage) = (manager.clone(), stage.clone());
            move || {
                let pushed = push(&manager, "other", 0);
                (pushed, settle(&stage))
            }
        });
        let pushed = push(&manager, "mine", 1);
        let settled = settle(&stage);
        let (others, settled_by_other) = other.join().unwrap();
        assert!(pushed || others, "both refused");
        let held = drain(&stage).len();
        assert_eq!(settled + settled_by_other + held, usize::from(pushed) + usize::from(others));
        assert!(push(&manager, "third", 2), "nothing is held");
        drain(&stage);
    });
}

#[test]
fn a_source_whose_handle_somebody_gets_keeps_its_place() {
    explore(|| {
        let manager = evicting(1);
        let stage = manager.stage("stage").unwrap();
        drop(manager.source("mine").unwrap());
        let other = thread::spawn({
            let manager = manager.clone();
            move || push(&manager, "other", 0)
        });
        // The name may be new again. Its handle is to the source that has the name now.
        let mine = manager.source("mine");
        let sent = mine.as_ref().is_ok_and(|mine| mine.try_send(&stage, item("mine", 1)).is_ok());
        assert_eq!(sent, mine.is_ok(), "a handle to a source that gave its place");
        let others = other.join().unwrap();
        assert!(others != mine.is_ok(), "one place for two");
        drain(&stage);
        drop(mine);
        assert!(push(&manager, "third", 2));
        drain(&stage);
    });
}
