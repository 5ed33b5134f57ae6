//! The manager: the calls by name, and what they answer.

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, RejectReason};

use common::*;

/// Polls once, and never again.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("a call by name waits"),
    }
}

#[test]
fn every_call_by_name_answers_at_its_first_poll_even_at_the_caps() {
    let manager = Manager::with_limits(2, 2, 2, 0.8);
    at_once(manager.buffer_for_stage("s", row("a", 0))).unwrap();
    assert_eq!(at_once(manager.buffer_batch_for_stage("s", rows("a", 1..2))), Ok(1));
    assert!(at_once(manager.buffer_for_stage("s", row("a", 2))).is_err());
    assert!(at_once(manager.buffer_batch_for_stage("s", rows("a", 2..5))).is_err());
    assert!(at_once(manager.should_backpressure("a")));
    assert_eq!(at_once(manager.available_credits("a")), 0);
    assert_eq!(at_once(manager.get_stage_utilization("s")), 1.0);
    assert_eq!(at_once(manager.get_global_utilization()), 1.0);
    assert_eq!(at_once(manager.get_stage_buffer_size("s")), 2);
    assert_eq!(at_once(manager.get_total_buffered()), 2);
    assert_eq!(at_once(manager.get_stages_with_data()), ["s"]);
    let batch = at_once(manager.get_batch("s", 1));
    assert_eq!(at_once(manager.return_to_buffer("s", batch)), Ok(1));
    assert_eq!(at_once(manager.get_batch("s", 9)).len(), 2);
    assert!(at_once(manager.get_batch("s", 9)).is_empty());
}

#[test]
fn the_futures_of_a_manager_can_be_sent_and_shared() {
    fn is_send<T: Send>(_: &T) {}
    fn is_shared<T: Send + Sync + 'static>(_: &T) {}
    let (manager, stage, source) = one_of_each(1, 1, 1);
    is_shared(&manager);
    is_shared(&stage);
    is_shared(&source);
    is_shared(&manager.dead_letters());
    is_shared(manager.controller());
    is_send(&manager.buffer_for_stage("s", row("a", 0)));
    is_send(&manager.return_to_buffer("s", Vec::new()));
    is_send(&manager.get_batch("s", 1));
}

#[test]
fn clones_are_the_same_buffer() {
    let manager = Manager::default();
    let clone = manager.clone();
    block_on(manager.buffer_for_stage("s", row("a", 1))).unwrap();
    drop(manager);
    assert_eq!(ids(&block_on(clone.get_batch("s", 1))), [1]);
    clone.clone().close();
    assert!(block_on(clone.buffer_for_stage("s", row("a", 2))).unwrap_err().is_closed());
}

#[test]
fn a_refused_record_comes_back_untouched() {
    let manager = BufferManager::with_limits(1, 1, 1, 0.8);
    let record = BufferedRecord::new("line", "a", "p", "s");
    block_on(manager.buffer_for_stage("s", record.clone())).unwrap();
    let rejected = block_on(manager.buffer_for_stage("s", record.clone())).unwrap_err();
    assert_eq!(rejected.into_record(), record);
    let rejected =
        block_on(manager.return_to_buffer("s", vec![record.clone()])).expect_err("it is full");
    assert_eq!((rejected.accepted, rejected.into_records()), (0, vec![record]));
}

#[test]
fn records_of_several_sources_are_charged_to_each() {
    let manager = Manager::with_limits(100, 100, 3, 0.8);
    let mixed = [rows("a", 0..2), rows("b", 2..4), rows("a", 4..5), rows("c", 5..6)].concat();
    assert_eq!(block_on(manager.buffer_batch_for_stage("s", mixed)), Ok(6));
    let available = ["a", "b", "c", "d"].map(|id| block_on(manager.available_credits(id)));
    assert_eq!(available, [0, 1, 2, 3]);
    assert_eq!(ids(&block_on(manager.get_batch("s", 100))), [0, 1, 2, 3, 4, 5]);
    let available = ["a", "b", "c", "d"].map(|id| block_on(manager.available_credits(id)));
    assert_eq!(available, [3; 4]);
}

#[test]
fn a_batch_of_several_sources_is_cut_at_the_first_refusal() {
    let manager = Manager::with_limits(100, 100, 3, 0.8);
    // "a" is full after 0, 1 and 4; what comes after 6 is refused with it, whosever it is.
    let mixed =
        [rows("a", 0..2), rows("b", 2..4), rows("a", 4..8), rows("b", 8..9), rows("c", 9..10)];
    let rejected = block_on(manager.buffer_batch_for_stage("s", mixed.concat())).unwrap_err();
    assert_eq!(rejected.reason, source_full("a", 3, 3));
    assert_eq!((rejected.accepted, ids(&rejected.records)), (5, vec![5, 6, 7, 8, 9]));
    assert_eq!(ids(&block_on(manager.get_batch("s", 100))), [0, 1, 2, 3, 4]);
}

#[test]
fn the_reason_is_the_limit_that_refused_the_first_record_that_came_back() {
    // The three caps leave so much room; the tightest refuses, and of equals the source, then the
    // global cap.
    let cases = [
        ((3, 4, 5), global_full(3, 3)),
        ((4, 3, 5), stage_full("s", 3, 3)),
        ((5, 4, 3), source_full("a", 3, 3)),
        ((3, 3, 3), source_full("a", 3, 3)),
        ((3, 3, 5), global_full(3, 3)),
        ((5, 3, 3), source_full("a", 3, 3)),
        ((3, 5, 3), source_full("a", 3, 3)),
    ];
    for ((total, per_stage, per_source), reason) in cases {
        let manager = Manager::with_limits(total, per_stage, per_source, 0.8);
        let rejected = block_on(manager.buffer_batch_for_stage("s", rows("a", 0..9))).unwrap_err();
        assert_eq!((rejected.accepted, ids(&rejected.records)), (3, vec![3, 4, 5, 6, 7, 8]));
        assert_eq!(rejected.reason, reason);
        let rejected = block_on(manager.buffer_for_stage("s", row("a", 9))).unwrap_err();
        assert_eq!(rejected.reason, reason);
        assert_eq!(block_on(manager.get_total_buffered()), 3);
    }
}

#[test]
fn an_empty_push_makes_no_names() {
    let manager = Manager::builder(caps(1, 1, 1)).max_stages(1).build().unwrap();
    assert_eq!(block_on(manager.buffer_batch_for_stage("x", Vec::new())), Ok(0));
    assert_eq!(block_on(manager.return_to_buffer("y", Vec::new())), Ok(0));
    assert_eq!(block_on(manager.buffer_batch_for_stage("", Vec::new())), Ok(0));
    assert!(manager.stage("z").is_ok(), "a name was made");
}

#[test]
fn reading_makes_no_names() {
    let manager = Manager::builder(caps(10, 10, 4)).max_stages(1).max_sources(1).build().unwrap();
    assert!(block_on(manager.get_batch("x", 1)).is_empty());
    assert_eq!(block_on(manager.get_stage_buffer_size("x")), 0);
    assert_eq!(block_on(manager.get_stage_utilization("x")), 0.0);
    assert_eq!(block_on(manager.available_credits("x")), 4);
    assert!(!block_on(manager.should_backpressure("x")));
    assert!(manager.stage("y").is_ok() && manager.source("y").is_ok(), "a name was made");
}

#[test]
fn asking_for_nothing_takes_nothing() {
    let manager = Manager::default();
    block_on(manager.buffer_for_stage("s", row("a", 1))).unwrap();
    assert!(block_on(manager.get_batch("s", 0)).is_empty());
    assert_eq!(block_on(manager.get_stage_buffer_size("s")), 1);
    assert_eq!(block_on(manager.get_batch("s", usize::MAX)).len(), 1);
}

#[test]
fn what_is_taken_by_name_gives_its_credits_back_at_once() {
    let manager = Manager::with_limits(4, 4, 4, 0.8);
    block_on(manager.buffer_batch_for_stage("s", rows("a", 0..4))).unwrap();
    let taken = block_on(manager.get_batch("s", 3));
    assert_eq!(block_on(manager.available_credits("a")), 3);
    assert_eq!(block_on(manager.get_total_buffered()), 1);
    block_on(manager.buffer_batch_for_stage("s", rows("a", 4..6))).unwrap();
    // One place is left: the others come back, untouched.
    let rejected = block_on(manager.return_to_buffer("s", taken)).unwrap_err();
    assert_eq!((rejected.accepted, ids(&rejected.records)), (1, vec![1, 2]));
    assert!(rejected.records.iter().all(|row| row.retries == 0));
    let all = block_on(manager.get_batch("s", 9));
    assert_eq!((ids(&all), all[0].retries), (vec![0, 3, 4, 5], 1));
}

#[test]
fn a_return_by_name_makes_the_stage_and_the_source_it_names() {
    let manager = Manager::default();
    assert_eq!(block_on(manager.return_to_buffer("new", rows("a", 0..3))), Ok(3));
    let batch = block_on(manager.get_batch("new", 9));
    assert_eq!(ids(&batch), [0, 1, 2]);
    assert!(batch.iter().all(|row| row.retries == 1));
}

#[test]
fn a_return_by_name_past_the_retry_limit_goes_to_the_dead_letters() {
    let manager =
        Manager::builder(caps(10, 10, 10)).max_retries(2).dead_letter_capacity(2).build().unwrap();
    let tried = |ids: &[u64]| -> Vec<_> {
        ids.iter().map(|&id| Row { retries: 2, ..row("a", id) }).collect()
    };
    let mixed = [rows("a", 0..1), tried(&[1]), rows("a", 2..4)].concat();
    assert_eq!(block_on(manager.return_to_buffer("s", mixed)), Ok(3));
    let letter = manager.dead_letters().try_recv().unwrap();
    assert_eq!((letter.record.id, letter.retry_count, letter.stage_id.as_str()), (1, 2, "s"));
    assert_eq!(block_on(manager.get_total_buffered()), 3);

    // Two letters fit; the third comes back, and all after it.
    let mixed = [rows("a", 4..5), tried(&[5, 6, 7]), rows("a", 8..9)].concat();
    let rejected = block_on(manager.return_to_buffer("s", mixed)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::DeadLettersFull { capacity: 2 });
    assert_eq!((rejected.accepted, ids(&rejected.records)), (1, vec![7, 8]));
    assert_eq!((rejected.records[0].retries, rejected.records[1].retries), (2, 0));
    assert_eq!(manager.dead_letters().len(), 2);
    assert_eq!(block_on(manager.get_stage_buffer_size("s")), 4);
}

#[test]
fn records_in_unsettled_batches_count_in_every_reading_but_len() {
    let (manager, stage, source) = one_of_each(10, 5, 4);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let batch = take(&stage, 3);
    assert_eq!(block_on(manager.get_stage_buffer_size("stage")), 1);
    assert_eq!(block_on(manager.get_total_buffered()), 4);
    assert_eq!(block_on(manager.get_stage_utilization("stage")), 0.8);
    assert_eq!(block_on(manager.get_global_utilization()), 0.4);
    assert_eq!(block_on(manager.available_credits("a")), 0);
    assert_eq!(block_on(manager.get_stages_with_data()), ["stage"]);
    let rest = take(&stage, 3);
    assert!(block_on(manager.get_stages_with_data()).is_empty());
    batch.ack();
    rest.ack();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn readings_are_exact_at_rest_though_sources_lease_ahead() {
    let manager = Manager::new(BufferSettings::default());
    let stage = manager.stage("s").unwrap();
    let mut held = 0;
    for n in 0..6_u64 {
        let source = manager.source(&n.to_string()).unwrap();
        for id in 0..n * 100 + 1 {
            source.try_send(&stage, row("", id)).unwrap();
            held += 1;
            assert_eq!(block_on(manager.get_total_buffered()), held);
            assert_eq!(source.available_credits(), 5_000 - id as usize - 1);
        }
        assert_eq!(block_on(manager.get_global_utilization()), held as f64 / 100_000.0);
    }
    while held > 0 {
        take(&stage, 1).ack();
        held -= 1;
        assert_eq!(block_on(manager.get_total_buffered()), held);
    }
}

#[test]
fn buffers_know_their_own_handles() {
    let (_one, stage, source) = one_of_each(10, 10, 10);
    let (other, foreign, _) = one_of_each(10, 10, 10);
    let rejected = source.try_send(&foreign, row("a", 1)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::ForeignStage { stage_id: "stage".into() });
    assert_eq!(rejected.into_record().id, 1);
    let rejected = source.try_send_batch(&foreign, rows("a", 0..3)).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (0, 3));
    assert_eq!((source.available_credits(), foreign.len()), (10, 0));

    source.try_send(&stage, row("a", 2)).unwrap();
    let batch = take(&stage, 1).try_forward(&foreign).expect_err("it is another buffer's").batch;
    batch.return_to_buffer();
    assert_eq!((stage.len(), block_on(other.get_total_buffered())), (1, 0));
}

#[test]
fn a_manager_shows_what_it_holds() {
    let (manager, stage, source) = one_of_each(77, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    let text = format!("{manager:?}");
    for part in ["BufferManager", "77", "5", "Resume"] {
        assert!(text.contains(part), "{text}");
    }
}
