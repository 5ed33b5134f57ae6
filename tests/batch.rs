//! A batch: every way to settle it, and to cut it.

mod common;

use std::sync::{Arc, Mutex};

use conveyor_buffer::{BufferManager, Envelope, Outcome, Source};

use common::*;

/// What a stage and its source hold: records that wait, records in flight, credits that are free.
macro_rules! holds {
    ($stage:expr, $source:expr) => {
        ($stage.len(), $stage.in_flight(), $source.available_credits())
    };
}

#[test]
fn an_acknowledged_batch_gives_everything_back() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let batch = take(&stage, 4);
    assert_eq!((batch.len(), batch.is_empty()), (4, false));
    assert_eq!(holds!(stage, source), (2, 4, 4));
    batch.ack();
    assert_eq!(holds!(stage, source), (2, 0, 8));
    take(&stage, 4).ack();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_returned_batch_keeps_everything_and_counts_one_retry() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    take(&stage, 4).return_to_buffer();
    assert_eq!(holds!(stage, source), (6, 0, 4));
    let batch = take(&stage, 6);
    assert_eq!(batch.iter().map(|row| row.retries).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 0]);
    batch.ack();
}

#[test]
fn a_dropped_batch_is_returned() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    drop(take(&stage, 4));
    assert_eq!(holds!(stage, source), (6, 0, 4));
    assert!(take(&stage, 4).iter().all(|row| row.retries == 1));
}

#[test]
fn records_can_be_seen_and_changed_in_a_batch() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    source.try_send(&stage, row("a", 3)).unwrap();
    let mut batch = take(&stage, 4);
    batch.iter_mut().for_each(|row| row.id += 10);
    for row in &mut batch {
        row.id *= 2;
    }
    assert_eq!(batch.iter().map(|row| row.id).collect::<Vec<_>>(), [20, 22, 24, 26]);
    assert_eq!(ids(&batch), [20, 22, 24, 26]);
    assert_eq!((&batch).into_iter().len(), 4);
    batch.return_to_buffer();
    assert_eq!(drain(&stage), [20, 22, 24, 26]);
}

#[test]
fn settling_asks_for_each_record_once_in_order_and_does_as_told() {
    let (manager, stage, source) = one_of_each(20, 20, 20);
    source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
    let mut asked = Vec::new();
    take(&stage, 9).settle(|row| {
        asked.push(row.id);
        row.id += 100;
        match row.id % 3 {
            0 => Outcome::Ack,
            1 => Outcome::Return,
            _ => Outcome::DeadLetter,
        }
    });
    assert_eq!(asked, (0..9).collect::<Vec<_>>());
    // 100, 103 and 106 are returned; 101, 104 and 107 dead; 102, 105 and 108 acknowledged.
    assert_eq!(holds!(stage, source), (3, 0, 17));
    let letters = manager.dead_letters();
    let dead: Vec<_> =
        std::iter::from_fn(|| letters.try_recv()).map(|letter| letter.record).collect();
    assert_eq!(ids(&dead), [101, 104, 107]);
    assert!(dead.iter().all(|row| row.retries == 0));
    let batch = take(&stage, 9);
    assert_eq!(ids(&batch), [100, 103, 106]);
    assert!(batch.iter().all(|row| row.retries == 1));
    batch.ack();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn settling_alike_is_the_same_as_settling_whole() {
    for outcome in [Outcome::Ack, Outcome::Return, Outcome::DeadLetter] {
        let (manager, stage, source) = one_of_each(10, 10, 10);
        source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
        take(&stage, 5).settle(|_| outcome);
        let dead = manager.dead_letters().len();
        let expected = match outcome {
            Outcome::Ack => ((0, 0, 10), 0),
            Outcome::Return => ((5, 0, 5), 0),
            _ => ((0, 0, 10), 5),
        };
        assert_eq!((holds!(stage, source), dead), expected, "{outcome:?}");
    }
}

#[test]
fn settling_takes_each_record_to_its_own_account() {
    let (manager, stage, source) = one_of_each(20, 20, 10);
    let other = manager.source("b").unwrap();
    for id in 0..10 {
        let source = if id < 6 { &source } else { &other };
        source.try_send(&stage, row(source.id(), id)).unwrap();
    }
    take(&stage, 10).settle(|row| if row.id % 2 == 0 { Outcome::Ack } else { Outcome::Return });
    assert_eq!((source.available_credits(), other.available_credits()), (7, 8));
    assert_eq!(drain(&stage), [1, 3, 5, 7, 9]);
    assert_nothing_is_held(&manager, &[stage], &[source, other]);
}

#[test]
fn records_handed_over_are_out_of_the_buffer() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    source.try_send(&stage, row("a", 3)).unwrap();
    let records = take(&stage, 10).into_records();
    assert_eq!(records, rows("a", 0..4));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_batch_moves_on_with_its_credits_when_there_is_room_for_all_of_it() {
    let (manager, stage, source) = one_of_each(10, 4, 10);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    take(&stage, 3).try_forward(&next).unwrap();
    assert_eq!(holds!(stage, source), (1, 0, 6));
    assert_eq!((next.len(), next.in_flight()), (3, 0));
    source.try_send_batch(&stage, rows("a", 4..7)).unwrap();

    // One place is left, and a batch moves whole or not at all.
    let mut batch = take(&stage, 2).try_forward(&next).unwrap_err().into_inner();
    assert_eq!((ids(&batch), holds!(stage, source), next.len()), (vec![3, 4], (2, 2, 3), 3));
    let rest = batch.split_off(1);
    batch.try_forward(&next).unwrap();
    rest.return_to_buffer();
    let batch = take(&next, 4);
    assert_eq!(ids(&batch), [0, 1, 2, 3]);
    // Forwarding is no retry.
    assert!(batch.iter().all(|row| row.retries == 0));
    batch.ack();
    assert_eq!(drain(&stage), [4, 5, 6]);
    assert_nothing_is_held(&manager, &[stage, next], &[source]);
}

#[test]
fn a_full_buffer_can_still_move_its_records_on() {
    let (manager, stage, source) = one_of_each(4, 4, 4);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    assert!(source.try_send(&next, row("a", 4)).is_err());
    take(&stage, 4).try_forward(&next).unwrap();
    assert_eq!((stage.utilization(), next.utilization(), next.len()), (0.0, 1.0, 4));
    assert_eq!(source.available_credits(), 0);
    assert_eq!(drain(&next), [0, 1, 2, 3]);
}

#[test]
fn a_batch_of_several_sources_moves_on_with_each_account() {
    let (manager, stage, source) = one_of_each(20, 20, 10);
    let (other, next) = (manager.source("b").unwrap(), manager.stage("next").unwrap());
    for id in 0..9 {
        let source = if id % 3 == 0 { &other } else { &source };
        source.try_send(&stage, row(source.id(), id)).unwrap();
    }
    take(&stage, 9).try_forward(&next).unwrap();
    assert_eq!((source.available_credits(), other.available_credits()), (4, 7));
    let batch = take(&next, 9);
    assert_eq!(ids(&batch), (0..9).collect::<Vec<_>>());
    batch.settle(|row| if &*row.source == "b" { Outcome::Ack } else { Outcome::Return });
    assert_eq!((source.available_credits(), other.available_credits()), (4, 10));
    drain(&next);
    assert_nothing_is_held(&manager, &[stage, next], &[source, other]);
}

#[test]
fn a_batch_larger_than_the_next_stage_comes_back() {
    let manager = Manager::builder(caps(10, 10, 10)).stage_capacity("next", 2).build().unwrap();
    let (stage, next) = (manager.stage("stage").unwrap(), manager.stage("next").unwrap());
    manager.source("a").unwrap().try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let mut batch = take(&stage, 3).try_forward(&next).unwrap_err().into_inner();
    let rest = batch.split_off(2);
    batch.try_forward(&next).unwrap();
    rest.ack();
    assert_eq!(drain(&next), [0, 1]);
}

#[test]
fn a_batch_can_move_to_the_back_of_its_own_stage_if_it_has_room_twice() {
    let (_manager, stage, source) = one_of_each(10, 6, 10);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let batch = take(&stage, 3).try_forward(&stage).unwrap_err().into_inner();
    batch.return_to_buffer();
    take(&stage, 2).try_forward(&stage).unwrap();
    assert_eq!(holds!(stage, source), (4, 0, 6));
    assert_eq!(drain(&stage), [2, 3, 0, 1]);
}

#[test]
fn a_cut_batch_is_two_batches() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    for at in [0, 1, 4, 5, 6, usize::MAX] {
        source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
        let mut batch = take(&stage, 5);
        let rest = batch.split_off(at);
        let split = at.min(5) as u64;
        assert_eq!(ids(&batch), (0..split).collect::<Vec<_>>());
        assert_eq!(ids(&rest), (split..5).collect::<Vec<_>>());
        assert_eq!((batch.is_empty(), rest.is_empty()), (split == 0, split == 5));
        assert_eq!(holds!(stage, source), (0, 5, 5));
        rest.ack();
        assert_eq!(holds!(stage, source), (0, split as usize, 10 - split as usize));
        batch.ack();
        assert_nothing_is_held(
            &manager,
            std::slice::from_ref(&stage),
            std::slice::from_ref(&source),
        );
    }
}

#[test]
fn an_empty_part_can_be_settled_in_every_way() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let next = manager.stage("next").unwrap();
    source.try_send(&stage, row("a", 0)).unwrap();
    let mut batch = take(&stage, 1);
    batch.split_off(1).ack();
    batch.split_off(1).return_to_buffer();
    batch.split_off(1).settle(|_| unreachable!("there is no record"));
    assert!(batch.split_off(1).into_records().is_empty());
    batch.split_off(1).try_forward(&next).unwrap();
    let (yes, no) = batch.split_off(1).partition(|_| unreachable!("there is no record"));
    assert!(yes.is_empty() && no.is_empty() && yes.iter().next().is_none());
    assert_eq!(holds!(stage, source), (0, 1, 9));
    batch.ack();
    assert_nothing_is_held(&manager, &[stage, next], &[source]);
}

#[test]
fn a_partition_keeps_the_order_and_what_each_part_holds() {
    let (manager, stage, source) = one_of_each(20, 20, 10);
    let other = manager.source("b").unwrap();
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    other.try_send_batch(&stage, rows("b", 5..10)).unwrap();
    let mut asked = Vec::new();
    let (odd, even) = take(&stage, 10).partition(|row| {
        asked.push(row.id);
        row.retries = 7;
        row.id % 2 == 1
    });
    assert_eq!(asked, (0..10).collect::<Vec<_>>());
    assert_eq!((ids(&odd), ids(&even)), (vec![1, 3, 5, 7, 9], vec![0, 2, 4, 6, 8]));
    assert!(odd.iter().chain(&even).all(|row| row.retries == 7));
    odd.ack();
    assert_eq!((source.available_credits(), other.available_credits()), (7, 8));
    assert_eq!((stage.len(), stage.in_flight()), (0, 5));
    even.ack();
    assert_nothing_is_held(&manager, &[stage], &[source, other]);
}

#[test]
fn a_batch_shows_where_it_is_from_and_asks_nothing_of_its_records() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let batch = take(&stage, 3);
    let text = format!("{batch:?}");
    assert!(text.contains("\"stage\"") && text.contains('3') && !text.contains("Row"), "{text}");
    batch.ack();
}

#[test]
fn a_batch_can_be_sent_to_another_thread_and_settled_there() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let batch = take(&stage, 3);
    std::thread::spawn(move || batch.ack()).join().unwrap();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

/// A record that notes, when it is dropped, how many credits its source can have.
struct Witness {
    source: Source<Witness>,
    seen: Arc<Mutex<Vec<usize>>>,
}

impl Envelope for Witness {
    fn source_id(&self) -> &str {
        self.source.id()
    }

    fn retry_count(&self) -> u32 {
        0
    }

    fn increment_retry(&mut self) {}
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.seen.lock().unwrap().push(self.source.available_credits());
    }
}

#[test]
fn an_acknowledged_record_holds_its_credit_until_it_is_dropped() {
    let manager = BufferManager::new(caps(5, 5, 5));
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let push = || {
        let witness = || Witness { source: source.clone(), seen: Arc::clone(&seen) };
        source.try_send_batch(&stage, (0..3).map(|_| witness()).collect()).unwrap();
        take(&stage, 3)
    };
    push().ack();
    push().settle(|_| Outcome::Ack);
    // As many as if none were gone: memory is never short of what the credits promise.
    assert_eq!(*seen.lock().unwrap(), [2; 6]);
    assert_eq!(source.available_credits(), 5);
}
