//! Byte budgets: memory stays within them, refusals name them, calls wait for them, and every byte is
//! given back once.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use conveyor_buffer::{
    BackpressureSignal, Batch, BufferManager, BufferSettings, Envelope, Outcome, RejectReason,
    SettingsError, Source, Stage,
};

use common::{Rng, block_on, caps, panic_message};

/// The bytes of all blobs that exist.
type Memory = AtomicUsize;

/// A record of a size of its own, whose memory is counted as long as it lives.
struct Blob {
    bytes: usize,
    retries: u32,
    source: &'static str,
    memory: Arc<Memory>,
    panics: bool,
}

impl Blob {
    fn new(bytes: usize) -> Self {
        Self::counted(&Arc::default(), bytes)
    }

    fn of(source: &'static str, bytes: usize) -> Self {
        let mut blob = Self::new(bytes);
        blob.source = source;
        blob
    }

    fn counted(memory: &Arc<Memory>, bytes: usize) -> Self {
        memory.fetch_add(bytes, SeqCst);
        Self { bytes, retries: 0, source: "a", memory: Arc::clone(memory), panics: false }
    }

    fn that_panics(bytes: usize) -> Self {
        let mut blob = Self::new(bytes);
        blob.panics = true;
        blob
    }

    fn resize(&mut self, bytes: usize) {
        self.memory.fetch_sub(self.bytes, SeqCst);
        self.memory.fetch_add(bytes, SeqCst);
        self.bytes = bytes;
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.memory.fetch_sub(self.bytes, SeqCst);
    }
}

impl Envelope for Blob {
    fn source_id(&self) -> &str {
        self.source
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries += 1;
    }

    fn size_bytes(&self) -> usize {
        assert!(!self.panics, "the size of a record panics");
        self.bytes
    }
}

type Manager = BufferManager<Blob>;

fn build(total: Option<usize>, per_source: Option<usize>) -> Manager {
    built(BufferSettings::default(), total, per_source)
}

fn built(settings: BufferSettings, total: Option<usize>, per_source: Option<usize>) -> Manager {
    let mut builder = Manager::builder(settings).max_retries(1).dead_letter_capacity(1);
    if let Some(bytes) = total {
        builder = builder.max_total_bytes(bytes);
    }
    if let Some(bytes) = per_source {
        builder = builder.max_source_bytes(bytes);
    }
    builder.build().unwrap()
}

fn handles(manager: &Manager) -> (Stage<Blob>, Source<Blob>) {
    (manager.stage("stage").unwrap(), manager.source("a").unwrap())
}

fn one_of_each(total: usize) -> (Manager, Stage<Blob>, Source<Blob>) {
    let manager = build(Some(total), None);
    let (stage, source) = handles(&manager);
    (manager, stage, source)
}

fn blobs(sizes: &[usize]) -> Vec<Blob> {
    sizes.iter().map(|&bytes| Blob::new(bytes)).collect()
}

fn take(stage: &Stage<Blob>, max: usize) -> Batch<Blob> {
    stage.try_recv_batch(max).expect("records wait")
}

fn global_full(held: usize, capacity: usize, wanted: usize) -> RejectReason {
    RejectReason::GlobalBytesFull { held, capacity, wanted }
}

fn source_full(source_id: &str, held: usize, capacity: usize, wanted: usize) -> RejectReason {
    RejectReason::SourceBytesFull { source_id: source_id.into(), held, capacity, wanted }
}

fn too_large(records: usize, capacity: usize, limit: &str) -> RejectReason {
    RejectReason::TooLarge { records, capacity, limit: limit.to_owned() }
}

const OF_THE_BUFFER: &str = "the byte budget of the buffer";
const OF_A: &str = "the byte budget of source a";

/// Nothing is held, and one source can have the whole budget.
fn assert_all_is_given_back(manager: &Manager) {
    assert_eq!((manager.len(), manager.held_bytes()), (0, 0));
    let stats = manager.stats();
    assert!(stats.sources.iter().all(|source| source.bytes.unwrap().held == 0), "{stats}");
    let (stage, source) = (manager.stage("last").unwrap(), manager.source("last").unwrap());
    let budget = stats.bytes.unwrap().capacity.min(source_budget(&source, manager));
    source.try_send(&stage, Blob::new(budget)).map_err(|rejected| rejected.reason).unwrap();
    assert_eq!((source.held_bytes(), manager.held_bytes()), (budget, budget));
    take(&stage, 1).ack();
    assert_eq!((source.held_bytes(), manager.held_bytes()), (0, 0));
}

fn source_budget(source: &Source<Blob>, manager: &Manager) -> usize {
    let sources = manager.stats().sources;
    let own = sources.into_iter().find(|stats| stats.id == source.id()).unwrap();
    own.bytes.unwrap().capacity
}

#[test]
fn memory_stays_within_the_budgets_while_records_of_mixed_sizes_come_and_go() {
    const TOTAL: usize = 1 << 20;
    const PER_SOURCE: usize = 600_000;
    const RECORDS: usize = 4_000;
    // What the three threads that push may have in hand beside what the buffer holds.
    const IN_HAND: usize = 3 * 8 * 6_000;
    let manager = build(Some(TOTAL), Some(PER_SOURCE));
    let (first, second) = (manager.stage("first").unwrap(), manager.stage("second").unwrap());
    let memory: Arc<Memory> = Arc::default();
    let done = AtomicBool::new(false);
    let push = |name: &str, seed| {
        let source = manager.source(name).unwrap();
        let mut rng = Rng::new(seed);
        let mut blob = |most| Blob::counted(&memory, 1 + rng.below(most));
        let mut producer = source.producer(&first);
        for turn in 0..RECORDS {
            match turn % 4 {
                0 => assert!(producer.send_blocking(blob(6_000)).is_ok()),
                1 => assert!(source.send_blocking(&first, blob(48_000)).is_ok()),
                2 => {
                    let batch = (0..8).map(|_| blob(2_000)).collect();
                    assert!(source.send_batch_blocking(&first, batch).is_ok());
                }
                _ => {
                    let batch = (0..8).map(|_| blob(6_000)).collect();
                    if let Err(rejected) = source.try_send_batch(&first, batch) {
                        assert!(rejected.is_full(), "{rejected:?}");
                    }
                }
            }
        }
    };
    let work = |seed| {
        let mut rng = Rng::new(seed);
        while let Ok(mut batch) = first.recv_batch_blocking(1 + rng.below(20)) {
            for blob in &mut batch {
                let bytes = blob.bytes * (1 + rng.below(100)) / 100;
                blob.resize(bytes);
            }
            match rng.below(4) {
                0 => batch.forward_blocking(&second).unwrap(),
                1 => drop(batch.return_to_buffer()),
                2 => drop(batch.settle(|_| Outcome::Requeue)),
                _ => batch.ack(),
            }
        }
    };
    let watch = || {
        let mut highest = 0;
        while !done.load(SeqCst) {
            let held = manager.held_bytes();
            assert!(held <= TOTAL, "{held} bytes of {TOTAL}");
            highest = highest.max(held);
            let live = memory.load(SeqCst);
            assert!(live <= TOTAL + IN_HAND, "{live} bytes of memory");
            for source in &manager.stats().sources {
                let bytes = source.bytes.unwrap();
                assert!(bytes.held <= PER_SOURCE, "{bytes:?}");
            }
        }
        highest
    };
    thread::scope(|scope| {
        let pushers = [("a", 1), ("b", 2), ("c", 3)].map(|(name, seed)| {
            let push = &push;
            scope.spawn(move || push(name, seed))
        });
        for seed in [4, 5] {
            let work = &work;
            scope.spawn(move || work(seed));
        }
        scope.spawn(|| {
            while let Ok(batch) = second.recv_batch_blocking(7) {
                drop(batch.into_records());
            }
        });
        scope.spawn(|| {
            // Letters are parked meanwhile, and keep their bytes.
            while manager.dead_letters().recv_blocking().is_ok() {
                thread::yield_now();
            }
        });
        let watcher = scope.spawn(watch);
        let ended = pushers.map(|pusher| pusher.join());
        manager.close();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !manager.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        done.store(true, SeqCst);
        let highest = watcher.join().unwrap();
        assert!(ended.iter().all(Result::is_ok));
        assert!(highest > TOTAL / 2, "only {highest} bytes were ever held");
    });
    assert_eq!((manager.len(), manager.held_bytes(), memory.load(SeqCst)), (0, 0, 0));
}

#[test]
fn a_refusal_names_the_budget_with_its_bytes_and_hands_the_record_back() {
    let manager = build(Some(1_024), Some(640));
    let (stage, a) = handles(&manager);
    let b = manager.source("b").unwrap();
    a.try_send(&stage, Blob::new(500)).unwrap();
    let rejected = a.try_send(&stage, Blob::new(130)).unwrap_err();
    assert_eq!(rejected.reason, source_full("a", 512, 640, 192));
    assert_eq!(rejected.record.bytes, 130);
    b.try_send(&stage, Blob::new(448)).unwrap();
    // 64 bytes are left.
    assert_eq!((a.capacity_for(&stage), b.capacity_for(&stage)), (1, 1));
    assert_eq!(b.try_send(&stage, Blob::new(65)).unwrap_err().reason, global_full(960, 1_024, 128));
    b.try_send(&stage, Blob::new(1)).unwrap();
    assert_eq!(b.try_send(&stage, Blob::new(0)).unwrap_err().reason, global_full(1_024, 1_024, 64));
    assert_eq!((a.held_bytes(), b.held_bytes(), manager.held_bytes()), (512, 512, 1_024));
    // Refused records hold nothing.
    assert_eq!((stage.len(), a.len(), b.len(), manager.len()), (3, 1, 2, 3));
    take(&stage, 10).ack();
    assert_all_is_given_back(&manager);
}

#[test]
fn a_record_or_a_whole_batch_above_a_budget_is_refused_at_once() {
    let manager = build(Some(1_024), Some(640));
    let (stage, source) = handles(&manager);
    let own = |records| too_large(records, 640, OF_A);
    assert_eq!(source.try_send(&stage, Blob::new(641)).unwrap_err().reason, own(1));
    assert_eq!(block_on(source.send(&stage, Blob::new(641))).unwrap_err().reason, own(1));
    let rejected = source.send_timeout(&stage, Blob::new(9_999), Duration::ZERO).unwrap_err();
    assert_eq!(rejected.reason, own(1));
    assert!(!rejected.is_full());
    let rejected = block_on(source.send_batch(&stage, blobs(&[320, 320, 1]))).unwrap_err();
    assert_eq!((rejected.records.len(), rejected.reason), (3, own(3)));
    assert_eq!(source.producer(&stage).try_send(Blob::new(700)).unwrap_err().reason, own(1));
    assert_eq!(source.force_send(&stage, Blob::new(700), |_| ()).unwrap_err().reason, own(1));
    assert_eq!(source.try_reserve_bytes(&stage, 1, 700).unwrap_err(), own(1));
    assert_eq!(
        block_on(manager.buffer_for_stage("stage", Blob::new(700))).unwrap_err().reason,
        own(1)
    );
    // A batch without waiting is accepted up to the record that is too large.
    let rejected = source.try_send_batch(&stage, blobs(&[64, 64, 641, 64])).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (2, 2));
    assert_eq!(rejected.reason, own(1));
    take(&stage, 10).ack();
    assert_all_is_given_back(&manager);

    // The global budget alone, and one above it.
    let manager = build(Some(128), Some(1_024));
    let (stage, source) = handles(&manager);
    let reason = source.try_send(&stage, Blob::new(129)).unwrap_err().reason;
    assert_eq!(reason, too_large(1, 128, OF_THE_BUFFER));
    let manager = build(None, Some(64));
    let (stage, source) = handles(&manager);
    let reason = source.try_send(&stage, Blob::new(usize::MAX)).unwrap_err().reason;
    assert!(matches!(reason, RejectReason::TooLarge { capacity: 64, .. }), "{reason}");
    assert!(!reason.to_string().contains(OF_THE_BUFFER));
}

#[test]
fn a_batch_without_waiting_is_accepted_as_far_as_its_bytes_fit() {
    let (manager, stage, source) = one_of_each(1_024);
    let rejected = source.try_send_batch(&stage, blobs(&[64, 640, 128, 256, 64])).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (3, 2));
    assert_eq!(rejected.reason, global_full(832, 1_024, 256));
    assert_eq!(manager.held_bytes(), 832);
    // The records of another source count in the same way by name.
    let mut records = blobs(&[64]);
    records.extend([Blob::of("b", 64), Blob::of("b", 128)]);
    let rejected = block_on(manager.buffer_batch_for_stage("stage", records)).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (2, 1));
    assert_eq!(rejected.reason, global_full(960, 1_024, 128));
    let batch = take(&stage, 10);
    let sizes: Vec<_> = batch.iter().map(|blob| blob.bytes).collect();
    assert_eq!(sizes, [64, 640, 128, 64, 64]);
    batch.ack();
    assert_all_is_given_back(&manager);
}

#[test]
fn each_way_to_settle_gives_back_what_was_charged() {
    let (manager, stage, source) = one_of_each(1 << 20);
    let sizes = [100, 64, 1, 5_000, 5_000, 200];
    let charged = [128, 64, 64, 5_056, 5_056, 256];
    let push = || source.try_send_batch(&stage, blobs(&sizes)).unwrap();
    let sum = |parts: &[usize]| parts.iter().sum::<usize>();

    // Parts of a batch, and cut blocks.
    push();
    let mut left = sum(&charged);
    assert_eq!(manager.held_bytes(), left);
    for (max, part) in [(1, 0..1), (2, 1..3), (3, 3..6)] {
        take(&stage, max).ack();
        left -= sum(&charged[part]);
        assert_eq!((manager.held_bytes(), source.held_bytes()), (left, left));
    }
    push();
    let mut front = take(&stage, 10);
    let mut back = front.split_off(3);
    let end = back.split_off(1);
    front.ack();
    assert_eq!(manager.held_bytes(), sum(&charged[3..]));
    let (big, small) = end.partition(|blob| blob.bytes > 1_000);
    small.ack();
    assert_eq!(manager.held_bytes(), sum(&charged[3..5]));
    drop(big.into_records());
    assert_eq!(manager.held_bytes(), charged[3]);
    back.ack();
    assert_eq!(manager.held_bytes(), 0);

    push();
    for (single, charge) in take(&stage, 10).into_singles().zip(charged) {
        let before = manager.held_bytes();
        single.ack();
        assert_eq!(manager.held_bytes(), before - charge);
    }
    // Handed out by name, and evicted.
    push();
    assert_eq!(block_on(manager.get_batch("stage", 2)).len(), 2);
    assert_eq!(manager.held_bytes(), sum(&charged[2..]));
    let returned = block_on(manager.return_to_buffer("stage", blobs(&[100, 300])));
    assert_eq!(returned.unwrap(), 2);
    assert_eq!(manager.held_bytes(), sum(&charged[2..]) + 128 + 320);
    take(&stage, 10).ack();
    // A mix of outcomes.
    push();
    let mut seen = 0;
    take(&stage, 10).settle(|_| {
        seen += 1;
        match seen {
            1 => Outcome::Ack,
            2 => Outcome::Return,
            3 => Outcome::Requeue,
            4 => Outcome::ReturnAfter(Duration::from_secs(3_600)),
            _ => Outcome::DeadLetter,
        }
    });
    // One letter holds nothing; the other is parked and keeps its bytes.
    assert_eq!(manager.held_bytes(), sum(&charged[1..4]) + charged[5]);
    assert_eq!(manager.dead_letters().parked(), 1);
    drop(manager.dead_letters().try_recv().unwrap());
    assert_eq!(manager.held_bytes(), sum(&charged[1..4]));
    drop(manager.dead_letters().try_recv().unwrap());
    take(&stage, 10).ack();
    assert_eq!(manager.held_bytes(), charged[3]);
    drop(stage);
    manager.stage("stage").unwrap().close();
    assert_eq!(source.held_bytes(), charged[3]);
}

#[test]
fn an_evicted_record_gives_its_bytes_back_and_bytes_evict_none() {
    let settings = caps(100, 2, 100);
    let manager = built(settings, Some(1_024), None);
    let (stage, source) = handles(&manager);
    for bytes in [512, 64, 448] {
        source.force_send(&stage, Blob::new(bytes), drop).unwrap();
    }
    assert_eq!((stage.len(), manager.held_bytes()), (2, 512));
    take(&stage, 1).ack();
    let reason =
        source.force_send(&stage, Blob::new(640), |_| panic!("evicted")).unwrap_err().reason;
    assert_eq!(reason, global_full(448, 1_024, 640));
}

#[test]
fn a_forward_and_a_return_measure_again() {
    let (manager, stage, source) = one_of_each(4_096);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, blobs(&[1_024, 1_024, 64])).unwrap();
    let mut batch = take(&stage, 10);
    for (blob, bytes) in batch.iter_mut().zip([64, 2_000, 64]) {
        blob.resize(bytes);
    }
    // What a worker does is charged when the record goes back or on.
    assert_eq!(manager.held_bytes(), 2_112);
    batch.return_to_buffer();
    assert_eq!(manager.held_bytes(), 64 + 2_048 + 64);
    let mut batch = take(&stage, 10);
    batch.iter_mut().for_each(|blob| blob.resize(256));
    batch.requeue();
    assert_eq!(manager.held_bytes(), 3 * 256);
    let mut batch = take(&stage, 10);
    batch.iter_mut().for_each(|blob| blob.resize(128));
    batch.try_forward(&next).unwrap();
    assert_eq!((manager.held_bytes(), next.len()), (3 * 128, 3));
    // Different charges travel in one block, and each is given back with its record.
    let mut batch = take(&next, 10);
    for (blob, bytes) in batch.iter_mut().zip([64, 640, 1_280]) {
        blob.resize(bytes);
    }
    block_on(batch.forward(&stage)).unwrap();
    for left in [640 + 1_280, 1_280, 0] {
        take(&stage, 1).ack();
        assert_eq!(manager.held_bytes(), left);
    }
    assert_all_is_given_back(&manager);
}

#[test]
fn a_record_that_grows_is_charged_no_more_than_the_budget_leaves() {
    let (manager, stage, source) = one_of_each(1_024);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, blobs(&[512, 256])).unwrap();
    let mut batch = take(&stage, 10);
    batch.iter_mut().for_each(|blob| blob.resize(640));
    batch.forward_blocking(&next).unwrap();
    // 256 bytes were free: 128 for the first record, and the rest for the second.
    assert_eq!(manager.held_bytes(), 1_024);
    take(&next, 1).ack();
    assert_eq!(manager.held_bytes(), 384);
    // It is measured again, and there is room now.
    take(&next, 1).return_to_buffer();
    assert_eq!(manager.held_bytes(), 640);
    // After a close nothing more is charged, and records still go on and back.
    manager.close();
    let mut batch = take(&next, 1);
    batch.iter_mut().for_each(|blob| blob.resize(1_000));
    batch.forward_blocking(&stage).unwrap();
    assert_eq!(manager.held_bytes(), 640);
    take(&stage, 1).ack();
    assert_eq!((manager.held_bytes(), source.held_bytes()), (0, 0));
}

#[test]
fn a_size_that_panics_leaves_exact_counts() {
    let (manager, stage, source) = one_of_each(1_024);
    let expected = "the size of a record panics";
    assert_eq!(panic_message(|| source.try_send(&stage, Blob::that_panics(64))), expected);
    assert_eq!(panic_message(|| source.send_blocking(&stage, Blob::that_panics(64))), expected);
    let batch = || vec![Blob::new(64), Blob::that_panics(64)];
    assert_eq!(panic_message(|| source.try_send_batch(&stage, batch())), expected);
    assert_eq!(panic_message(|| block_on(source.send_batch(&stage, batch()))), expected);
    assert_eq!(
        panic_message(|| block_on(manager.buffer_batch_for_stage("stage", batch()))),
        expected
    );
    let mut producer = source.producer(&stage);
    assert_eq!(panic_message(|| producer.try_send(Blob::that_panics(64))), expected);
    drop(producer);
    let mut permit = source.try_reserve_bytes(&stage, 2, 256).unwrap();
    assert_eq!(panic_message(|| permit.push(Blob::that_panics(64))), expected);
    drop(permit);
    assert_eq!((manager.len(), manager.held_bytes(), stage.len()), (0, 0, 0));

    // A record that goes back or on keeps its charge, and the others are measured.
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, blobs(&[128, 256, 128])).unwrap();
    let change = |batch: &mut Batch<Blob>| {
        for (blob, bytes) in batch.iter_mut().zip([64, 64, 256]) {
            blob.panics = bytes == 64 && blob.bytes == 256;
            blob.resize(bytes);
        }
    };
    let mut batch = take(&stage, 10);
    change(&mut batch);
    assert_eq!(panic_message(|| batch.try_forward(&next)), expected);
    assert_eq!((next.len(), stage.len(), manager.held_bytes()), (3, 0, 64 + 256 + 256));
    let mut batch = take(&next, 10);
    batch.iter_mut().for_each(|blob| blob.resize(128));
    assert_eq!(panic_message(|| batch.return_to_buffer()), expected);
    assert_eq!((next.len(), manager.held_bytes()), (3, 128 + 256 + 128));
    take(&next, 10).ack();
    assert_all_is_given_back(&manager);
}

#[test]
fn calls_that_wait_wait_for_bytes() {
    let (manager, stage, source) = one_of_each(1_024);
    source.try_send_batch(&stage, blobs(&[512, 512])).unwrap();
    let reason = |bytes| {
        let wait = Duration::from_millis(1);
        source.send_timeout(&stage, Blob::new(bytes), wait).unwrap_err().reason
    };
    assert_eq!(reason(64), global_full(1_024, 1_024, 64));
    let mut producer = source.producer(&stage);
    let rejected = producer.send_timeout(Blob::new(64), Duration::from_millis(1)).unwrap_err();
    assert_eq!(rejected.reason, global_full(1_024, 1_024, 64));
    thread::scope(|scope| {
        let single = scope.spawn(|| source.send_blocking(&stage, Blob::new(256)).is_ok());
        let batch = scope.spawn(|| block_on(source.send_batch(&stage, blobs(&[100, 100]))).is_ok());
        let made = scope.spawn(|| {
            let sent = producer.send_blocking(Blob::new(256)).is_ok();
            producer.flush();
            sent
        });
        let all_done = || single.is_finished() && batch.is_finished() && made.is_finished();
        while !(all_done() && stage.is_empty()) {
            if let Ok(batch) = stage.try_recv_batch(1) {
                assert!(manager.held_bytes() <= 1_024);
                batch.ack();
            }
        }
        assert!(single.join().unwrap() && batch.join().unwrap() && made.join().unwrap());
    });
    drop(producer);
    assert_all_is_given_back(&manager);
}

#[test]
fn a_request_that_gives_up_or_is_dropped_holds_no_bytes() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    let (manager, stage, source) = one_of_each(1_024);
    source.try_send(&stage, Blob::new(1_024)).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut granted = pin!(source.send(&stage, Blob::new(512)));
        assert!(granted.as_mut().poll(&mut context).is_pending());
        let mut next = pin!(source.send(&stage, Blob::new(256)));
        assert!(next.as_mut().poll(&mut context).is_pending());
        take(&stage, 1).ack();
        // Both were granted, and hold their bytes until they are polled or dropped.
        assert_eq!(manager.held_bytes(), 768);
        assert!(next.as_mut().poll(&mut context).is_ready());
    }
    assert_eq!((manager.held_bytes(), stage.len()), (256, 1));
    take(&stage, 1).ack();
    assert_all_is_given_back(&manager);
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let (manager, stage, large) = one_of_each(1_024);
    let small = manager.source("b").unwrap();
    small.try_send_batch(&stage, (0..16).map(|_| Blob::of("b", 64)).collect()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(large.send_timeout(&stage, Blob::new(1_024), Duration::from_secs(60)).is_ok());
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) {
            let batch = stage.try_recv_batch(1);
            drop(batch.map(Batch::into_records));
            // Takes what was given back, until it is reserved.
            if let Err(rejected) = small.try_send(&stage, Blob::of("b", 64)) {
                assert!(rejected.is_full(), "{rejected:?}");
            }
        }
    });
    while let Ok(batch) = stage.try_recv_batch(100) {
        batch.ack();
    }
    assert_all_is_given_back(&manager);
}

#[test]
fn what_is_reserved_for_a_large_request_is_refused_as_others_first() {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    let (manager, stage, large) = one_of_each(1_024);
    let small = manager.source("b").unwrap();
    small.try_send_batch(&stage, (0..16).map(|_| Blob::of("b", 64)).collect()).unwrap();
    let mut waits = pin!(large.send(&stage, Blob::new(1_024)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    let mut reasons = Vec::new();
    for _ in 0..8 {
        take(&stage, 1).ack();
        if let Err(rejected) = small.try_send(&stage, Blob::of("b", 64)) {
            reasons.push(rejected.reason);
        }
    }
    let limit = OF_THE_BUFFER.to_owned();
    assert!(reasons.contains(&RejectReason::OthersFirst { limit }), "{reasons:?}");
    take(&stage, 100).ack();
    assert!(waits.as_mut().poll(&mut context).is_ready());
    take(&stage, 1).ack();
    assert_all_is_given_back(&manager);
}

#[test]
fn a_permit_holds_the_bytes_that_it_was_given() {
    let (manager, stage, source) = one_of_each(1_024);
    // 7 records of up to 576 bytes together need no more than 16 units.
    let mut permit = source.try_reserve_bytes(&stage, 7, 576).unwrap();
    assert_eq!((permit.len(), manager.held_bytes()), (7, 1_008 / 64 * 64));
    for bytes in [65, 65, 65, 65, 65, 65, 65] {
        assert!(permit.push(Blob::new(bytes)).is_ok());
    }
    // Used up: what no record needed is free.
    assert_eq!((manager.held_bytes(), permit.is_empty()), (7 * 128, true));
    take(&stage, 10).ack();
    drop(permit);
    assert_eq!(manager.held_bytes(), 0);

    // A permit without bytes is refused what the budget does not leave, and keeps its credit.
    source.try_send(&stage, Blob::new(960)).unwrap();
    let mut permit = source.try_reserve(&stage, 3).unwrap();
    assert_eq!(permit.push(Blob::new(65)).unwrap_err().bytes, 65);
    assert_eq!(permit.len(), 3);
    assert!(permit.push(Blob::new(64)).is_ok());
    assert_eq!((permit.len(), manager.held_bytes()), (2, 1_024));
    take(&stage, 1).ack();
    let rest = permit.send_batch(blobs(&[640, 640, 64])).unwrap_err();
    assert_eq!((rest.len(), stage.len(), manager.held_bytes()), (2, 2, 704));
    take(&stage, 10).ack();
    let permit = source.try_reserve_bytes(&stage, 2, 600).unwrap();
    assert!(permit.send_batch(blobs(&[100, 500])).is_ok());
    assert_eq!(manager.held_bytes(), 128 + 512);
    let dropped = block_on(source.reserve_bytes(&stage, 1, 300)).unwrap();
    assert_eq!(manager.held_bytes(), 640 + 320);
    drop(dropped);
    let wait = Duration::from_millis(1);
    let reason = source.reserve_bytes_timeout(&stage, 1, 512, wait).unwrap_err();
    assert_eq!(reason, global_full(640, 1_024, 512));
    drop(source.reserve_bytes_blocking(&stage, 1, 100).unwrap());
    take(&stage, 10).ack();
    assert_all_is_given_back(&manager);

    // Without budgets, bytes mean nothing.
    let manager = Manager::new(BufferSettings::default());
    let (stage, source) = handles(&manager);
    let mut permit = source.try_reserve_bytes(&stage, 1, usize::MAX).unwrap();
    assert!(permit.push(Blob::that_panics(1)).is_ok());
    assert_eq!((manager.held_bytes(), source.held_bytes()), (0, 0));
    assert_eq!(manager.stats().bytes, None);
}

#[test]
fn a_producer_holds_the_bytes_of_what_is_pending() {
    let (manager, stage, source) = one_of_each(1_024);
    let mut producer = source.producer(&stage);
    for bytes in [64, 65, 640] {
        producer.try_send(Blob::new(bytes)).unwrap();
    }
    assert_eq!((producer.pending(), manager.held_bytes()), (3, 832));
    // What is refused for its bytes publishes what is pending.
    let rejected = producer.try_send(Blob::new(256)).unwrap_err();
    assert_eq!(rejected.reason, global_full(832, 1_024, 256));
    assert_eq!((producer.pending(), stage.len()), (0, 3));
    producer.try_send(Blob::new(64)).unwrap();
    drop(producer);
    assert_eq!((stage.len(), source.len()), (4, 4));
    for left in [832, 704, 64, 0] {
        take(&stage, 1).ack();
        assert_eq!(manager.held_bytes(), left);
    }
    assert_all_is_given_back(&manager);
}

#[test]
fn signals_and_utilization_follow_records_or_bytes_whichever_is_higher() {
    use BackpressureSignal::{Pause, Resume, SlowDown};

    let manager = built(caps(1_000, 1_000, 1_000), Some(10_240), Some(6_400));
    let (stage, a) = handles(&manager);
    let b = manager.source("b").unwrap();
    let (mut of_a, mut of_all) = (a.signals(), manager.controller().subscribe());
    a.try_send(&stage, Blob::new(5_760)).unwrap();
    assert_eq!((a.utilization(), manager.utilization()), (0.9, 0.562_5));
    assert_eq!(
        (a.signal(), b.signal(), manager.controller().current()),
        (SlowDown, Resume, Resume)
    );
    assert_eq!(of_a.changed_blocking(), SlowDown);
    assert!(block_on(manager.should_backpressure("a")));
    assert!(!block_on(manager.should_backpressure("b")));
    b.try_send(&stage, Blob::new(4_480)).unwrap();
    assert_eq!(manager.controller().current(), Pause);
    assert_eq!(
        (of_all.changed_blocking(), of_a.changed_blocking(), b.signal()),
        (Pause, Pause, Pause)
    );
    assert!(block_on(manager.should_backpressure("b")));
    assert_eq!(block_on(manager.get_global_utilization()), 1.0);
    // A signal that is set by hand ends when the bytes cross a mark.
    manager.controller().signal(Resume);
    assert_eq!(manager.controller().current(), Resume);
    take(&stage, 1).ack();
    assert_eq!(
        (manager.controller().current(), of_all.current(), a.signal()),
        (Resume, Resume, Resume)
    );
    manager.controller().signal(Pause);
    b.try_send(&stage, Blob::new(1_920)).unwrap();
    a.try_send(&stage, Blob::new(2_560)).unwrap();
    assert_eq!(manager.controller().current(), SlowDown);
    // Records count as before.
    take(&stage, 3).ack();
    assert_eq!(manager.controller().current(), Resume);
    let manager = built(caps(10, 10, 10), Some(1 << 20), None);
    let (stage, source) = handles(&manager);
    source.try_send_batch(&stage, blobs(&[1; 9])).unwrap();
    assert_eq!((source.utilization(), manager.utilization()), (0.9, 0.9));
    assert_eq!((source.signal(), manager.controller().current()), (SlowDown, SlowDown));
}

#[test]
fn statistics_have_the_bytes_held_and_the_budgets() {
    let manager = build(Some(10_000), Some(6_400));
    let (stage, source) = handles(&manager);
    source.try_send_batch(&stage, blobs(&[100, 1_000])).unwrap();
    let stats = manager.stats();
    let (all, own) = (stats.bytes.unwrap(), stats.sources[0].bytes.unwrap());
    assert_eq!((all.held, all.capacity), (128 + 1_024, 9_984));
    assert_eq!((own.held, own.capacity), (128 + 1_024, 6_400));
    let text = stats.to_string();
    assert!(text.contains("1152 of 9984 bytes held\n"), "{text}");
    assert!(text.ends_with("source  bytes    of\na        1152  6400\n"), "{text}");
}

#[test]
fn a_source_that_is_removed_and_made_again_has_its_whole_budget() {
    let manager = build(Some(6_400), Some(640));
    for _ in 0..3 {
        let (stage, source) = handles(&manager);
        source.try_send(&stage, Blob::new(640)).unwrap();
        assert!(manager.remove_source("a").is_err());
        take(&stage, 1).ack();
        manager.remove_source("a").unwrap();
        assert!(source.try_send(&stage, Blob::new(64)).unwrap_err().is_closed());
        let closed = manager.source("b").unwrap();
        closed.try_send(&stage, Blob::of("b", 64)).unwrap();
        closed.close();
        assert!(closed.try_send(&stage, Blob::of("b", 64)).unwrap_err().is_closed());
        take(&stage, 1).ack();
        manager.remove_source("b").unwrap();
    }
    assert_all_is_given_back(&manager);
}

#[test]
fn budgets_out_of_range_are_errors_that_name_them() {
    let builder = || Manager::builder(BufferSettings::default());
    for value in [0, 63, usize::MAX] {
        let error = builder().max_total_bytes(value).build().unwrap_err();
        assert_eq!(error, SettingsError::Bytes { field: "max_total_bytes", value });
        let error = builder().max_source_bytes(value).build().unwrap_err();
        assert_eq!(error, SettingsError::Bytes { field: "max_source_bytes", value });
    }
    let error = builder().max_total_bytes(10).build().unwrap_err();
    assert_eq!(error.to_string(), "max_total_bytes must be from 64 to 274877906816, got 10");
    assert!(builder().max_total_bytes(64).max_source_bytes(274_877_906_816).build().is_ok());
}

#[test]
fn an_expired_record_gives_its_bytes_back() {
    let manager = Manager::builder(BufferSettings::default())
        .max_total_bytes(10_000)
        .max_age(Duration::from_millis(2))
        .build()
        .unwrap();
    let (stage, source) = handles(&manager);
    source.try_send_batch(&stage, blobs(&[100, 1_000, 100])).unwrap();
    source.try_send(&stage, Blob::new(100)).unwrap();
    thread::sleep(Duration::from_millis(5));
    assert!(stage.try_recv_batch(10).is_err());
    assert_eq!((manager.dead_letters().len(), manager.held_bytes()), (4, 0));
    assert_all_is_given_back(&manager);
}
