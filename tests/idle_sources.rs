//! Sources that hold nothing, and give their places to new names.

mod common;

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use conveyor_buffer::RejectReason;

use common::waiting::*;
use common::*;

/// A manager with room for two sources, of which one gives its place when it has held nothing so long.
fn two_sources(after: Duration) -> Manager {
    Manager::builder(caps(100, 100, 10)).max_sources(2).idle_sources(after).build().unwrap()
}

fn push(manager: &Manager, source: &'static str) -> Result<(), RejectReason> {
    let pushed = block_on(manager.buffer_for_stage("s", row(source, 0)));
    pushed.map_err(|rejected| rejected.reason)
}

fn names(manager: &Manager) -> Vec<String> {
    manager.stats().sources.into_iter().map(|source| source.id.to_string()).collect()
}

const NO_PLACE: Result<(), RejectReason> = Err(RejectReason::TooManySources { max: 2 });

#[test]
fn ever_new_names_take_the_places_of_sources_that_hold_nothing() {
    let manager = two_sources(Duration::ZERO);
    let stage = manager.stage("s").unwrap();
    for n in 0..5_000 {
        let name = format!("session {n}");
        block_on(manager.buffer_for_stage("s", row(&name, n))).unwrap();
        assert_eq!(drain(&stage).len(), 1);
        assert!(manager.stats().sources.len() <= 2);
    }
    assert_eq!(manager.len(), 0);
}

#[test]
fn a_source_gives_its_place_when_it_has_held_nothing_for_long_enough() {
    let after = Duration::from_millis(200);
    let manager = two_sources(after);
    let stage = manager.stage("s").unwrap();
    push(&manager, "a").unwrap();
    push(&manager, "b").unwrap();
    let mut batches = stage.try_recv_batch(2).unwrap().into_singles();
    let (of_a, of_b) = (batches.next().unwrap(), batches.next().unwrap());
    let start = Instant::now();
    of_a.ack();
    let emptied = Instant::now();
    while push(&manager, "c") == NO_PLACE {
        assert!(emptied.elapsed() < after + Duration::from_secs(10), "it waits for ever");
        thread::sleep(after / 50);
    }
    assert!(start.elapsed() >= after, "not long enough");
    // "b" has held a record for as long.
    assert_eq!(names(&manager), ["b", "c"]);
    let settled = Instant::now();
    of_b.ack();
    if push(&manager, "d") != NO_PLACE {
        assert!(settled.elapsed() >= after, "it held a record a moment ago");
    }
}

#[test]
fn a_source_that_is_in_use_keeps_its_place() {
    type Use = Box<dyn Fn(&Manager) -> Box<dyn Any>>;
    let stage = |manager: &Manager| manager.stage("s").unwrap();
    let source = |manager: &Manager| manager.source("a").unwrap();
    let uses: [(&str, Use); 6] = [
        ("a handle", Box::new(move |manager| Box::new(source(manager)))),
        ("a producer", Box::new(move |m| Box::new(source(m).producer(&stage(m))))),
        ("a permit", Box::new(move |m| Box::new(source(m).try_reserve(&stage(m), 1).unwrap()))),
        ("its signals", Box::new(move |manager| Box::new(source(manager).signals()))),
        (
            "a batch",
            Box::new(move |manager| {
                push(manager, "a").unwrap();
                Box::new(stage(manager).try_recv_batch(1).unwrap())
            }),
        ),
        (
            "a request that waits",
            Box::new(move |manager| {
                let (source, stage) = (source(manager), stage(manager));
                source.set_capacity(1).unwrap();
                let permit = source.try_reserve(&stage, 1).unwrap();
                let send = async move { _ = source.send(&stage, row("a", 1)).await };
                Box::new((permit, waiting(send)))
            }),
        ),
    ];
    for (what, make) in uses {
        let manager = two_sources(Duration::ZERO);
        push(&manager, "b").unwrap();
        let in_use = make(&manager);
        assert_eq!(push(&manager, "c"), NO_PLACE, "{what}");
        assert_eq!(names(&manager), ["a", "b"]);
        drop(in_use);
        drain(&stage(&manager));
        push(&manager, "c").unwrap_or_else(|reason| panic!("{what}: {reason}"));
    }
}

#[test]
fn a_source_that_gave_its_place_is_made_anew() {
    let manager = two_sources(Duration::ZERO);
    let old = manager.source("a").unwrap();
    old.set_capacity(3).unwrap();
    old.close();
    drop(old);
    manager.source("b").unwrap();
    assert_eq!(push(&manager, "a"), Err(RejectReason::Closed), "it still has its place");
    push(&manager, "c").unwrap();
    push(&manager, "a").unwrap();
    assert_eq!(names(&manager), ["a", "c"]);
    assert_eq!(manager.source("a").unwrap().capacity(), 10);
}

#[test]
fn names_that_are_refused_take_no_place() {
    let manager = Manager::builder(caps(100, 100, 10))
        .max_sources(2)
        .max_stages(1)
        .source_guarantee("quiet", 5)
        .idle_sources(Duration::ZERO)
        .build()
        .unwrap();
    manager.stage("s").unwrap();
    manager.source("a").unwrap();
    manager.source("quiet").unwrap();
    let rejected = block_on(manager.buffer_for_stage("other", row("b", 0))).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::TooManyStages { max: 1 });
    assert_eq!(names(&manager), ["a", "quiet"]);
    // The guarantee keeps its place.
    push(&manager, "b").unwrap();
    assert_eq!(names(&manager), ["b", "quiet"]);
    assert_eq!(push(&manager, "c"), NO_PLACE);
    manager.close();
    drain(&manager.stage("s").unwrap());
    assert_eq!(push(&manager, "c"), Err(RejectReason::Closed));
}

#[test]
fn many_names_at_once_share_few_places_and_no_record_is_lost() {
    let manager = Manager::builder(caps(1_000, 1_000, 10))
        .max_sources(3)
        .idle_sources(Duration::ZERO)
        .build()
        .unwrap();
    let stage = manager.stage("s").unwrap();
    let accepted = AtomicUsize::new(0);
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..4 {
            let (manager, stage, accepted, taken) = (&manager, &stage, &accepted, &taken);
            scope.spawn(move || {
                for id in 0..2_000 {
                    let name = format!("{n} {}", id % 7);
                    match block_on(manager.buffer_for_stage("s", row(&name, id))) {
                        Ok(()) => _ = accepted.fetch_add(1, SeqCst),
                        Err(rejected) => {
                            let full = RejectReason::TooManySources { max: 3 };
                            assert_eq!(rejected.reason, full);
                        }
                    }
                    taken.fetch_add(drain(stage).len(), SeqCst);
                }
            });
        }
    });
    taken.fetch_add(drain(&stage).len(), SeqCst);
    assert_eq!(accepted.load(SeqCst), taken.load(SeqCst));
    assert!(accepted.load(SeqCst) > 2_000);
    assert!(names(&manager).len() <= 3);
    assert_eq!(manager.len(), 0);
}
