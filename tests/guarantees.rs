//! What is guaranteed to a source.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use conveyor_buffer::{Builder, Outcome, RegistryError, RejectReason, SettingsError, TryRecvError};

use common::waiting::*;
use common::*;

/// A builder of a buffer with this global cap, in which `quiet` is guaranteed some records.
fn builder(total: usize, guarantee: usize) -> Builder<Row> {
    Manager::builder(caps(total, 1_000, 1_000)).source_guarantee("quiet", guarantee)
}

#[test]
fn a_quiet_source_beside_nine_that_fill_the_buffer_is_never_refused_within_its_guarantee() {
    for total in [100, 20_000] {
        let manager = Manager::builder(caps(total, total, total))
            .source_guarantee("quiet", 20)
            .build()
            .unwrap();
        let stage = manager.stage("stage").unwrap();
        let own = manager.stage("own").unwrap();
        let quiet = manager.source("quiet").unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for loud in 0..9 {
                let (manager, stage, done) = (&manager, &stage, &done);
                scope.spawn(move || {
                    let source = manager.source(&format!("loud {loud}")).unwrap();
                    while !done.load(SeqCst) {
                        _ = source.try_send_batch(stage, rows("loud", 0..30));
                        _ = source.try_send(stage, row("loud", 0));
                    }
                });
            }
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    if let Ok(batch) = stage.try_recv_batch(7) {
                        batch.ack();
                    }
                }
            });
            for round in 0..2_000 {
                for id in 0..20 {
                    let sent = quiet.try_send(&own, row("quiet", id));
                    sent.unwrap_or_else(|rejected| {
                        panic!("round {round}, record {id}: {rejected}")
                    });
                }
                assert!(block_on(manager.get_total_buffered()) <= total);
                drain(&own);
            }
            done.store(true, SeqCst);
        });
        drain(&stage);
        let loud = manager.source("loud 0").unwrap();
        assert_eq!((quiet.available_credits(), loud.available_credits()), (total, total - 20));
        assert_nothing_is_held(&manager, &[stage, own], &[quiet, loud]);
    }
}

#[test]
fn others_cannot_have_what_is_guaranteed_and_the_source_can_have_more() {
    let manager = builder(10, 3).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    assert_eq!((quiet.guarantee(), loud.guarantee()), (3, 0));
    assert_eq!((quiet.available_credits(), loud.available_credits()), (10, 7));
    assert_eq!(block_on(manager.get_total_buffered()), 0);

    // One guaranteed, then all that is left to both, then none.
    quiet.try_send(&stage, row("quiet", 0)).unwrap();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (9, 7));
    let rejected = loud.try_send_batch(&stage, rows("loud", 1..20)).unwrap_err();
    assert_eq!(rejected.accepted, 7);
    let reason = RejectReason::GuaranteedToOthers { held: 8, capacity: 10, guaranteed: 2 };
    assert!(rejected.is_full() && rejected.reason == reason, "{}", rejected.reason);
    assert_eq!((quiet.available_credits(), loud.available_credits()), (2, 0));
    assert_eq!(quiet.try_send_batch(&stage, rows("quiet", 8..20)).unwrap_err().accepted, 2);
    assert_eq!(quiet.try_send(&stage, row("quiet", 10)).unwrap_err().reason, global_full());
    assert_eq!(loud.try_send(&stage, row("loud", 10)).unwrap_err().reason, global_full());
    assert_eq!(drain(&stage).len(), 10);

    // The source takes from what all share what exceeds its guarantee, and gives that back first.
    quiet.try_send_batch(&stage, rows("quiet", 0..8)).unwrap();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (2, 2));
    take(&stage, 5).ack();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (7, 7));
    take(&stage, 3).ack();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (10, 7));
}

fn global_full() -> RejectReason {
    RejectReason::GlobalFull { held: 10, capacity: 10 }
}

#[test]
fn invalid_guarantees_are_errors_that_name_the_setting() {
    let error = builder(10, 0).build().unwrap_err();
    assert_eq!(error, SettingsError::Zero { field: "source_guarantee" });
    let error = builder(10, 3).source_guarantee("", 1).build().unwrap_err();
    assert_eq!(error, SettingsError::EmptyName { field: "source_guarantee" });
    let below = |field, value, guarantee| SettingsError::BelowGuarantee { field, value, guarantee };
    let error = builder(10, 3).source_capacity("quiet", 2).build().unwrap_err();
    assert_eq!(error, below("source_capacity", 2, 3));
    let error = builder(10, 6).source_guarantee("other", 5).build().unwrap_err();
    assert_eq!(error, below("max_total_records", 10, 11));
    let text = "max_total_records must be at least 11 for source_guarantee, got 10";
    assert_eq!(error.to_string(), text);
    let settings = caps(10, 10, 2);
    let error = Manager::builder(settings).source_guarantee("quiet", 3).build().unwrap_err();
    assert_eq!(error, below("max_per_source", 2, 3));
    let builder_of_two = || builder(10, 3).source_guarantee("other", 5);
    let error = builder_of_two().max_sources(1).build().unwrap_err();
    assert_eq!(error, below("max_sources", 1, 2));
    builder_of_two().max_sources(2).build().unwrap();

    let manager = builder(10, 6).source_guarantee("other", 4).build().unwrap();
    let quiet = manager.source("quiet").unwrap();
    assert_eq!(manager.set_max_total_records(9), Err(below("max_total_records", 9, 10)));
    assert_eq!(quiet.set_capacity(5), Err(below("source_capacity", 5, 6)));
    let loud = manager.source("loud").unwrap();
    assert_eq!(loud.available_credits(), 0);
    manager.set_max_total_records(11).unwrap();
    quiet.set_capacity(6).unwrap();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (6, 1));
}

#[test]
fn a_request_that_never_fits_beside_the_guarantees_of_others_is_too_large() {
    let manager = builder(10, 3).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    let rejected = block_on(loud.send_batch(&stage, rows("loud", 0..8))).unwrap_err();
    let RejectReason::TooLarge { records: 8, capacity: 7, limit } = rejected.reason else {
        panic!("{}", rejected.reason);
    };
    assert_eq!(limit, "the buffer");
    block_on(quiet.send_batch(&stage, rows("quiet", 0..10))).unwrap();
    let mut waits = waiting(loud.send_batch(&stage, rows("loud", 0..7)));
    take(&stage, 6).ack();
    assert_eq!(waits.wakes(), 0);
    take(&stage, 1).ack();
    waits.woken().unwrap();
    assert_eq!(drain(&stage).len(), 10);
}

#[test]
fn a_request_that_waits_needs_only_what_exceeds_the_guarantee() {
    let manager = builder(10, 3).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    loud.try_send_batch(&stage, rows("loud", 0..7)).unwrap();
    // Three of five are guaranteed.
    let mut waits = waiting(quiet.send_batch(&stage, rows("quiet", 7..12)));
    take(&stage, 1).ack();
    assert_eq!(waits.wakes(), 0);
    take(&stage, 1).ack();
    waits.woken().unwrap();

    // Now all three are in use, until the source itself gives one back.
    let mut waits = waiting(quiet.send(&stage, row("quiet", 12)));
    waits.waits();
    drop(take(&stage, 5));
    assert_eq!(waits.wakes(), 0);
    take(&stage, 5).ack();
    waits.woken().unwrap();
    assert_eq!(drain(&stage).len(), 6);
}

#[test]
fn a_guarantee_belongs_to_the_name() {
    let manager = builder(10, 3).build().unwrap();
    let (stage, loud) = (manager.stage("stage").unwrap(), manager.source("loud").unwrap());
    assert_eq!(block_on(manager.available_credits("quiet")), 10);
    assert_eq!(loud.available_credits(), 7);
    for _ in 0..3 {
        let quiet = manager.source("quiet").unwrap();
        loud.try_send_batch(&stage, rows("loud", 0..7)).unwrap();
        assert_eq!(quiet.try_send_batch(&stage, rows("quiet", 0..9)).unwrap_err().accepted, 3);
        quiet.close();
        drain(&stage);
        assert_eq!(loud.available_credits(), 7);
        manager.remove_source("quiet").unwrap();
    }
}

#[test]
fn letters_of_a_guaranteed_source_hold_the_guarantee_while_they_are_parked() {
    let manager = builder(10, 3).dead_letter_capacity(1).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    quiet.try_send_batch(&stage, rows("quiet", 0..5)).unwrap();
    take(&stage, 5).settle(|_| Outcome::DeadLetter);
    assert_eq!(manager.dead_letters().parked(), 4);
    // All is settled: three of the letters hold the guarantee, and one what all share.
    manager.drain_blocking();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (6, 6));
    assert_eq!(manager.dead_letters().try_recv().unwrap().record.id, 0);
    assert_eq!((quiet.available_credits(), loud.available_credits()), (7, 7));
    while manager.dead_letters().try_recv().is_some() {}
    assert_eq!((quiet.available_credits(), loud.available_credits()), (10, 7));
}

#[test]
fn a_guarantee_holds_while_the_buffer_drains_below_a_lower_cap() {
    let manager = builder(10, 3).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    loud.try_send_batch(&stage, rows("loud", 0..7)).unwrap();
    manager.set_max_total_records(5).unwrap();
    assert_eq!((quiet.available_credits(), loud.available_credits()), (3, 0));
    assert_eq!(quiet.try_send_batch(&stage, rows("quiet", 7..11)).unwrap_err().accepted, 3);
    assert!(loud.try_send(&stage, row("loud", 11)).unwrap_err().is_full());

    // Five of the ten are settled, and what is left is the new cap.
    take(&stage, 5).ack();
    assert!(loud.try_send(&stage, row("loud", 12)).unwrap_err().is_full());
    take(&stage, 1).ack();
    loud.try_send(&stage, row("loud", 13)).unwrap();
    assert!(loud.try_send(&stage, row("loud", 14)).unwrap_err().is_full());
    assert_eq!(drain(&stage).len(), 5);
    assert_eq!((quiet.available_credits(), loud.available_credits()), (5, 2));
}

#[test]
fn a_reservation_for_a_request_of_another_source_leaves_the_guarantee() {
    let manager = builder(20, 3).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    loud.try_send_batch(&stage, rows("loud", 0..17)).unwrap();
    let large = waiting(loud.send_batch(&stage, rows("loud", 17..34)));
    let other = manager.source("other").unwrap();
    // Each record that is settled bypasses the request, until it reserves what it needs.
    let mut reserved = false;
    for id in 0..8 {
        take(&stage, 1).ack();
        reserved |= other
            .try_send(&stage, row("other", id))
            .is_err_and(|rejected| matches!(rejected.reason, RejectReason::OthersFirst { .. }));
    }
    assert!(reserved);
    assert_eq!(quiet.available_credits(), 3);
    quiet.try_send_batch(&stage, rows("quiet", 0..3)).unwrap();
    let rejected = quiet.try_send(&stage, row("quiet", 3)).unwrap_err();
    assert!(matches!(rejected.reason, RejectReason::OthersFirst { .. }), "{}", rejected.reason);
    drop(large);
    drain(&stage);
    assert_nothing_is_held(&manager, &[stage], &[quiet, loud, other]);
}

#[test]
fn a_name_with_a_guarantee_has_a_place_among_the_names() {
    let manager = builder(10, 3).max_sources(2).build().unwrap();
    manager.source("loud").unwrap();
    assert_eq!(manager.source("other").unwrap_err(), RegistryError::TooManySources { max: 2 });
    manager.source("quiet").unwrap();
    manager.remove_source("quiet").unwrap();
    assert_eq!(manager.source("other").unwrap_err(), RegistryError::TooManySources { max: 2 });
    manager.remove_source("loud").unwrap();
    manager.source("other").unwrap();
    manager.source("quiet").unwrap();
}

#[test]
fn a_source_for_which_nothing_is_left_waits_for_nothing() {
    let manager = builder(3, 3).build().unwrap();
    let (stage, loud) = (manager.stage("stage").unwrap(), manager.source("loud").unwrap());
    let rejected = block_on(loud.send(&stage, row("loud", 0))).unwrap_err();
    assert!(matches!(rejected.reason, RejectReason::TooLarge { capacity: 0, .. }));
    let reason = loud.try_send(&stage, row("loud", 0)).unwrap_err().reason;
    let expected = RejectReason::GuaranteedToOthers { held: 0, capacity: 3, guaranteed: 3 };
    assert_eq!(reason, expected);
    assert_eq!(loud.try_reserve_up_to(&stage, 5).unwrap_err(), expected);
    let mut producer = loud.producer(&stage);
    assert_eq!(producer.try_send(row("loud", 0)).unwrap_err().reason, expected);
}

#[test]
fn a_producer_and_a_permit_use_the_guarantee() {
    let manager = builder(10, 4).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    let loud = manager.source("loud").unwrap();
    loud.try_send_batch(&stage, rows("loud", 0..9)).unwrap_err();
    let mut permit = quiet.try_reserve(&stage, 2).unwrap();
    let mut producer = quiet.producer(&stage);
    producer.try_send(row("quiet", 0)).unwrap();
    producer.try_send(row("quiet", 1)).unwrap();
    assert!(producer.try_send(row("quiet", 2)).unwrap_err().is_full());
    permit.push(row("quiet", 3)).unwrap();
    drop(permit);
    assert!(loud.try_send(&stage, row("loud", 9)).unwrap_err().is_full());
    producer.try_send(row("quiet", 4)).unwrap();
    drop(producer);
    assert_eq!(drain(&stage).len(), 10);
    assert_eq!((quiet.available_credits(), loud.available_credits()), (10, 6));
}

#[test]
fn a_closed_buffer_with_a_guarantee_drains() {
    let manager = builder(10, 3).build().unwrap();
    let (stage, quiet) = (manager.stage("stage").unwrap(), manager.source("quiet").unwrap());
    quiet.try_send_batch(&stage, rows("quiet", 0..5)).unwrap();
    manager.close();
    assert!(quiet.try_send(&stage, row("quiet", 5)).unwrap_err().is_closed());
    drain(&stage);
    manager.drain_blocking();
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
}
