//! The dead letters: what comes there, with what it knows, and what happens when they are full.

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::SystemTime;

use conveyor_buffer::{DeadLetterReason, DeadLetters, Outcome, Source, Stage};

use common::*;

fn dead_lettering(
    retries: u32,
    capacity: usize,
) -> (Manager, Stage<Row>, Source<Row>, DeadLetters<Row>) {
    let manager = Manager::builder(caps(10, 10, 10))
        .max_retries(retries)
        .dead_letter_capacity(capacity)
        .build()
        .unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let letters = manager.dead_letters();
    (manager, stage, source, letters)
}

fn receive_all(letters: &DeadLetters<Row>) -> Vec<u64> {
    std::iter::from_fn(|| letters.try_recv()).map(|letter| letter.record.id).collect()
}

#[test]
fn a_letter_knows_its_record_its_stage_its_source_and_its_retries() {
    let (_manager, stage, source, letters) = dead_lettering(1, 10);
    source.try_send(&stage, row("whatever it says", 7)).unwrap();
    take(&stage, 1).return_to_buffer();
    assert!(letters.is_empty());
    take(&stage, 1).return_to_buffer();
    let record = Row { retries: 1, ..row("whatever it says", 7) };
    let letter = letters.try_recv().unwrap();
    assert_eq!(letter.record, record);
    assert_eq!((&*letter.stage_id, &*letter.source_id), ("stage", "whatever it says"));
    assert_eq!((letter.retry_count, letter.reason), (1, DeadLetterReason::RetriesExhausted));
    assert!(letter.failed_at <= SystemTime::now());
    assert_eq!(letters.try_recv(), None);
}

#[test]
fn a_letter_names_the_stage_in_which_its_record_failed() {
    let (manager, stage, source, letters) = dead_lettering(0, 10);
    let next = manager.stage("next").unwrap();
    source.try_send(&stage, row("a", 1)).unwrap();
    take(&stage, 1).try_forward(&next).unwrap();
    drop(take(&next, 1));
    assert_eq!(letters.try_recv().unwrap().stage_id, "next");
}

#[test]
fn a_letter_gives_its_credits_back_on_arrival() {
    let (manager, stage, source, letters) = dead_lettering(0, 10);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    take(&stage, 6).return_to_buffer();
    assert_eq!((letters.len(), letters.parked()), (6, 0));
    assert_eq!((stage.len(), stage.in_flight(), source.available_credits()), (4, 0, 6));
    take(&stage, 4).settle(|_| Outcome::DeadLetter);
    assert_nothing_is_held(&manager, &[stage], &[source]);
    assert_eq!(receive_all(&letters), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_worker_may_give_a_record_up_whatever_its_count() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send(&stage, row("a", 1)).unwrap();
    take(&stage, 1).settle(|row| {
        row.retries = 40;
        Outcome::DeadLetter
    });
    assert_eq!(manager.dead_letters().try_recv().unwrap().retry_count, 40);
}

#[test]
fn letters_that_find_no_place_are_parked_and_keep_what_they_hold() {
    let (manager, stage, source, letters) = dead_lettering(0, 3);
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    take(&stage, 8).return_to_buffer();
    assert_eq!((letters.len(), letters.parked(), letters.capacity()), (3, 5, 3));
    assert_eq!((stage.len(), stage.in_flight(), source.available_credits()), (0, 5, 5));
    assert_eq!(block_on(manager.get_total_buffered()), 5);
    // A parked letter is never handed to a worker again.
    assert!(is_empty(&stage));
    assert!(manager.remove_stage("stage").is_err() && manager.remove_source("a").is_err());

    for received in 0..8_usize {
        assert_eq!(letters.try_recv().unwrap().record.id, received as u64);
        let parked = 4_usize.saturating_sub(received);
        assert_eq!((letters.parked(), stage.in_flight()), (parked, parked));
        assert_eq!(source.available_credits(), 10 - parked);
        assert_eq!(letters.len(), 3.min(7 - received));
        assert_eq!(letters.is_empty(), received == 7);
    }
    assert_nothing_is_held(&manager, &[stage], &[source]);
    manager.remove_stage("stage").unwrap();
    manager.remove_source("a").unwrap();
}

#[test]
fn letters_that_nobody_receives_stop_the_pipeline_and_lose_nothing() {
    let (manager, stage, source, letters) = dead_lettering(0, 2);
    let mut pushed = 0;
    while source.try_send(&stage, row("a", pushed)).is_ok() {
        pushed += 1;
        take(&stage, 1).return_to_buffer();
    }
    assert_eq!((pushed, letters.len(), letters.parked()), (12, 2, 10));
    assert_eq!(
        source.try_send(&stage, row("a", 99)).unwrap_err().reason,
        parked_letters("source a", 10, 10, 10)
    );
    letters.try_recv().unwrap();
    source.try_send(&stage, row("a", pushed)).unwrap();
    drop(take(&stage, 1));
    assert_eq!(receive_all(&letters), (1..13).collect::<Vec<_>>());
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn clones_are_the_same_letters() {
    let (manager, stage, source, letters) = dead_lettering(0, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    drop(take(&stage, 3));
    assert_eq!(letters.clone().try_recv().unwrap().record.id, 0);
    assert_eq!(manager.dead_letters().try_recv().unwrap().record.id, 1);
    assert_eq!(letters.len(), 1);
}

#[test]
fn letters_outlive_their_stage_and_their_manager() {
    let (manager, stage, source, letters) = dead_lettering(0, 1);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    drop(take(&stage, 3));
    drop((manager, stage, source));
    assert_eq!((letters.len(), letters.parked()), (1, 2));
    assert_eq!(receive_all(&letters), [0, 1, 2]);
}

#[test]
fn letters_show_how_many_they_are() {
    let (_manager, stage, source, letters) = dead_lettering(0, 4);
    source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
    drop(take(&stage, 9));
    let text = format!("{letters:?}");
    for part in ["len: 4", "parked: 5", "capacity: 4"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn threads_that_bury_and_receive_at_once_lose_no_letter_and_no_credit() {
    const RECORDS: u64 = 60_000;
    let (manager, stage, source, letters) = dead_lettering(0, 2);
    let buried = AtomicBool::new(false);
    let mut seen = thread::scope(|scope| {
        scope.spawn(|| {
            for from in (0..RECORDS).step_by(5) {
                let mut rest = rows("a", from..from + 5);
                let mut refusals = 0;
                while let Err(rejected) = source.try_send_batch(&stage, rest) {
                    refusals += 1;
                    if refusals == 5_000_000 {
                        // Something keeps its credits: the count of letters below will tell.
                        buried.store(true, SeqCst);
                        return;
                    }
                    rest = rejected.into_records();
                    if let Ok(batch) = stage.try_recv_batch(3) {
                        batch.return_to_buffer();
                    }
                    thread::yield_now();
                }
            }
            while let Ok(batch) = stage.try_recv_batch(3) {
                batch.return_to_buffer();
            }
            buried.store(true, SeqCst);
        });
        let receive = || {
            let mut seen = Vec::new();
            loop {
                let last_round = buried.load(SeqCst);
                assert!(letters.len() <= 2 && stage.in_flight() <= 10);
                match letters.try_recv() {
                    Some(letter) => seen.push(letter.record.id),
                    None if last_round => return seen,
                    None => thread::yield_now(),
                }
            }
        };
        let receivers = [scope.spawn(receive), scope.spawn(receive)];
        receivers.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    seen.extend(receive_all(&letters));
    seen.sort_unstable();
    assert!(seen == (0..RECORDS).collect::<Vec<_>>(), "{} letters", seen.len());
    assert_nothing_is_held(&manager, &[stage], &[source]);
}
