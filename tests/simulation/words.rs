//! How many atomic read-modify-writes each call makes, by word: what more cores will pay. The table of
//! `BENCHMARKS.md` has these numbers.

use std::collections::BTreeMap;

use crate::api::{BufferManager, BufferSettings, Source, Stage};
use crate::record::Record;
use crate::sync::{Write, writes_of};

type Item = Record<u32>;

/// The records of a batch.
const BATCH: usize = 100;

/// One stage and one source, warm: the account has leased ahead.
struct Warm {
    stage: Stage<Item>,
    source: Source<Item>,
}

/// The number of read-modify-writes, by word.
type Words = BTreeMap<&'static str, usize>;

impl Warm {
    fn new() -> Self {
        let manager = BufferManager::new(BufferSettings::default());
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        // They outlive the manager.
        let warm = Self { stage, source };
        warm.push(BATCH);
        warm.take(BATCH);
        warm
    }

    fn push(&self, records: usize) {
        self.source.try_send_batch(&self.stage, items(records)).unwrap();
    }

    fn take(&self, max: usize) {
        self.stage.try_recv_batch(max).unwrap().ack();
    }

    /// The read-modify-writes of a call, by the word that they write.
    fn words_of(&self, work: impl FnOnce()) -> Words {
        let (places, account) = (self.stage.core().places(), self.source.core().account());
        let ledger = self.source.core().admission().ledger();
        let mut words = Words::new();
        for write in writes_of(work) {
            let word = match write {
                Write::RingTail => "ring tail",
                Write::RingHead => "ring head",
                Write::Lock => "lock",
                Write::Word(at) if is_in(at, places) || is_in(at, &**places.tally()) => "places",
                Write::Word(at) if is_in(at, account) => "account",
                Write::Word(at) if is_in(at, ledger) => "pool",
                Write::Word(at) if is_in(at, &**self.source.core()) => "source",
                Write::Word(_) => "other",
            };
            *words.entry(word).or_default() += 1;
        }
        words
    }
}

/// Whether an address is one of a value's.
fn is_in<T>(at: usize, value: &T) -> bool {
    let from = std::ptr::from_ref(value).addr();
    (from..from + size_of::<T>()).contains(&at)
}

fn items(records: usize) -> Vec<Item> {
    (0..records).map(|_| Record::new(0)).collect()
}

fn sum(words: &Words) -> usize {
    words.values().sum()
}

fn is(words: Words, expected: &[(&'static str, usize)]) {
    assert_eq!(words, expected.iter().copied().collect::<Words>());
}

#[test]
fn a_push_by_the_shared_handle_writes_three_words_and_its_count() {
    let warm = Warm::new();
    let push = warm.words_of(|| warm.source.try_send(&warm.stage, Record::new(0)).unwrap());
    is(push, &[("account", 1), ("places", 1), ("ring tail", 1), ("source", 1)]);
    let mut batch = None;
    let take = warm.words_of(|| batch = warm.stage.try_recv_batch(1).ok());
    is(take, &[("ring head", 1)]);
    let ack = warm.words_of(|| batch.unwrap().ack());
    is(ack, &[("account", 1), ("places", 1)]);
}

#[test]
fn a_batch_of_100_writes_less_than_a_tenth_of_a_word_for_each_record() {
    let warm = Warm::new();
    let records = items(BATCH);
    let push = warm.words_of(|| warm.source.try_send_batch(&warm.stage, records).unwrap());
    is(push.clone(), &[("account", 1), ("places", 2), ("ring tail", 1), ("source", 1)]);
    let mut batch = None;
    let take = warm.words_of(|| batch = warm.stage.try_recv_batch(BATCH).ok());
    is(take.clone(), &[("ring head", 1), ("places", 1)]);
    let ack = warm.words_of(|| batch.unwrap().ack());
    is(ack.clone(), &[("account", 1), ("places", 1)]);
    assert!(sum(&push) + sum(&take) + sum(&ack) < BATCH / 10);
}

#[test]
fn a_record_of_a_producer_writes_a_tenth_of_a_word_at_most() {
    let warm = Warm::new();
    let mut producer = warm.source.producer(&warm.stage);
    // The blocks grow to what workers ask for.
    for _ in 0..10 * BATCH {
        producer.try_send(Record::new(0)).unwrap();
    }
    let blocks = 10;
    let words = warm.words_of(|| {
        for _ in 0..blocks * BATCH {
            producer.try_send(Record::new(0)).unwrap();
        }
    });
    assert!(words["ring tail"] <= blocks + 1, "{words:?}");
    assert!(sum(&words) <= blocks * BATCH / 10, "{words:?}");
}

#[test]
fn a_refusal_writes_the_counts_of_refusals_alone() {
    let warm = Warm::new();
    while warm.source.try_send(&warm.stage, Record::new(0)).is_ok() {}
    let refused =
        warm.words_of(|| assert!(warm.source.try_send(&warm.stage, Record::new(0)).is_err()));
    is(refused, &[("account", 1), ("places", 1)]);
}
