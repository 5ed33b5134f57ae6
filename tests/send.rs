//! Pushes that wait: for what, for how long, in which order, and what is left when they are given up.

mod common;

use std::thread;
use std::time::Duration;

use conveyor_buffer::{BufferManager, RejectReason, Rejected, RejectedBatch, Source, Stage};

use common::waiting::*;
use common::*;

const BRIEF: Duration = Duration::from_millis(2);

/// A buffer in which one more record of source "a" is refused by one cap, and nothing else.
struct Full {
    manager: Manager,
    stage: Stage<Row>,
    /// Where those records are that are in the way.
    occupied: Stage<Row>,
    source: Source<Row>,
    reason: RejectReason,
}

/// One buffer for each of the caps, full with four records.
fn full_at_each_cap() -> [Full; 3] {
    let full = |caps, occupied: &str, pusher: &str, reason| {
        let manager = Manager::new(caps);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        let occupied = manager.stage(occupied).unwrap();
        manager.source(pusher).unwrap().try_send_batch(&occupied, rows(pusher, 100..104)).unwrap();
        Full { manager, stage, occupied, source, reason }
    };
    [
        full(caps(4, 9, 9), "other", "b", global_full(4, 4)),
        full(caps(9, 4, 9), "stage", "b", stage_full("stage", 4, 4)),
        full(caps(9, 9, 4), "other", "a", source_full("a", 4, 4)),
    ]
}

#[test]
fn a_send_waits_for_each_of_the_three_caps() {
    for Full { manager, stage, occupied, source, reason } in full_at_each_cap() {
        let mut send = waiting(source.send(&stage, row("a", 0)));
        assert_eq!(source.try_send(&stage, row("a", 9)).unwrap_err().reason, reason);
        assert_eq!(send.wakes(), 0, "{reason}");
        take(&occupied, 1).ack();
        assert_eq!(send.woken(), Ok(()), "{reason}");
        // The waiting call took the only place.
        assert_eq!(source.try_send(&stage, row("a", 9)).unwrap_err().reason, reason);
        drop(send);
        let seen = drain(&stage);
        assert!(seen.ends_with(&[0]), "{seen:?}");
        drain(&occupied);
        assert_nothing_is_held(&manager, &[stage, occupied], &[source]);
    }
}

#[test]
fn a_batch_waits_until_all_of_it_fits() {
    for Full { manager, stage, occupied, source, reason } in full_at_each_cap() {
        let mut send = waiting(source.send_batch(&stage, rows("a", 0..3)));
        for _ in 0..2 {
            take(&occupied, 1).ack();
            assert_eq!(send.wakes(), 0, "{reason}");
            send.waits();
        }
        take(&occupied, 1).ack();
        assert_eq!(send.woken(), Ok(()), "{reason}");
        drop(send);
        let seen = drain(&stage);
        assert!(seen.ends_with(&[0, 1, 2]), "{seen:?}");
        drain(&occupied);
        assert_nothing_is_held(&manager, &[stage, occupied], &[source]);
    }
}

#[test]
fn a_thread_waits_as_a_task_does() {
    for round in 0..20 {
        for Full { stage, occupied, source, .. } in full_at_each_cap() {
            or_abort("blocking sends", || {
                thread::scope(|scope| {
                    let one = scope.spawn(|| source.send_blocking(&stage, row("a", 0)));
                    let batch = scope.spawn(|| source.send_batch_blocking(&stage, rows("a", 1..3)));
                    let timed = scope.spawn(|| source.send_timeout(&stage, row("a", 3), FOR_EVER));
                    if round % 2 == 0 {
                        take(&occupied, 2).ack();
                        take(&occupied, 2).ack();
                    } else {
                        take(&occupied, 4).ack();
                    }
                    one.join().unwrap().unwrap();
                    batch.join().unwrap().unwrap();
                    timed.join().unwrap().unwrap();
                });
            });
            source.send_batch_timeout(&stage, Vec::new(), FOR_EVER).unwrap();
            let mut seen = drain(&stage);
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3]);
        }
    }
}

#[test]
fn a_send_whose_time_is_up_gives_the_records_back_and_names_the_limit() {
    for Full { manager, stage, occupied, source, reason } in full_at_each_cap() {
        for timeout in [Duration::ZERO, BRIEF] {
            let Rejected { record, reason: why } =
                source.send_timeout(&stage, row("a", 7), timeout).unwrap_err();
            assert_eq!((record, &why), (row("a", 7), &reason));
            let RejectedBatch { accepted, records, reason: why } =
                source.send_batch_timeout(&stage, rows("a", 0..3), timeout).unwrap_err();
            assert_eq!((accepted, ids(&records), &why), (0, vec![0, 1, 2], &reason));
        }
        assert_eq!(ids(&take(&occupied, 9)), [100, 101, 102, 103]);
        drain(&occupied);
        assert_nothing_is_held(&manager, &[stage, occupied], &[source]);
    }
}

#[test]
fn a_send_that_stands_in_line_names_what_the_first_of_the_line_waits_for() {
    let (_manager, stage, source) = one_of_each(9, 4, 9);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let _first = waiting(source.send(&stage, row("a", 4)));
    let rejected = source.send_timeout(&stage, row("a", 5), BRIEF).unwrap_err();
    assert_eq!(rejected.reason, stage_full("stage", 4, 4));
}

#[test]
fn what_can_never_fit_is_refused_at_once_with_the_cap_that_it_passes() {
    let too_large = |records, capacity, limit: &str| RejectReason::TooLarge {
        records,
        capacity,
        limit: limit.into(),
    };
    for (caps, reason) in [
        (caps(3, 9, 9), too_large(4, 3, "the buffer")),
        (caps(9, 3, 9), too_large(4, 3, "stage stage")),
        (caps(9, 9, 3), too_large(4, 3, "source a")),
    ] {
        let manager = Manager::new(caps);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        let check = |wait: bool| {
            let batch = || rows("a", 0..4);
            for rejected in [
                at_once(source.send_batch(&stage, batch())),
                source.send_batch_blocking(&stage, batch()),
                source.send_batch_timeout(&stage, batch(), FOR_EVER),
            ] {
                let rejected = rejected.unwrap_err();
                assert_eq!((rejected.accepted, ids(&rejected.records)), (0, vec![0, 1, 2, 3]));
                assert_eq!(rejected.reason, reason, "while others wait: {wait}");
                assert!(!rejected.is_full());
            }
            assert_eq!(at_once(source.reserve(&stage, 4)).unwrap_err(), reason);
            assert!(at_once(source.reserve(&stage, usize::MAX)).is_err());
        };
        check(false);
        source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
        check(false);
        let _other = waiting(source.send(&stage, row("a", 3)));
        check(true);
    }
}

#[test]
fn those_that_wait_with_one_source_are_served_in_the_order_of_their_arrival() {
    for Full { stage, occupied, source, .. } in full_at_each_cap() {
        let mut large = waiting(source.send_batch(&stage, rows("a", 0..3)));
        let mut small: Vec<_> =
            (3..5).map(|id| waiting(source.send(&stage, row("a", id)))).collect();
        // Each time there is room for a small one, which does not overtake.
        for _ in 0..2 {
            take(&occupied, 1).ack();
            assert_eq!((large.wakes(), woken(&small)), (0, 0));
        }
        take(&occupied, 1).ack();
        assert_eq!(woken(&small), 0);
        assert_eq!(large.woken(), Ok(()));
        let mut rest = take(&occupied, 4);
        if occupied.id() == stage.id() {
            // The large one's records are behind the last that was in the way.
            assert_eq!(ids(&rest), [103, 0, 1, 2]);
            drop(rest.split_off(1));
        }
        rest.ack();
        assert_eq!(small[0].woken(), Ok(()));
        assert_eq!(small[1].wakes(), 0);
        take(&stage, 1).ack();
        assert_eq!(small[1].woken(), Ok(()));
        drop((large, small));
        assert_eq!(drain(&stage), [1, 2, 3, 4]);
    }
}

#[test]
fn a_send_that_comes_later_waits_behind_a_larger_one_of_its_source_though_it_would_fit() {
    for Full { stage, occupied, source, .. } in full_at_each_cap() {
        let mut large = waiting(source.send_batch(&stage, rows("a", 0..3)));
        take(&occupied, 1).ack();
        let mut small = waiting(source.send(&stage, row("a", 3)));
        take(&occupied, 2).ack();
        assert_eq!((large.woken(), small.wakes()), (Ok(()), 0));
        take(&occupied, 1).ack();
        assert_eq!(small.woken(), Ok(()));
    }
}

#[test]
fn a_source_that_waits_holds_up_no_other_that_can_go_on() {
    // The first waits for its own cap, for places elsewhere, or for more global credits than are left.
    let (manager, stage, a) = one_of_each(10, 6, 4);
    let (other, b) = (manager.stage("other").unwrap(), manager.source("b").unwrap());
    a.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let own = waiting(a.send(&stage, row("a", 4)));
    at_once(b.send(&stage, row("b", 0))).unwrap();
    drop(own);

    let c = manager.source("c").unwrap();
    let places = waiting(c.send_batch(&stage, rows("c", 0..3)));
    at_once(b.send(&stage, row("b", 1))).unwrap();
    at_once(b.send(&other, row("b", 2))).unwrap();
    drop(places);

    let credits = waiting(c.send_batch(&other, rows("c", 0..4)));
    at_once(b.send(&other, row("b", 3))).unwrap();
    assert_eq!(credits.wakes(), 0);
    drop(credits);
    assert_eq!(manager.remaining().records(), 8);
}

/// Settles one record at a time, in the place of which a small source at once pushes another, until
/// the large request is served. Tells how often that was.
fn crowd(stage: &Stage<Row>, mut small: impl FnMut(), mut large: impl FnMut() -> bool) -> usize {
    for settled in 1..=1_000 {
        take(stage, 1).ack();
        if large() {
            return settled;
        }
        small();
    }
    panic!("the large request starves");
}

#[test]
fn a_large_request_is_not_starved_by_others_that_push_whenever_there_is_room() {
    // At the global cap, and at that of a stage.
    for caps in [caps(8, 20, 20), caps(20, 8, 20)] {
        let manager = Manager::new(caps);
        let stage = manager.stage("stage").unwrap();
        let (large, small) = (manager.source("large").unwrap(), manager.source("small").unwrap());
        small.try_send_batch(&stage, rows("small", 0..8)).unwrap();
        let mut send = waiting(large.send_batch(&stage, rows("large", 0..6)));
        let settled = crowd(
            &stage,
            || drop(small.try_send(&stage, row("small", 8))),
            || send.take_wake() && send.poll().is_some_and(|sent| sent.is_ok()),
        );
        assert!(settled > 6, "at first the others pass it");
        drop(send);
        let seen = drain(&stage);
        assert!(seen.windows(6).any(|ids| ids == [0, 1, 2, 3, 4, 5]), "{seen:?}");
        assert_nothing_is_held(&manager, &[stage], &[large, small]);
    }
}

#[test]
fn a_large_request_is_not_starved_by_small_ones_that_wait() {
    for caps in [caps(8, 20, 20), caps(20, 8, 20)] {
        let manager = Manager::new(caps);
        let stage = manager.stage("stage").unwrap();
        let large = manager.source("large").unwrap();
        let names: Vec<_> = (0..3).map(|n| format!("small-{n}")).collect();
        let small: Vec<_> = names.iter().map(|id| manager.source(id).unwrap()).collect();
        small[0].try_send_batch(&stage, rows("small-0", 0..8)).unwrap();
        let mut queue: Vec<_> =
            small.iter().map(|one| waiting(one.send(&stage, row(one.id(), 8)))).collect();
        let mut send = waiting(large.send_batch(&stage, rows("large", 0..6)));
        crowd(
            &stage,
            || {
                for (waiter, one) in queue.iter_mut().zip(&small) {
                    if waiter.wakes() > 0 {
                        assert_eq!(waiter.done(), Ok(()));
                        *waiter = waiting(one.send(&stage, row(one.id(), 8)));
                    }
                }
            },
            || send.take_wake() && send.poll().is_some_and(|sent| sent.is_ok()),
        );
        // The small ones go on after it.
        drop(send);
        while let Ok(batch) = stage.try_recv_batch(1) {
            batch.ack();
        }
        assert!(queue.iter_mut().all(|waiter| waiter.wakes() > 0 && waiter.done().is_ok()));
        drop(queue);
        drain(&stage);
        assert_eq!(manager.remaining().records(), 0);
    }
}

#[test]
fn one_credit_wakes_one_of_many_that_wait_for_it() {
    for Full { manager, stage, occupied, .. } in full_at_each_cap().into_iter().take(2) {
        let names: Vec<_> = (0..10).map(|n| format!("{n}")).collect();
        let sources: Vec<_> = names.iter().map(|id| manager.source(id).unwrap()).collect();
        let mut sends: Vec<_> =
            sources.iter().map(|one| waiting(one.send(&stage, row(one.id(), 0)))).collect();
        take(&occupied, 1).ack();
        assert_eq!(woken(&sends), 1);
        // The first that came.
        assert_eq!(sends[0].woken(), Ok(()));
        take(&occupied, 3).ack();
        assert_eq!(woken(&sends), 4);
        assert!(sends[1..4].iter_mut().all(|send| send.woken().is_ok()));
        assert!(sends.iter().all(|send| send.wakes() <= 1));
    }
    // Also where they wait with one source.
    for Full { stage, occupied, source, .. } in full_at_each_cap() {
        let sends: Vec<_> = (0..10).map(|id| waiting(source.send(&stage, row("a", id)))).collect();
        take(&occupied, 1).ack();
        assert_eq!((woken(&sends), sends[0].wakes()), (1, 1));
    }
}

#[test]
fn whoever_polled_last_is_woken() {
    let (_manager, stage, source) = one_of_each(9, 9, 1);
    source.try_send(&stage, row("a", 0)).unwrap();
    let mut future = Box::pin(source.send(&stage, row("a", 1)));
    // The same future, polled under two wakers.
    let mut first = Manual::new(&mut future);
    first.waits();
    let first_counter = first.counter();
    drop(first);
    let mut second = Manual::new(&mut future);
    second.waits();
    take(&stage, 1).ack();
    assert_eq!(first_counter.wakes(), 0);
    assert_eq!(second.woken(), Ok(()));
}

/// Gives up a call after `polls` polls, in front of another that waits, with or without room for it;
/// then the other goes on.
fn give_up<T>(start: impl for<'a> Fn(&'a Source<Row>, &'a Stage<Row>) -> Manual<'a, T>) {
    for polls in 0..4 {
        for granted in [false, true] {
            for Full { manager, stage, occupied, source, reason } in full_at_each_cap() {
                let mut fickle = start(&source, &stage);
                (0..polls).for_each(|_| fickle.waits());
                let mut other = waiting(source.send_batch(&stage, rows("a", 1..5)));
                if granted {
                    // Enough for the first; then it is woken, unless it was never polled.
                    take(&occupied, 2).ack();
                    assert_eq!(fickle.wakes(), usize::from(polls > 0), "{reason}");
                }
                drop(fickle);
                other.waits();
                take(&occupied, 4).ack();
                assert_eq!(other.woken(), Ok(()), "{reason} after {polls} polls");
                drop(other);
                assert_eq!(drain(&stage), [1, 2, 3, 4]);
                let all = source.capacity().min(stage.capacity() + 5).min(9);
                assert!(source.available_credits() >= all.min(4));
                assert_nothing_is_held(&manager, &[stage, occupied], &[source]);
            }
        }
    }
}

#[test]
fn a_push_that_is_given_up_at_any_poll_holds_nothing_and_passes_its_turn_on() {
    give_up(|source, stage| Manual::new(source.send(stage, row("a", 0))));
    give_up(|source, stage| Manual::new(source.send_batch(stage, rows("a", 0..2))));
    give_up(|source, stage| Manual::new(source.reserve(stage, 2)));
}

#[test]
fn a_push_that_is_given_up_frees_the_way_for_other_sources() {
    let (manager, stage, a) = one_of_each(4, 9, 9);
    let b = manager.source("b").unwrap();
    b.try_send_batch(&stage, rows("b", 0..4)).unwrap();
    let first = waiting(a.send_batch(&stage, rows("a", 0..2)));
    let mut second = waiting(b.send(&stage, row("b", 4)));
    let mut third = waiting(b.send(&stage, row("b", 5)));
    take(&stage, 2).ack();
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    drop(first);
    assert_eq!(second.woken(), Ok(()));
    assert_eq!(third.woken(), Ok(()));
    drop((second, third));
    assert_eq!(drain(&stage), [2, 3, 4, 5]);
}

#[test]
fn a_request_that_reserves_and_is_given_up_reserves_nothing() {
    for caps in [caps(8, 20, 20), caps(20, 8, 20)] {
        let manager = Manager::new(caps);
        let stage = manager.stage("stage").unwrap();
        let (large, small) = (manager.source("large").unwrap(), manager.source("small").unwrap());
        small.try_send_batch(&stage, rows("small", 0..8)).unwrap();
        let send = waiting(large.send_batch(&stage, rows("large", 0..6)));
        let refused = std::cell::Cell::new(0);
        crowd(
            &stage,
            || {
                let pushed = small.try_send(&stage, row("small", 8));
                refused.set(refused.get() + usize::from(pushed.is_err()));
            },
            || refused.get() == 3,
        );
        let mut other = waiting(small.send_batch(&stage, rows("small", 10..13)));
        drop(send);
        assert_eq!(other.woken(), Ok(()));
        drop(other);
        drain(&stage);
        assert_nothing_is_held(&manager, &[stage], &[large, small]);
    }
}

/// A request that was bypassed so often that it reserves what it needs.
fn reserving<'a>(
    large: &'a Source<Row>,
    small: &Source<Row>,
    stage: &'a Stage<Row>,
    busy: &Stage<Row>,
) -> Manual<'a, Result<(), RejectedBatch<Row>>> {
    let send = waiting(large.send_batch(stage, rows("large", 0..6)));
    let mut refused = 0;
    while refused < 3 {
        take(busy, 1).ack();
        refused += usize::from(small.try_send(busy, row("small", 8)).is_err());
    }
    send
}

#[test]
fn closing_the_stage_of_a_request_that_reserves_lets_others_have_what_it_reserved() {
    let (manager, stage, large) = one_of_each(8, 20, 20);
    let (busy, small) = (manager.stage("busy").unwrap(), manager.source("small").unwrap());
    small.try_send_batch(&busy, rows("small", 0..8)).unwrap();
    let mut send = reserving(&large, &small, &stage, &busy);
    let mut other = waiting(small.send_batch(&busy, rows("small", 10..12)));
    stage.close();
    assert!(send.woken().unwrap_err().is_closed());
    assert_eq!(other.woken(), Ok(()));
}

#[test]
fn closing_the_source_of_a_request_that_reserves_lets_others_have_its_places() {
    let (manager, stage, large) = one_of_each(20, 8, 20);
    let small = manager.source("small").unwrap();
    small.try_send_batch(&stage, rows("small", 0..8)).unwrap();
    let mut send = reserving(&large, &small, &stage, &stage);
    let mut other = waiting(small.send_batch(&stage, rows("small", 10..12)));
    large.close();
    assert!(send.woken().unwrap_err().is_closed());
    assert_eq!(other.woken(), Ok(()));
}

#[test]
fn records_of_a_large_request_keep_their_turn_when_they_are_returned() {
    let (manager, stage, large) = one_of_each(20, 8, 20);
    let small = manager.source("small").unwrap();
    small.try_send_batch(&stage, rows("small", 100..108)).unwrap();
    let mut send = reserving(&large, &small, &stage, &stage);
    let sent = loop {
        if let Some(sent) = send.poll() {
            break sent;
        }
        take(&stage, 1).ack();
    };
    assert_eq!(sent, Ok(()));

    // What is left of the others was admitted before.
    let all = take(&stage, 8);
    let order = ids(&all);
    assert!(order.len() > 6 && order.ends_with(&[0, 1, 2, 3, 4, 5]), "{order:?}");
    let mut older = all;
    let newer = older.split_off(order.len() - 6);
    newer.return_to_buffer();
    older.return_to_buffer();
    assert_eq!(drain(&stage), order);
}

#[test]
fn a_reservation_without_a_release_ends_and_its_request_is_granted_later() {
    let (manager, stage, large) = one_of_each(8, 20, 20);
    let (busy, small) = (manager.stage("busy").unwrap(), manager.source("small").unwrap());
    small.try_send_batch(&busy, rows("small", 0..8)).unwrap();
    let mut send = reserving(&large, &small, &stage, &busy);
    let others_first = RejectReason::OthersFirst { limit: "the buffer".to_owned() };
    assert_eq!(small.try_send(&busy, row("small", 9)).unwrap_err().reason, others_first);

    // The request is not polled meanwhile.
    while small.try_send(&busy, row("small", 9)).is_err() {
        thread::yield_now();
    }
    drain(&busy);
    assert_eq!(send.woken(), Ok(()));
    assert_eq!(stage.len(), 6);
}

#[test]
fn a_send_to_a_closed_stage_does_not_stand_in_line() {
    let (manager, stage, source) = one_of_each(9, 1, 9);
    let closed = manager.stage("closed").unwrap();
    source.try_send(&stage, row("a", 0)).unwrap();
    let _first = waiting(source.send(&stage, row("a", 1)));
    closed.close();
    let rejected = at_once(source.send(&closed, row("a", 2))).unwrap_err();
    assert!(rejected.is_closed());
    assert_eq!(rejected.into_record(), row("a", 2));
}

#[test]
fn a_credit_that_a_parked_letter_held_goes_to_who_waits_though_its_stage_is_gone() {
    let manager = BufferManager::builder(caps(9, 9, 2))
        .max_retries(0)
        .dead_letter_capacity(1)
        .build()
        .unwrap();
    let (gone, stage) = (manager.stage("gone").unwrap(), manager.stage("stage").unwrap());
    let (source, letters) = (manager.source("a").unwrap(), manager.dead_letters());
    source.try_send_batch(&gone, rows("a", 0..2)).unwrap();
    take(&gone, 2).return_to_buffer();
    assert_eq!((letters.len(), letters.parked()), (1, 1));
    source.try_send(&stage, row("a", 2)).unwrap();
    drop((manager, gone));
    let mut send = waiting(source.send(&stage, row("a", 3)));
    assert_eq!(letters.try_recv().unwrap().record.id, 0);
    assert_eq!(send.woken(), Ok(()));
}

#[test]
fn a_close_wakes_every_send_and_hands_the_records_back() {
    let closers: [fn(&Full); 5] = [
        |full| full.manager.close(),
        |full| full.stage.close(),
        |full| full.source.close(),
        |full| {
            // One that is idle, though somebody waits at it.
            if full.manager.remove_stage("stage").is_err() {
                full.stage.close();
            }
        },
        |full| {
            if full.manager.remove_source("a").is_err() {
                full.source.close();
            }
        },
    ];
    for close in closers {
        for full in full_at_each_cap() {
            let Full { manager, stage, occupied, source, reason } = &full;
            let mut one = waiting(source.send(stage, row("a", 0)));
            let mut batch = waiting(source.send_batch(stage, rows("a", 1..3)));
            let mut permit = waiting(source.reserve(stage, 2));
            or_abort("sends that are closed", || {
                thread::scope(|scope| {
                    let thread = scope.spawn(|| source.send_blocking(stage, row("a", 3)));
                    close(&full);
                    let rejected = thread.join().unwrap().unwrap_err();
                    assert_eq!(
                        (rejected.record, rejected.reason),
                        (row("a", 3), RejectReason::Closed)
                    );
                });
            });
            let rejected = one.woken().unwrap_err();
            assert_eq!((rejected.record, rejected.reason), (row("a", 0), RejectReason::Closed));
            let rejected = batch.woken().unwrap_err();
            assert_eq!((rejected.accepted, ids(&rejected.records)), (0, vec![1, 2]), "{reason}");
            assert_eq!(permit.woken().unwrap_err(), RejectReason::Closed);
            // And whoever comes later is refused at once.
            assert!(at_once(source.send(stage, row("a", 0))).unwrap_err().is_closed());
            assert!(at_once(source.reserve(stage, 1)).unwrap_err().is_closed());
            drop((one, batch, permit));
            assert_eq!(drain(occupied), [100, 101, 102, 103]);
            assert_eq!(manager.remaining().records(), 0);
        }
    }
}

#[test]
fn a_closed_name_refuses_pushes_by_name_until_it_is_removed_and_made_anew() {
    let (manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send(&stage, row("a", 0)).unwrap();
    stage.close();
    stage.close();
    assert!(stage.is_closed() && !source.is_closed());
    let push = |row| block_on(manager.buffer_for_stage("stage", row));
    assert!(push(row("a", 1)).unwrap_err().is_closed());
    let rejected = block_on(manager.buffer_batch_for_stage("stage", rows("a", 1..3))).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (0, 2));
    assert!(block_on(manager.return_to_buffer("stage", rows("a", 1..3))).unwrap_err().is_closed());
    assert!(manager.stage("stage").unwrap().is_closed());
    assert!(manager.remove_stage("stage").is_err());
    drain(&stage);
    manager.remove_stage("stage").unwrap();
    push(row("a", 1)).unwrap();
    assert!(!manager.stage("stage").unwrap().is_closed() && stage.is_closed());

    source.close();
    source.close();
    assert!(source.is_closed() && source.available_credits() == 0);
    assert!(push(row("a", 2)).unwrap_err().is_closed());
    assert!(push(row("b", 2)).is_ok());
    assert!(manager.remove_source("a").is_err());
    assert_eq!(drain(&manager.stage("stage").unwrap()), [1, 2]);
    manager.remove_source("a").unwrap();
    push(row("a", 3)).unwrap();
    let anew = manager.source("a").unwrap();
    assert!(!anew.is_closed() && source.is_closed());
    assert_eq!(anew.available_credits(), 8);
}

#[test]
fn a_stage_of_another_buffer_is_refused_at_once() {
    let (_manager, _, source) = one_of_each(9, 9, 9);
    let (_other, stage, _) = one_of_each(9, 9, 9);
    let reason = RejectReason::ForeignStage { stage_id: "stage".into() };
    assert_eq!(at_once(source.send(&stage, row("a", 0))).unwrap_err().reason, reason);
    assert_eq!(source.send_blocking(&stage, row("a", 0)).unwrap_err().reason, reason);
    assert_eq!(at_once(source.reserve(&stage, 1)).unwrap_err(), reason);
}

#[test]
fn a_permit_holds_what_it_is_for_until_it_is_used_or_dropped() {
    let (manager, stage, source) = one_of_each(9, 9, 4);
    let permit = at_once(source.reserve(&stage, 0)).unwrap();
    assert_eq!(permit.len(), 1);
    drop(permit);
    let permit = at_once(source.reserve(&stage, 3)).unwrap();
    assert_eq!((permit.len(), source.available_credits()), (3, 1));
    let mut send = waiting(source.send_batch(&stage, rows("a", 0..4)));
    drop(permit);
    assert_eq!(send.woken(), Ok(()));
    let mut reserve = waiting(source.reserve(&stage, 2));
    take(&stage, 4).ack();
    let permit = reserve.woken().unwrap();
    // What is pushed below is in nobody's way.
    let mut next = waiting(source.send_batch(&stage, rows("a", 5..8)));
    permit.send(row("a", 4));
    assert_eq!(next.woken(), Ok(()));
    assert_eq!(drain(&stage), [4, 5, 6, 7]);

    let permit = at_once(source.reserve(&stage, 2)).unwrap();
    let last = at_once(source.reserve(&stage, 1)).unwrap();
    let unused = at_once(source.reserve(&stage, 1)).unwrap();
    manager.close();
    assert_eq!(ids(&permit.send_batch(rows("a", 0..3)).unwrap_err()), [2]);
    last.send(row("a", 9));
    assert_eq!(drain(&stage), [0, 1, 9]);
    let mut worker = waiting(stage.recv_batch(1));
    drop(unused);
    assert!(worker.woken().is_err());
    drop((send, reserve, next, worker));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_waiting_push_of_one_source_keeps_the_order_of_its_records() {
    let (_manager, stage, source) = one_of_each(20, 20, 2);
    let mut sends: Vec<_> = Vec::new();
    let mut seen = Vec::new();
    for id in 0..20 {
        sends.push(Manual::new(source.send(&stage, row("a", id))));
        let last = sends.len() - 1;
        let _ = sends[last].poll();
    }
    while let Ok(batch) = stage.try_recv_batch(1) {
        seen.extend(ids(&batch));
        batch.ack();
        for send in sends.iter_mut().filter(|send| send.take_wake()) {
            assert_eq!(send.done(), Ok(()));
        }
    }
    assert!(seen.iter().copied().eq(0..20), "{seen:?}");
}
