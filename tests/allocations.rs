//! What is allocated once all is warm: nothing but the `Vec`s that callers give and get.

use allocation_counter::{AllocationInfo, measure};
use conveyor_buffer::{
    Batch, BufferManager, BufferSettings, BufferedRecord, Outcome, Source, Stage,
};

type Record = BufferedRecord<u64>;

/// A buffer in which records have gone round: leases are taken, and lazy things made.
fn warm() -> (Source<Record>, Stage<Record>, Stage<Record>) {
    let manager = BufferManager::new(BufferSettings::default());
    let source = manager.source("source").unwrap();
    let (stage, next) = (manager.stage("stage").unwrap(), manager.stage("next").unwrap());
    for _ in 0..3 {
        for n in 0..100 {
            source.try_send(&stage, record(n)).unwrap();
            stage.try_recv_batch(1).unwrap().return_to_buffer();
            stage.try_recv_batch(1).unwrap().try_forward(&next).unwrap();
            next.try_recv_batch(1).unwrap().ack();
        }
        source.try_send_batch(&stage, records(100)).unwrap();
        stage.try_recv_batch(100).unwrap().ack();
    }
    (source, stage, next)
}

fn record(n: u64) -> Record {
    BufferedRecord::new(n, "source", "pipeline", "stage")
}

fn records(n: u64) -> Vec<Record> {
    (0..n).map(record).collect()
}

/// What a call leaves behind in `to`, and what it allocates on the way.
fn counted<T>(to: &mut Option<T>, call: impl FnOnce() -> T) -> AllocationInfo {
    measure(|| *to = Some(call()))
}

#[track_caller]
fn assert_allocates_nothing(call: impl FnOnce()) {
    let info = measure(call);
    assert_eq!(info.count_total, 0, "{info:?}");
}

#[test]
fn a_push_of_one_record_allocates_nothing() {
    let (source, stage, _) = warm();
    for n in 0..1_000 {
        let record = record(n);
        assert_allocates_nothing(|| source.try_send(&stage, record).unwrap());
    }
}

#[test]
fn a_push_of_a_batch_allocates_nothing_beside_the_vec_that_is_given() {
    let (source, stage, _) = warm();
    let records = records(100);
    assert_allocates_nothing(|| source.try_send_batch(&stage, records).unwrap());
}

#[test]
fn a_batch_of_one_block_is_taken_and_acknowledged_without_allocating() {
    let (source, stage, _) = warm();
    for pushed in [1, 100] {
        source.try_send_batch(&stage, records(pushed)).unwrap();
        let mut batch = None;
        let info = counted(&mut batch, || stage.try_recv_batch(100).unwrap());
        assert_eq!(info.count_total, 0, "{info:?}");
        let batch: Batch<Record> = batch.unwrap();
        assert_eq!(batch.len() as u64, pushed);
        assert_allocates_nothing(|| batch.ack());
    }
}

#[test]
fn settling_one_by_one_as_acknowledged_allocates_nothing() {
    let (source, stage, _) = warm();
    source.try_send_batch(&stage, records(100)).unwrap();
    let batch = stage.try_recv_batch(100).unwrap();
    assert_allocates_nothing(|| {
        batch.settle(|_| Outcome::Ack);
    });
}

#[test]
fn a_batch_of_one_block_is_forwarded_without_allocating() {
    let (source, stage, next) = warm();
    for pushed in [1, 100] {
        source.try_send_batch(&stage, records(pushed)).unwrap();
        let batch = stage.try_recv_batch(100).unwrap();
        assert_allocates_nothing(|| batch.try_forward(&next).unwrap());
        next.try_recv_batch(100).unwrap().ack();
    }
}

#[test]
fn the_records_of_a_block_come_out_in_the_vec_they_went_in_with() {
    let (source, stage, _) = warm();
    let records = records(100);
    let given = records.as_ptr();
    source.try_send_batch(&stage, records).unwrap();
    let batch = stage.try_recv_batch(100).unwrap();
    let mut got = None;
    let info = counted(&mut got, || batch.into_records());
    assert_eq!(info.count_total, 0, "{info:?}");
    let got = got.unwrap();
    assert_eq!(got.as_ptr(), given);
}

#[test]
fn a_record_alone_comes_out_in_a_vec_that_is_the_only_allocation() {
    let (source, stage, _) = warm();
    source.try_send(&stage, record(0)).unwrap();
    let batch = stage.try_recv_batch(1).unwrap();
    let mut got = None;
    let info = counted(&mut got, || batch.into_records());
    assert_eq!(info.count_total, 1, "{info:?}");
    assert_eq!(got.unwrap().len(), 1);
}

#[test]
fn a_batch_of_many_blocks_is_gathered_without_allocating() {
    let (source, stage, _) = warm();
    (0..100).for_each(|n| source.try_send(&stage, record(n)).unwrap());
    let mut batch = None;
    let info = counted(&mut batch, || stage.try_recv_batch(100).unwrap());
    assert_eq!(info.count_total, 0, "{info:?}");
    let batch = batch.unwrap();
    assert_eq!(batch.len(), 100);
    assert_allocates_nothing(|| batch.ack());
}

#[test]
fn a_refused_push_allocates_nothing() {
    let full = |total, stage, source| {
        let settings = BufferSettings {
            max_total_records: total,
            max_per_stage: stage,
            max_per_source: source,
            ..BufferSettings::default()
        };
        let manager = BufferManager::new(settings);
        let (source, stage) = (manager.source("source").unwrap(), manager.stage("stage").unwrap());
        source.try_send_batch(&stage, records(100)).unwrap();
        assert!(source.try_send(&stage, record(0)).is_err());
        (source, stage)
    };
    for (source, stage) in [full(100, 200, 200), full(200, 100, 200), full(200, 200, 100)] {
        let (one, many) = (record(0), records(10));
        let mut refused = (None, None);
        let info = measure(|| {
            refused.0 = source.try_send(&stage, one).err();
            refused.1 = source.try_send_batch(&stage, many).err();
        });
        assert_eq!(info.count_total, 0, "{info:?}");
        assert_eq!(refused.1.unwrap().records.len(), 10);
        assert!(refused.0.is_some());
    }
}

#[test]
fn looking_up_a_name_allocates_nothing() {
    let manager = BufferManager::<Record>::new(BufferSettings::default());
    let (source, stage) = (manager.source("source").unwrap(), manager.stage("stage").unwrap());
    assert_allocates_nothing(|| {
        assert_eq!(manager.source("source").unwrap().id(), source.id());
        assert_eq!(manager.stage("stage").unwrap().id(), stage.id());
    });
}

#[test]
fn stages_and_sources_that_come_and_go_keep_no_memory() {
    let manager = BufferManager::<Record>::with_limits(100, 10, 10, 0.8);
    let come_and_go = || {
        drop((manager.stage("stage").unwrap(), manager.source("source").unwrap()));
        manager.remove_stage("stage").unwrap();
        manager.remove_source("source").unwrap();
    };
    (0..100).for_each(|_| come_and_go());
    let info = measure(|| (0..1_000).for_each(|_| come_and_go()));
    // A few of the last may be there still. A stage that stayed would keep a kilobyte.
    assert!(info.bytes_current < 100_000, "{info:?}");
}
