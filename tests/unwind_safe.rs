//! The handles may cross a `catch_unwind`: a panic leaves exact counts, so there is no state that a
//! caller could find broken.

use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind};

use conveyor_buffer::{
    BackpressureController, Batch, BufferManager, BufferSettings, Builder, DeadLetter, DeadLetters,
    ForwardError, Permit, Producer, Record, Rejected, RejectedBatch, SignalReceiver, Singles,
    Source, Stage,
};

fn unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}

#[test]
fn every_public_type_is_unwind_safe() {
    type R = Record<String>;
    unwind_safe::<BufferManager<R>>();
    unwind_safe::<Builder<R>>();
    unwind_safe::<Source<R>>();
    unwind_safe::<Stage<R>>();
    unwind_safe::<Producer<R>>();
    unwind_safe::<Batch<R>>();
    unwind_safe::<Singles<R>>();
    unwind_safe::<Permit<R>>();
    unwind_safe::<DeadLetters<R>>();
    unwind_safe::<DeadLetter<R>>();
    unwind_safe::<SignalReceiver>();
    unwind_safe::<BackpressureController>();
    unwind_safe::<Rejected<R>>();
    unwind_safe::<RejectedBatch<R>>();
    unwind_safe::<ForwardError<R>>();
    #[cfg(feature = "futures")]
    {
        unwind_safe::<conveyor_buffer::Batches<R>>();
        unwind_safe::<conveyor_buffer::DeadLetterStream<R>>();
        unwind_safe::<conveyor_buffer::RecordSink<R>>();
    }
}

#[test]
fn handles_that_crossed_a_panic_go_on() {
    let manager = BufferManager::<Record<u32>>::new(BufferSettings::default());
    let (stage, source) = (manager.stage("load").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, (0..3).map(Record::new).collect()).unwrap();

    let panicked = catch_unwind(|| {
        let _batch = stage.try_recv_batch(3).unwrap();
        panic!("while it holds a batch");
    });
    assert!(panicked.is_err());
    assert_eq!((stage.len(), stage.in_flight(), source.available_credits()), (3, 0, 4_997));
}
