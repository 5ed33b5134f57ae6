//! The errors: every predicate on every variant, the texts, and what `Debug` asks of a record.

mod common;

use std::error::Error;

use conveyor_buffer::{
    Closed, RecvTimeoutError, RegistryError, RejectReason, Rejected, RejectedBatch, TryRecvError,
};

use common::*;

/// A type that has no `Debug`, no `Clone` and nothing else.
struct Bare;

/// Every reason, with whether it is full, whether it is closed, and its text.
fn reasons() -> Vec<(RejectReason, bool, bool, &'static str)> {
    vec![
        (global_full(7, 9), true, false, "global buffer full: it holds 7 of 9 records"),
        (stage_full("filter", 7, 9), true, false, "stage buffer full: filter holds 7 of 9 records"),
        (source_full("JFK", 7, 9), true, false, "source buffer full: JFK holds 7 of 9 records"),
        (
            RejectReason::TooManyStages { max: 3 },
            false,
            false,
            "too many stages: at most 3 may exist",
        ),
        (
            RejectReason::TooManySources { max: 3 },
            false,
            false,
            "too many sources: at most 3 may exist",
        ),
        (
            RejectReason::TooLarge { records: 7, capacity: 5, limit: "stage load".to_owned() },
            false,
            false,
            "too large: 7 records never fit under the 5 of stage load",
        ),
        (
            RejectReason::TooLarge {
                records: 1,
                capacity: 64,
                limit: "the byte budget of the buffer".to_owned(),
            },
            false,
            false,
            "too large: 1 records never fit under the 64 of the byte budget of the buffer",
        ),
        (
            RejectReason::GlobalBytesFull { held: 640, capacity: 1024, wanted: 512 },
            true,
            false,
            "global byte budget full: it holds 640 of 1024 bytes, 512 more do not fit",
        ),
        (
            RejectReason::SourceBytesFull {
                source_id: "JFK".into(),
                held: 64,
                capacity: 128,
                wanted: 128,
            },
            true,
            false,
            "source byte budget full: JFK holds 64 of 128 bytes, 128 more do not fit",
        ),
        (RejectReason::Closed, false, true, "closed: no more records are taken"),
        (RejectReason::EmptyName { kind: "stage" }, false, false, "empty name: a stage needs one"),
        (
            RejectReason::OutOfMemory { stage_id: "load".into(), records: 12 },
            false,
            false,
            "out of memory: no room for the 12 records of stage load",
        ),
        (
            RejectReason::ForeignStage { stage_id: "load".into() },
            false,
            false,
            "foreign stage: load belongs to another buffer",
        ),
        (
            RejectReason::ParkedLetters {
                limit: "source JFK".to_owned(),
                held: 9,
                capacity: 9,
                parked: 4,
            },
            true,
            false,
            "full: source JFK holds 9 of 9 records, 4 of them parked dead letters",
        ),
        (
            RejectReason::OthersFirst { limit: "the buffer".to_owned() },
            true,
            false,
            "others first: what the buffer has left is reserved for those who wait",
        ),
        (
            RejectReason::GuaranteedToOthers { held: 8, capacity: 10, guaranteed: 2 },
            true,
            false,
            "global buffer full: it holds 8 of 10 records, and 2 are guaranteed to other sources",
        ),
        (
            RejectReason::DeadLettersFull { capacity: 5 },
            true,
            false,
            "dead letters full: 5 wait to be received",
        ),
    ]
}

#[test]
fn every_reason_answers_its_predicates_and_names_its_limit() {
    for (reason, full, closed, text) in reasons() {
        assert_eq!(reason.is_full(), full, "{reason:?}");
        assert_eq!(reason.is_closed(), closed, "{reason:?}");
        assert_eq!(reason.to_string(), text);
    }
}

#[test]
fn a_rejected_record_answers_as_its_reason_does() {
    for (reason, full, closed, text) in reasons() {
        let rejected = Rejected { record: Bare, reason: reason.clone() };
        assert_eq!((rejected.is_full(), rejected.is_closed()), (full, closed), "{reason:?}");
        assert_eq!(rejected.to_string(), text);
        let Bare = rejected.into_record();
        let rejected = Rejected { record: Bare, reason: reason.clone() };
        let Bare = rejected.into_inner();
        assert_eq!(RejectReason::from(Rejected { record: Bare, reason: reason.clone() }), reason);
    }
}

#[test]
fn a_rejected_batch_answers_as_its_reason_does() {
    for (reason, full, closed, text) in reasons() {
        let rejected =
            RejectedBatch { accepted: 4, records: vec![Bare, Bare], reason: reason.clone() };
        assert_eq!((rejected.is_full(), rejected.is_closed()), (full, closed), "{reason:?}");
        assert_eq!(rejected.to_string(), format!("{text} (4 records accepted, 2 refused)"));
        assert_eq!(rejected.into_records().len(), 2);
        let rejected =
            || RejectedBatch { accepted: 4, records: vec![Bare], reason: reason.clone() };
        assert_eq!(rejected().into_inner().len(), 1);
        assert_eq!(RejectReason::from(rejected()), reason);
    }
}

#[test]
fn debug_shows_the_reason_and_asks_nothing_of_the_record() {
    let rejected = Rejected { record: Bare, reason: stage_full("filter", 7, 9) };
    let text = format!("{rejected:?}");
    assert!(text.contains("StageFull") && text.contains("filter"), "{text}");

    let rejected = RejectedBatch { accepted: 41, records: vec![Bare], reason: global_full(7, 9) };
    let text = format!("{rejected:?}");
    assert!(text.contains("GlobalFull") && text.contains("41"), "{text}");
}

#[test]
fn the_errors_of_any_record_type_are_errors() {
    fn boxed(error: impl Error + Send + Sync + 'static) -> Box<dyn Error + Send + Sync> {
        Box::new(error)
    }
    let reason = global_full(7, 9);
    let text = "global buffer full: it holds 7 of 9 records";
    assert_eq!(boxed(reason.clone()).to_string(), text);
    assert_eq!(boxed(Rejected { record: Bare, reason: reason.clone() }).to_string(), text);
    let batch = RejectedBatch { accepted: 0, records: vec![Bare], reason };
    assert!(boxed(batch).to_string().starts_with(text));
    assert!(boxed(TryRecvError::Empty).to_string().contains("empty"));
    assert!(boxed(RegistryError::Closed).to_string().contains("closed"));
}

#[test]
fn rejections_compare_by_record_and_reason() {
    let rejected = Rejected { record: 1, reason: RejectReason::Closed };
    assert_eq!(rejected.clone(), rejected);
    assert!(rejected != Rejected { record: 2, reason: RejectReason::Closed });
    assert!(rejected != Rejected { record: 1, reason: global_full(1, 1) });
    let batch = RejectedBatch { accepted: 1, records: vec![1], reason: RejectReason::Closed };
    assert_eq!(batch.clone(), batch);
    assert!(batch != RejectedBatch { accepted: 2, ..batch.clone() });
}

#[test]
fn a_failed_take_is_either_empty_or_closed() {
    let (empty, closed) = (TryRecvError::Empty, TryRecvError::Closed);
    assert!(empty.is_empty() && !empty.is_closed());
    assert!(closed.is_closed() && !closed.is_empty());
    assert_eq!(empty.to_string(), "empty: no record waits to be taken");
    assert_eq!(closed.to_string(), "closed: no more records will come");
}

/// Every registry error, with its text and the reason that a push by name gives for it.
fn registry_errors() -> Vec<(RegistryError, &'static str, RejectReason)> {
    vec![
        (
            RegistryError::EmptyName { kind: "source" },
            "empty name: a source needs one",
            RejectReason::EmptyName { kind: "source" },
        ),
        (
            RegistryError::TooManyStages { max: 3 },
            "too many stages: at most 3 may exist",
            RejectReason::TooManyStages { max: 3 },
        ),
        (
            RegistryError::TooManySources { max: 3 },
            "too many sources: at most 3 may exist",
            RejectReason::TooManySources { max: 3 },
        ),
        (RegistryError::Closed, "closed: no more records are taken", RejectReason::Closed),
        (
            RegistryError::OutOfMemory { stage_id: "load".into(), records: 12 },
            "out of memory: no room for the 12 records of stage load",
            RejectReason::OutOfMemory { stage_id: "load".into(), records: 12 },
        ),
        (
            RegistryError::UnknownStage { stage_id: "load".into() },
            "unknown stage: load",
            RejectReason::Closed,
        ),
        (
            RegistryError::UnknownSource { source_id: "JFK".into() },
            "unknown source: JFK",
            RejectReason::Closed,
        ),
        (
            RegistryError::StageInUse { stage_id: "load".into(), held: 2 },
            "stage in use: load holds 2 records",
            RejectReason::Closed,
        ),
        (
            RegistryError::SourceInUse { source_id: "JFK".into(), held: 2 },
            "source in use: JFK holds 2 records",
            RejectReason::Closed,
        ),
    ]
}

#[test]
fn every_registry_error_says_what_is_wrong_and_becomes_a_reason() {
    for (error, text, reason) in registry_errors() {
        assert_eq!(error.to_string(), text);
        assert_eq!(RejectReason::from(error), reason);
    }
}

#[test]
fn the_texts_of_real_refusals_name_the_limit_that_refused() {
    let (_manager, stage, source) = one_of_each(2, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let text = source.try_send(&stage, row("a", 2)).unwrap_err().to_string();
    assert_eq!(text, "global buffer full: it holds 2 of 2 records");

    let (_manager, stage, source) = one_of_each(10, 2, 10);
    let text = source.try_send_batch(&stage, rows("a", 0..5)).unwrap_err().to_string();
    let full = "stage buffer full: stage holds 2 of 2 records";
    assert_eq!(text, format!("{full} (2 records accepted, 3 refused)"));

    let (_manager, stage, source) = one_of_each(10, 10, 2);
    let text = source.try_send_batch(&stage, rows("a", 0..5)).unwrap_err().to_string();
    let full = "source buffer full: a holds 2 of 2 records";
    assert_eq!(text, format!("{full} (2 records accepted, 3 refused)"));
}

#[test]
fn a_worker_that_waited_in_vain_is_told_why() {
    assert_eq!(Closed.to_string(), TryRecvError::Closed.to_string());
    assert_eq!(RecvTimeoutError::Closed.to_string(), TryRecvError::Closed.to_string());
    let text = "timed out: no record came to be taken";
    assert_eq!(RecvTimeoutError::Timeout.to_string(), text);
}

#[test]
fn what_has_no_text_of_its_own_says_in_short_what_it_holds() {
    let (_manager, stage, source) = one_of_each(9, 9, 9);
    let permit = block_on(source.reserve(&stage, 2)).unwrap();
    let text = r#"Permit { source: "a", stage: "stage", records: 2 }"#;
    assert_eq!(format!("{permit:?}"), text);
    assert_eq!(format!("{:?}", source.signals()), "SignalReceiver { current: Resume, .. }");
}
