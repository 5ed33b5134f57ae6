//! Any settings: either `build` names what is wrong, and something is, or the buffer works.

#![no_main]
#![forbid(unsafe_code)]

use arbitrary::{Arbitrary, Result, Unstructured};
use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Outcome, TryRecvError};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

type Manager = BufferManager<BufferedRecord<u64>>;

const MAX_CAP: usize = u32::MAX as usize;

/// A number for which memory is set aside: it is small, or too large to be valid.
#[derive(Debug, Clone, Copy)]
struct Slots(usize);

impl<'a> Arbitrary<'a> for Slots {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.arbitrary::<u8>()? {
            0..32 => MAX_CAP.saturating_add(u.arbitrary()?).saturating_add(1),
            32..64 => usize::from(u.arbitrary::<u8>()?) * 257 + 1,
            _ => usize::from(u.arbitrary::<u8>()?),
        }))
    }
}

/// A number for which none is: any.
#[derive(Debug, Clone, Copy)]
struct Count(usize);

impl<'a> Arbitrary<'a> for Count {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.arbitrary::<u8>()? {
            0..32 => u.arbitrary()?,
            32..64 => MAX_CAP - 2 + usize::from(u.arbitrary::<u8>()? % 5),
            64..128 => u.arbitrary::<u16>()?.into(),
            _ => u.arbitrary::<u8>()?.into(),
        }))
    }
}

/// A level: any at all, or one that is likely to be valid.
#[derive(Debug, Clone, Copy)]
struct Level(f64);

impl<'a> Arbitrary<'a> for Level {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.arbitrary::<u8>()? {
            0..64 => u.arbitrary()?,
            other => f64::from(other - 63) / 192.0,
        }))
    }
}

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    max_total_records: Count,
    max_per_stage: Slots,
    max_per_source: Count,
    backpressure_threshold: Level,
    watermarks: Option<(Level, Level)>,
    max_retries: Option<u32>,
    max_stages: Option<Count>,
    max_sources: Option<Count>,
    dead_letter_capacity: Option<Slots>,
    stage_capacity: Option<(&'a str, Slots)>,
    source_capacity: Option<(&'a str, Count)>,
}

impl Input<'_> {
    fn is_valid(&self) -> bool {
        let cap = |n: usize| (1..=MAX_CAP).contains(&n);
        let threshold = self.backpressure_threshold.0;
        cap(self.max_total_records.0)
            && cap(self.max_per_stage.0)
            && cap(self.max_per_source.0)
            && threshold > 0.0
            && threshold <= 1.0
            && self
                .watermarks
                .is_none_or(|(high, low)| 0.0 < low.0 && low.0 <= high.0 && high.0 <= 1.0)
            && self.max_stages.is_none_or(|n| cap(n.0))
            && self.max_sources.is_none_or(|n| cap(n.0))
            && self.dead_letter_capacity.is_none_or(|n| cap(n.0))
            && self.stage_capacity.is_none_or(|(id, n)| !id.is_empty() && cap(n.0))
            && self.source_capacity.is_none_or(|(id, n)| !id.is_empty() && cap(n.0))
    }

    fn settings(&self) -> BufferSettings {
        BufferSettings {
            max_total_records: self.max_total_records.0,
            max_per_stage: self.max_per_stage.0,
            max_per_source: self.max_per_source.0,
            backpressure_threshold: self.backpressure_threshold.0,
        }
    }
}

/// One record through each of its ways.
fn use_it(manager: &Manager, input: &Input) {
    let stage_id = input.stage_capacity.map_or("parse", |(id, _)| id);
    let source_id = input.source_capacity.map_or("EWR", |(id, _)| id);
    let stage = manager.stage(stage_id).expect("one stage is always allowed");
    let source = manager.source(source_id).expect("one source is always allowed");
    let stage_cap = input.stage_capacity.map_or(input.max_per_stage, |(_, records)| records).0;
    let source_cap = input.source_capacity.map_or(input.max_per_source, |(_, records)| records).0;
    assert_eq!((stage.capacity(), source.capacity()), (stage_cap, source_cap));
    assert_eq!(source.available_credits(), source_cap.min(input.max_total_records.0));

    let record = |n: u64| BufferedRecord::new(n, source_id, "flights", stage_id);
    block_on(manager.buffer_for_stage(stage_id, record(1))).expect("room for one");
    stage.try_recv_batch(10).expect("it waits").ack();

    source.try_send(&stage, record(2)).expect("room for one");
    assert_eq!(block_on(manager.get_total_buffered()), 1);
    stage.try_recv_batch(usize::MAX).expect("it waits").settle(|_| Outcome::DeadLetter);
    let letters = manager.dead_letters();
    let letter = letters.try_recv().expect("it was given up");
    assert_eq!((letter.record.record, letter.retry_count), (2, 0));

    source.try_send_batch(&stage, vec![record(3)]).expect("room for one");
    stage.try_recv_batch(1).expect("it waits").return_to_buffer();
    if input.max_retries == Some(0) {
        assert_eq!(letters.try_recv().expect("no retry is allowed").record.record, 3);
    } else {
        let returned = stage.try_recv_batch(1).expect("it was returned").into_records();
        assert_eq!((returned[0].record, returned[0].retry_count), (3, 1));
    }
    assert_eq!(block_on(manager.get_total_buffered()), 0);
    manager.close();
    assert_eq!(stage.try_recv_batch(1).map(drop), Err(TryRecvError::Closed));
}

fuzz_target!(|input: Input| {
    let mut builder = Manager::builder(input.settings());
    if let Some((high, low)) = input.watermarks {
        builder = builder.watermarks(high.0, low.0);
    }
    if let Some(retries) = input.max_retries {
        builder = builder.max_retries(retries);
    }
    if let Some(stages) = input.max_stages {
        builder = builder.max_stages(stages.0);
    }
    if let Some(sources) = input.max_sources {
        builder = builder.max_sources(sources.0);
    }
    if let Some(letters) = input.dead_letter_capacity {
        builder = builder.dead_letter_capacity(letters.0);
    }
    if let Some((id, records)) = input.stage_capacity {
        builder = builder.stage_capacity(id, records.0);
    }
    if let Some((id, records)) = input.source_capacity {
        builder = builder.source_capacity(id, records.0);
    }
    match builder.build() {
        Ok(manager) => {
            assert!(input.is_valid(), "these settings are not valid");
            use_it(&manager, &input);
        }
        Err(error) => {
            assert!(!input.is_valid(), "{error}");
            assert!(!error.to_string().is_empty());
        }
    }

    // This one takes the nearest valid numbers. No stage: it might take all of the memory.
    let BufferSettings { max_total_records, max_per_stage, max_per_source, backpressure_threshold } =
        input.settings();
    let manager = Manager::with_limits(
        max_total_records,
        max_per_stage,
        max_per_source,
        backpressure_threshold,
    );
    let available =
        manager.source("EWR").expect("one source is always allowed").available_credits();
    let nearest = |n: usize| n.clamp(1, MAX_CAP);
    assert_eq!(available, nearest(max_total_records).min(nearest(max_per_source)));
});
