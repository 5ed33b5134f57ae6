//! A stage: its cap, its readings, and what it hands out.

mod common;

use conveyor_buffer::TryRecvError;

use common::*;

#[test]
fn a_stage_knows_its_name_and_its_cap() {
    let (manager, stage, _) = one_of_each(10, 7, 10);
    assert_eq!((stage.id(), stage.capacity()), ("stage", 7));
    assert_eq!((stage.len(), stage.in_flight(), stage.utilization()), (0, 0, 0.0));
    assert!(stage.is_empty());
    assert_eq!(manager.stage("stage").unwrap().id(), "stage");
}

#[test]
fn clones_and_namesakes_are_one_stage() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let (clone, namesake) = (stage.clone(), manager.stage("stage").unwrap());
    let batch = take(&clone, 1);
    for handle in [&stage, &clone, &namesake] {
        assert_eq!((handle.len(), handle.in_flight(), handle.is_empty()), (2, 1, false));
    }
    batch.ack();
    assert_eq!(drain(&namesake), [1, 2]);
}

#[test]
fn records_queued_and_in_batches_fill_a_stage_together() {
    let (_manager, stage, source) = one_of_each(100, 5, 100);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    let batches = [take(&stage, 2), take(&stage, 2)];
    assert_eq!((stage.len(), stage.in_flight(), stage.utilization()), (1, 4, 1.0));
    let rejected = source.try_send(&stage, row("a", 5)).unwrap_err();
    assert_eq!(rejected.reason, stage_full("stage", 5, 5));
    let [first, second] = batches;
    first.ack();
    let rejected = source.try_send_batch(&stage, rows("a", 5..9)).unwrap_err();
    assert_eq!((rejected.accepted, rejected.reason), (2, stage_full("stage", 5, 5)));
    second.return_to_buffer();
    assert_eq!(drain(&stage), [2, 3, 4, 5, 6]);
}

#[test]
fn a_return_never_fails_at_a_full_stage() {
    // All three caps are reached all the time; returns come in every size and order.
    let (manager, stage, source) = one_of_each(8, 8, 8);
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    let mut rng = Rng::new(1);
    for _ in 0..2_000 {
        let mut batches = Vec::new();
        while let Ok(mut batch) = stage.try_recv_batch(1 + rng.below(8)) {
            batches.push(batch.split_off(rng.below(batch.len() + 1)));
            batches.push(batch);
        }
        assert!(source.try_send(&stage, row("a", 9)).unwrap_err().is_full());
        while !batches.is_empty() {
            batches.swap_remove(rng.below(batches.len())).return_to_buffer();
            assert!(source.try_send(&stage, row("a", 9)).unwrap_err().is_full());
        }
        assert_eq!((stage.len(), stage.in_flight()), (8, 0));
    }
    let batch = take(&stage, 8);
    assert_eq!(ids(&batch), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(batch.iter().all(|row| row.retries == 2_000));
    batch.ack();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_stage_of_one_works() {
    let (_manager, stage, source) = one_of_each(10, 1, 10);
    for id in 0..100 {
        source.try_send(&stage, row("a", id)).unwrap();
        assert!(source.try_send(&stage, row("a", id)).is_err());
        take(&stage, 1).return_to_buffer();
        assert!(source.try_send(&stage, row("a", id)).is_err());
        assert_eq!(ids(&take(&stage, 1).into_records()), [id]);
    }
}

#[test]
fn asking_for_nothing_is_answered_with_an_error_and_takes_nothing() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    assert_eq!(stage.try_recv_batch(0).unwrap_err(), TryRecvError::Empty);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    assert_eq!(stage.try_recv_batch(0).unwrap_err(), TryRecvError::Empty);
    take(&stage, 1).return_to_buffer();
    assert_eq!(stage.try_recv_batch(0).unwrap_err(), TryRecvError::Empty);
    assert_eq!((stage.len(), stage.in_flight()), (2, 0));
    manager.close();
    assert_eq!(stage.try_recv_batch(0).unwrap_err(), TryRecvError::Empty);
    drain(&stage);
    assert_eq!(stage.try_recv_batch(0).unwrap_err(), TryRecvError::Closed);
}

#[test]
fn asking_for_more_than_there_is_gives_what_there_is() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    source.try_send(&stage, row("a", 2)).unwrap();
    let batch = take(&stage, usize::MAX);
    assert_eq!(ids(&batch), [0, 1, 2]);
    assert_eq!(stage.try_recv_batch(usize::MAX).unwrap_err(), TryRecvError::Empty);
    batch.ack();
}

#[test]
fn the_length_counts_records_however_they_came() {
    let (manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    let mut expected = 0;
    let mut rng = Rng::new(1);
    for _ in 0..60 {
        let n = 1 + rng.below(9);
        source.try_send_batch(&stage, rows("a", 0..n as u64)).unwrap();
        expected += n;
        assert_eq!(stage.len(), expected);
        let batch = take(&stage, 1 + rng.below(6));
        assert_eq!((stage.len(), stage.in_flight()), (expected - batch.len(), batch.len()));
        if rng.one_in(2) {
            expected -= batch.len();
            batch.ack();
        } else {
            batch.return_to_buffer();
        }
        assert_eq!((stage.len(), stage.in_flight()), (expected, 0));
        assert_eq!(stage.utilization(), expected as f64 / 1_000.0);
        assert_eq!(block_on(manager.get_stage_buffer_size("stage")), expected);
    }
}

#[test]
fn stages_have_caps_of_their_own_under_one_global_cap() {
    let (manager, stage, source) = one_of_each(5, 3, 10);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    assert_eq!(source.try_send(&stage, row("a", 3)).unwrap_err().reason, stage_full("stage", 3, 3));
    source.try_send_batch(&next, rows("a", 3..5)).unwrap();
    assert_eq!(source.try_send(&next, row("a", 5)).unwrap_err().reason, global_full(5, 5));
    // Of both limits, the global one is asked first.
    assert_eq!(source.try_send(&stage, row("a", 5)).unwrap_err().reason, global_full(5, 5));
}

#[test]
fn a_stage_shows_its_state() {
    let (_manager, stage, source) = one_of_each(90, 64, 90);
    source.try_send_batch(&stage, rows("a", 0..12)).unwrap();
    let batch = take(&stage, 5);
    let text = format!("{stage:?}");
    for part in ["\"stage\"", "len: 7", "in_flight: 5", "64"] {
        assert!(text.contains(part), "{text}");
    }
    batch.ack();
}

#[test]
fn a_closed_stage_stays_closed_when_it_is_removed() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    stage.close();
    stage.close();
    manager.remove_stage(stage.id()).unwrap();
    assert!(stage.is_closed());
    assert!(source.try_send(&stage, row("a", 0)).unwrap_err().is_closed());
}
