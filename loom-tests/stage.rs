//! Buffering, batching, returning and forwarding: what happens between sources, stages and workers.

use std::sync::Arc;

use loom::thread;
use pollster::block_on;

use crate::error::{RejectReason, TryRecvError};
use crate::handle::{Outcome, Source, Stage};
use crate::harness::{
    Item, buffer, dead_letter, drain, explore, explore_both, explore_within, ids, item, items,
    nothing_is_left, take,
};

#[test]
fn of_two_pushes_at_the_last_place_of_a_stage_one_is_accepted() {
    explore_both(|buffer| {
        // Room for what both may lease, one ahead included: only the stage is full.
        let manager = buffer(3, 1, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || b.try_send(&stage, item("b", 1))
        });
        let mine = a.try_send(&stage, item("a", 0));
        let theirs = other.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok(), "one of two, and not both");
        let refused = mine.and(theirs).unwrap_err();
        assert!(matches!(refused.reason, RejectReason::StageFull { .. }), "{refused}");
        assert_eq!(drain(&stage).len(), 1);
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn of_two_pushes_at_the_last_credit_of_a_source_one_is_accepted() {
    explore_both(|buffer| {
        let manager = buffer(2, 2, 1);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let other = thread::spawn({
            let (stage, source) = (stage.clone(), source.clone());
            move || source.try_send(&stage, item("a", 1))
        });
        let mine = source.try_send(&stage, item("a", 0));
        let theirs = other.join().unwrap();
        assert_ne!(mine.is_ok(), theirs.is_ok(), "one of two, and not both");
        assert_eq!(drain(&stage).len(), 1);
        nothing_is_left(&manager, 1);
    });
}

#[test]
fn two_pushes_at_the_last_credit_of_the_pool_never_pass_it() {
    explore_both(|buffer| {
        let manager = buffer(1, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || b.try_send(&stage, item("b", 1)).is_ok()
        });
        let mine = a.try_send(&stage, item("a", 0)).is_ok();
        let theirs = other.join().unwrap();
        assert!(!(mine && theirs), "two records under a cap of one");
        assert_eq!(drain(&stage).len(), usize::from(mine) + usize::from(theirs));
        nothing_is_left(&manager, 1);
    });
}

#[test]
fn a_batch_that_fits_in_part_leaves_its_rest_with_the_caller() {
    explore_both(|buffer| {
        let manager = buffer(3, 2, 3);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || b.try_send(&stage, item("b", 9)).is_ok()
        });
        let (accepted, refused) = match a.try_send_batch(&stage, items("a", 0..3)) {
            Ok(()) => (3, Vec::new()),
            Err(rejected) => (rejected.accepted, rejected.into_records()),
        };
        let theirs = other.join().unwrap();
        assert_eq!(ids(&refused), (accepted as u32..3).collect::<Vec<_>>());
        assert!(accepted + usize::from(theirs) <= 2, "past the stage's cap");
        let mine: Vec<_> = drain(&stage).into_iter().filter(|id| *id != 9).collect();
        assert_eq!(mine, (0..accepted as u32).collect::<Vec<_>>());
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn two_workers_share_a_block_that_is_cut_and_each_record_comes_once() {
    explore(|| {
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send_batch(&stage, items("a", 0..3)).unwrap();
        let work = |stage: &Stage<_>| {
            let batch = take(stage, 2);
            let seen = batch.as_ref().map(ids).unwrap_or_default();
            assert!(seen.is_sorted());
            if let Some(batch) = batch {
                batch.ack();
            }
            seen
        };
        let other = thread::spawn({
            let stage = stage.clone();
            move || work(&stage)
        });
        let mut seen = work(&stage);
        seen.extend(other.join().unwrap());
        seen.extend(drain(&stage));
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_lone_worker_sees_first_in_first_out_while_a_source_pushes() {
    explore(|| {
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                source.try_send_batch(&stage, items("a", 0..2)).unwrap();
                source.try_send(&stage, item("a", 2)).unwrap();
            }
        });
        let mut seen = Vec::new();
        for _ in 0..2 {
            if let Some(batch) = take(&stage, 1) {
                seen.extend(ids(&batch));
                batch.ack();
            }
        }
        other.join().unwrap();
        seen.extend(drain(&stage));
        assert_eq!(seen, [0, 1, 2]);
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_return_lands_at_a_full_stage_while_others_push() {
    explore(|| {
        let manager = buffer(3, 2, 3);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let batch = take(&stage, 2).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || b.try_send(&stage, item("b", 9)).is_ok()
        });
        batch.return_to_buffer();
        assert!(!other.join().unwrap(), "the returned records hold both places");
        let batch = take(&stage, 2).unwrap();
        assert_eq!(
            batch.iter().map(|item| (item.id, item.retries)).collect::<Vec<_>>(),
            [(0, 1), (1, 1)]
        );
        batch.ack();
        assert!(drain(&stage).is_empty());
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_dropped_batch_keeps_its_places_from_pushes_that_fill_the_stage() {
    explore(|| {
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let batch = take(&stage, 2).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                let pushed = b.try_send_batch(&stage, items("b", 8..10));
                assert!(stage.len() <= 3, "past the stage's cap");
                pushed.map_or_else(|rejected| rejected.accepted, |()| 2)
            }
        });
        drop(batch);
        assert_eq!(other.join().unwrap(), 1, "one place was free all the time");
        assert_eq!(drain(&stage), [0, 1, 8], "returned records come first");
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn batches_that_are_returned_at_once_come_again_oldest_first() {
    explore_within(3, || {
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        items("a", 0..3).into_iter().for_each(|item| source.try_send(&stage, item).unwrap());
        let (first, second) = (take(&stage, 1).unwrap(), take(&stage, 1).unwrap());
        let other = thread::spawn(move || second.return_to_buffer());
        let worker = thread::spawn({
            let stage = stage.clone();
            // Whatever it finds, the record goes back to its place.
            move || take(&stage, 1).map(|batch| batch.return_to_buffer())
        });
        first.return_to_buffer();
        other.join().unwrap();
        worker.join().unwrap();
        assert_eq!(drain(&stage), [0, 1, 2]);
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn returned_records_keep_their_sources_order_though_others_overtook_them() {
    explore(|| {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|id| manager.source(id).unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || a.try_send_batch(&stage, items("a", 0..2)).unwrap()
        });
        // These may be admitted after the two, and be in the ring before them.
        b.try_send(&stage, item("b", 8)).unwrap();
        c.try_send(&stage, item("c", 9)).unwrap();
        other.join().unwrap();
        let mut batch = take(&stage, 4).unwrap();
        let last = batch.split_off(3);
        batch.return_to_buffer();
        last.return_to_buffer();
        let mine: Vec<_> = drain(&stage).into_iter().filter(|id| *id < 8).collect();
        assert_eq!(mine, [0, 1]);
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_batch_that_is_settled_in_part_gives_back_what_it_settled() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let batch = take(&stage, 2).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || b.try_send(&stage, item("b", 9)).is_ok()
        });
        batch.settle(|item| match item.id {
            0 => Outcome::Ack,
            _ => Outcome::Return,
        });
        let pushed = other.join().unwrap();
        let expected: &[u32] = if pushed { &[1, 9] } else { &[1] };
        assert_eq!(drain(&stage), expected);
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn two_stages_that_are_full_forward_to_each_other_without_loss() {
    explore(|| {
        let manager = buffer(3, 1, 3);
        let (left, right) = (manager.stage("left").unwrap(), manager.stage("right").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send(&left, item("a", 0)).unwrap();
        source.try_send(&right, item("a", 1)).unwrap();
        let (from_left, from_right) = (take(&left, 1).unwrap(), take(&right, 1).unwrap());
        let other = thread::spawn({
            let left = left.clone();
            move || match from_right.try_forward(&left) {
                Ok(()) => panic!("the other stage is full until its batch is settled"),
                Err(error) => error.into_inner().ack(),
            }
        });
        let forwarded = from_left.try_forward(&right).is_ok();
        other.join().unwrap();
        // Where it found no place, the batch was dropped, and so returned.
        let (in_left, in_right) = (drain(&left), drain(&right));
        assert_eq!(if forwarded { in_right } else { in_left }, [0]);
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_forward_takes_every_place_it_needs_or_none_while_somebody_pushes() {
    explore(|| {
        let manager = buffer(3, 2, 3);
        let (left, right) = (manager.stage("left").unwrap(), manager.stage("right").unwrap());
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send_batch(&left, items("a", 0..2)).unwrap();
        let batch = take(&left, 2).unwrap();
        let other = thread::spawn({
            let right = right.clone();
            move || b.try_send(&right, item("b", 9)).is_ok()
        });
        // What does not fit comes back whole, and is returned here.
        let forwarded = batch.try_forward(&right).map_err(|error| assert_eq!(error.batch.len(), 2));
        let pushed = other.join().unwrap();
        assert_ne!(forwarded.is_ok(), pushed, "two places: for the batch or for the other");
        let (in_left, in_right) = (drain(&left), drain(&right));
        if pushed {
            assert_eq!((&in_left[..], &in_right[..]), (&[0, 1][..], &[9][..]));
        } else {
            assert_eq!((&in_left[..], &in_right[..]), (&[][..], &[0, 1][..]));
        }
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn of_two_forwards_to_a_stage_with_room_for_either_one_goes_through() {
    explore(|| {
        let manager = buffer(3, 2, 3);
        let [left, middle, right] =
            ["left", "middle", "right"].map(|id| manager.stage(id).unwrap());
        let source = manager.source("a").unwrap();
        source.try_send_batch(&left, items("a", 0..2)).unwrap();
        source.try_send(&middle, item("a", 2)).unwrap();
        let (two, one) = (take(&left, 2).unwrap(), take(&middle, 2).unwrap());
        let other = thread::spawn({
            let right = right.clone();
            move || one.try_forward(&right).is_ok()
        });
        let mine = two.try_forward(&right).is_ok();
        let theirs = other.join().unwrap();
        assert_ne!(mine, theirs, "three records for two places");
        let drained = [drain(&left), drain(&middle), drain(&right)];
        let expected: [&[u32]; 3] = if mine { [&[], &[2], &[0, 1]] } else { [&[0, 1], &[], &[2]] };
        assert_eq!(drained, expected);
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_forward_that_cannot_fit_keeps_no_place_from_a_push() {
    explore(|| {
        let manager = buffer(4, 2, 3);
        let (left, right) = (manager.stage("left").unwrap(), manager.stage("right").unwrap());
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send(&right, item("a", 0)).unwrap();
        a.try_send_batch(&left, items("a", 1..3)).unwrap();
        let batch = take(&left, 2).unwrap();
        let other = thread::spawn({
            let right = right.clone();
            move || b.try_send(&right, item("b", 9))
        });
        // One place: too few for two records, enough for one.
        let refused = batch.try_forward(&right).expect_err("two records in one place");
        other.join().unwrap().expect("a forward that could not fit took the place");
        refused.into_inner().return_to_buffer();
        assert_eq!((drain(&left), drain(&right)), (vec![1, 2], vec![0, 9]));
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn two_who_make_a_stage_or_a_source_of_one_name_get_the_same() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let other = thread::spawn({
            let manager = manager.clone();
            move || (manager.stage("stage").unwrap(), manager.source("a").unwrap())
        });
        let mine = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        let theirs = other.join().unwrap();
        assert!(Arc::ptr_eq(mine.0.core(), theirs.0.core()));
        assert!(Arc::ptr_eq(mine.1.core(), theirs.1.core()));
        theirs.1.try_send(&mine.0, item("a", 0)).unwrap();
        manager.remove_stage("stage").expect_err("it holds a record");
        assert_eq!(drain(&mine.0), [0]);
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn a_stage_that_is_removed_during_a_forward_to_it_loses_nothing() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let (left, right) = (manager.stage("left").unwrap(), manager.stage("right").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send_batch(&left, items("a", 0..2)).unwrap();
        let batch = take(&left, 2).unwrap();
        let other = thread::spawn({
            let right = right.clone();
            move || batch.try_forward(&right).is_ok()
        });
        let removed = manager.remove_stage("right").is_ok();
        let forwarded = other.join().unwrap();
        assert_ne!(
            removed, forwarded,
            "removed while it holds records, or refused while it is open"
        );
        assert_eq!(drain(if forwarded { &right } else { &left }), [0, 1]);
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn a_stage_that_is_removed_while_somebody_pushes_loses_nothing() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("a", 0))
        });
        let removed = manager.remove_stage("stage").is_ok();
        match other.join().unwrap() {
            Ok(()) => {
                assert_eq!(drain(&stage), [0], "what was accepted comes out");
                assert!(!removed, "a stage was removed with a record in it");
            }
            Err(rejected) => {
                assert!(removed && rejected.is_closed());
                assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
            }
        }
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn a_source_that_is_removed_while_somebody_pushes_loses_nothing() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("b").unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("b", 0))
        });
        let removed = manager.remove_source("b").is_ok();
        match other.join().unwrap() {
            Ok(()) => {
                assert!(!removed, "a source was removed with a record of it inside");
                assert_eq!(drain(&stage), [0]);
                manager.remove_source("b").unwrap();
            }
            Err(rejected) => assert!(removed && rejected.is_closed()),
        }
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn a_close_between_a_push_and_a_worker_strands_no_record() {
    explore_within(3, || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let pusher = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("a", 0)).is_ok()
        });
        let worker = thread::spawn({
            let stage = stage.clone();
            move || match stage.try_recv_batch(1) {
                Ok(batch) => {
                    batch.ack();
                    (1, false)
                }
                Err(error) => (0, error.is_closed()),
            }
        });
        manager.close();
        let accepted = pusher.join().unwrap();
        let (taken, saw_closed) = worker.join().unwrap();
        let left = drain(&stage).len();
        assert_eq!(usize::from(accepted), taken + left);
        assert!(!(saw_closed && left > 0), "a worker went home before the last record");
        assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    });
}

#[test]
fn a_close_during_a_forward_sends_no_worker_home_early() {
    explore_within(3, || {
        let manager = buffer(2, 2, 2);
        let (left, right) = (manager.stage("left").unwrap(), manager.stage("right").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send(&left, item("a", 0)).unwrap();
        let batch = take(&left, 1).unwrap();
        let forwarder = thread::spawn({
            let right = right.clone();
            move || batch.try_forward(&right).expect("a closed buffer still forwards")
        });
        let worker = thread::spawn({
            let right = right.clone();
            move || match right.try_recv_batch(1) {
                Ok(batch) => ids(&batch.into_records()),
                Err(error) => {
                    assert!(!error.is_closed(), "a worker went home before the last record");
                    Vec::new()
                }
            }
        });
        manager.close();
        forwarder.join().unwrap();
        let mut seen = worker.join().unwrap();
        seen.extend(drain(&right));
        assert_eq!(seen, [0]);
        assert_eq!(left.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
        assert_eq!(right.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    });
}

#[test]
fn dead_letters_that_find_no_place_are_received_once_and_give_their_credits_back() {
    explore_within(3, || {
        // There is room for one letter.
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send_batch(&stage, items("a", 0..3)).unwrap();
        let (one, two) = (take(&stage, 1).unwrap(), take(&stage, 2).unwrap());
        let letters = manager.dead_letters();
        let others = [one, two].map(|batch| thread::spawn(move || dead_letter(batch)));
        let mut seen: Vec<u32> =
            letters.try_recv().map(|letter| letter.record.id).into_iter().collect();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(letters.len() <= 1, "past the capacity");
        assert_eq!(stage.in_flight(), letters.parked(), "a parked letter keeps its place");
        seen.extend(std::iter::from_fn(|| letters.try_recv()).map(|letter| letter.record.id));
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        assert!(drain(&stage).is_empty());
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_batch_by_name_whose_stage_is_removed_meanwhile_counts_all_that_was_accepted() {
    explore(|| {
        let manager = buffer(8, 1, 8);
        manager
            .source("a")
            .unwrap()
            .try_send(&manager.stage("stage").unwrap(), item("a", 0))
            .unwrap();
        let other = thread::spawn({
            let manager = manager.clone();
            move || {
                let first = block_on(manager.get_batch("stage", 1)).len();
                let second = block_on(manager.get_batch("stage", 1)).len();
                let _ = manager.remove_stage("stage");
                first + second
            }
        });
        let pushed = block_on(manager.buffer_batch_for_stage("stage", items("a", 1..4)));
        let (accepted, refused) = match pushed {
            Ok(accepted) => (accepted, 0),
            Err(rejected) => (rejected.accepted, rejected.records.len()),
        };
        let taken = other.join().unwrap();
        assert_eq!(accepted + refused, 3, "a record is accepted or refused");
        let left = manager.stage("stage").map_or(0, |stage| drain(&stage).len());
        assert_eq!(1 + accepted, taken + left);
        nothing_is_left(&manager, 8);
    });
}

#[test]
fn two_forced_pushes_at_a_full_stage_lose_no_record_and_no_credit() {
    explore_within(2, || {
        let manager = buffer(4, 1, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        let force = |stage: &Stage<Item>, source: &Source<Item>, id| {
            let mut evicted = 0;
            let accepted = source.force_send(stage, item("a", id), |_| evicted += 1).is_ok();
            (usize::from(accepted), evicted)
        };
        let other = thread::spawn({
            let (stage, source) = (stage.clone(), source.clone());
            move || force(&stage, &source, 1)
        });
        let (accepted, evicted) = force(&stage, &source, 2);
        let (others, evicted_by_it) = other.join().unwrap();
        // A record that is on its way into the stage cannot be evicted.
        assert!(accepted + others >= 1, "both are refused");
        assert_eq!(1 + accepted + others, evicted + evicted_by_it + drain(&stage).len());
        assert_eq!(source.core().account().used(), 0);
    });
}
