//! The stand-ins of `sync.rs`, held against what they stand in for: the same answers to the same
//! calls, by one thread.

use std::sync::Arc;

use crate::sync;

/// A small generator of numbers, for the order of the calls.
pub(crate) fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// loom's locks work within a model only; with one thread, that is one execution.
pub(crate) fn in_one_thread(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.check(test);
}

#[test]
fn the_bounded_queue_answers_as_the_real_one() {
    in_one_thread(|| {
        for capacity in 1..=4 {
            let (ours, real) =
                (sync::ArrayQueue::new(capacity), crossbeam_queue::ArrayQueue::new(capacity));
            let mut number = numbers(capacity as u64);
            for value in 0..300 {
                if number(2) == 0 {
                    assert_eq!(ours.push(value), real.push(value));
                } else {
                    assert_eq!(ours.pop(), real.pop());
                }
                assert_eq!(ours.len(), real.len());
            }
        }
    });
}

#[test]
fn the_arena_answers_as_the_real_one() {
    in_one_thread(|| {
        let (ours, real) = (sync::Arena::new(), boxcar::Vec::new());
        for value in 0..5 {
            assert_eq!(ours.push(value), real.push(value));
        }
        for index in 0..8 {
            assert_eq!(ours.get(index), real.get(index));
        }
        assert!(ours.iter().eq(real.iter()));
        assert_eq!(ours.count(), real.count());
    });
}

#[test]
fn the_map_answers_as_the_real_one() {
    in_one_thread(|| {
        let (ours, real) = (sync::Map::default(), papaya::HashMap::<Arc<str>, u64>::new());
        let names = ["a", "b", "c"];
        let mut number = numbers(3);
        let mut inserted = 0;
        for _ in 0..60 {
            let name = names[number(3) as usize];
            // The stand-in has room for a few insertions only.
            if inserted < 8 && number(3) == 0 {
                ours.pin().insert(name.into(), inserted);
                real.pin().insert(Arc::from(name), inserted);
                inserted += 1;
            } else if number(2) == 0 {
                ours.remove(name);
                real.pin().remove(name);
            }
            for name in names {
                assert_eq!(ours.pin().get(name), real.pin().get(name));
            }
            let (mut left, mut right): (Vec<_>, Vec<_>) =
                (ours.pin().values(), real.pin().values().copied().collect());
            left.sort_unstable();
            right.sort_unstable();
            assert_eq!(left, right);
        }
        assert_eq!(inserted, 8, "all of them were inserted");
    });
}
