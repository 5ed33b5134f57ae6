//! The builder: what each setting does, and what `build` says of bad ones.

mod common;

use conveyor_buffer::{BufferManager, BufferSettings, Builder, SettingsError};

use common::*;

fn builder() -> Builder<Row> {
    BufferManager::builder(BufferSettings::default())
}

#[test]
fn nothing_set_is_what_new_makes() {
    let built = builder().build().unwrap();
    let new = Manager::new(BufferSettings::default());
    for manager in [&built, &new] {
        assert_eq!(manager.stage("s").unwrap().capacity(), 10_000);
        assert_eq!(manager.source("a").unwrap().capacity(), 5_000);
        assert_eq!(manager.dead_letters().capacity(), 1_024);
        assert_eq!(manager.controller().high_watermark(), 0.8);
        assert_eq!(manager.controller().low_watermark(), 0.6);
    }
}

#[test]
fn a_thousand_and_twenty_four_stages_may_exist_unless_set() {
    let manager = Manager::builder(caps(1, 1, 1)).build().unwrap();
    for n in 0..1_024 {
        manager.stage(&n.to_string()).unwrap();
    }
    let text = manager.stage("one more").unwrap_err().to_string();
    assert_eq!(text, "too many stages: at most 1024 may exist");
}

#[test]
fn every_number_must_be_at_least_one() {
    let cases: [(&str, Builder<Row>); 5] = [
        ("max_stages", builder().max_stages(0)),
        ("max_sources", builder().max_sources(0)),
        ("dead_letter_capacity", builder().dead_letter_capacity(0)),
        ("stage_capacity", builder().stage_capacity("s", 0)),
        ("source_capacity", builder().source_capacity("a", 0)),
    ];
    for (field, builder) in cases {
        let error = builder.build().unwrap_err();
        assert_eq!(error, SettingsError::Zero { field });
        assert_eq!(error.to_string(), format!("{field} must be at least 1"));
    }
}

#[test]
fn every_number_must_fit_the_counters() {
    let value = u32::MAX as usize + 1;
    let cases: [(&str, Builder<Row>); 5] = [
        ("max_stages", builder().max_stages(value)),
        ("max_sources", builder().max_sources(value)),
        ("dead_letter_capacity", builder().dead_letter_capacity(value)),
        ("stage_capacity", builder().stage_capacity("s", value)),
        ("source_capacity", builder().source_capacity("a", value)),
    ];
    for (field, builder) in cases {
        assert_eq!(builder.build().unwrap_err(), SettingsError::TooLarge { field, value });
    }
    let most = u32::MAX as usize;
    let manager =
        builder().max_stages(most).max_sources(most).source_capacity("a", most).build().unwrap();
    assert_eq!(manager.source("a").unwrap().capacity(), most);
}

#[test]
fn a_capacity_needs_a_name() {
    let error = builder().stage_capacity("", 1).build().unwrap_err();
    assert_eq!(error, SettingsError::EmptyName { field: "stage_capacity" });
    assert_eq!(error.to_string(), "stage_capacity needs a name that is not empty");
    let error = builder().source_capacity("", 1).build().unwrap_err();
    assert_eq!(error, SettingsError::EmptyName { field: "source_capacity" });
}

#[test]
fn the_settings_are_checked_as_well() {
    let error = Manager::builder(caps(1, 1, 0)).build().unwrap_err();
    assert_eq!(error, SettingsError::Zero { field: "max_per_source" });
    let settings = BufferSettings { backpressure_threshold: 2.0, ..BufferSettings::default() };
    assert_eq!(
        Manager::builder(settings).build().unwrap_err(),
        SettingsError::Threshold { value: 2.0 }
    );
}

#[test]
fn bad_watermarks_are_refused_and_good_ones_take_the_place_of_the_threshold() {
    for (high, low) in [(0.5, 0.6), (1.1, 0.5), (0.5, 0.0), (0.5, -1.0)] {
        assert_eq!(
            builder().watermarks(high, low).build().unwrap_err(),
            SettingsError::Watermarks { high, low }
        );
    }
    assert!(builder().watermarks(f64::NAN, 0.5).build().is_err());
    assert!(builder().watermarks(0.5, f64::NAN).build().is_err());
    let manager = builder().watermarks(0.9, 0.3).build().unwrap();
    let controller = manager.controller();
    assert_eq!((controller.high_watermark(), controller.low_watermark()), (0.9, 0.3));
}

#[test]
fn the_high_watermark_is_the_threshold_of_should_backpressure() {
    let manager = Manager::builder(caps(10, 10, 10)).watermarks(0.3, 0.1).build().unwrap();
    block_on(manager.buffer_batch_for_stage("s", rows("a", 0..3))).unwrap();
    assert!(!block_on(manager.should_backpressure("a")));
    block_on(manager.buffer_for_stage("s", row("a", 3))).unwrap();
    assert!(block_on(manager.should_backpressure("a")));
}

#[test]
fn named_capacities_hold_for_their_names_alone() {
    let manager = Manager::builder(caps(100, 10, 5))
        .stage_capacity("wide", 20)
        .stage_capacity("narrow", 2)
        .source_capacity("bulk", 30)
        .source_capacity("trickle", 1)
        .build()
        .unwrap();
    let capacities = ["wide", "narrow", "bulk"].map(|name| manager.stage(name).unwrap().capacity());
    assert_eq!(capacities, [20, 2, 10]);
    let available = ["bulk", "trickle", "wide"].map(|id| block_on(manager.available_credits(id)));
    assert_eq!(available, [30, 1, 5]);

    let rejected =
        block_on(manager.buffer_batch_for_stage("wide", rows("bulk", 0..40))).unwrap_err();
    assert_eq!((rejected.accepted, rejected.reason), (20, stage_full("wide", 20, 20)));
    let rejected =
        block_on(manager.buffer_batch_for_stage("narrow", rows("trickle", 0..2))).unwrap_err();
    assert_eq!((rejected.accepted, rejected.reason), (1, source_full("trickle", 1, 1)));
    let rejected =
        block_on(manager.buffer_batch_for_stage("narrow", rows("other", 0..2))).unwrap_err();
    assert_eq!((rejected.accepted, rejected.reason), (1, stage_full("narrow", 2, 2)));
}

#[test]
fn a_named_capacity_survives_the_removal_of_its_name_and_the_last_one_given_counts() {
    let manager = Manager::builder(caps(100, 10, 5))
        .stage_capacity("s", 7)
        .stage_capacity("s", 20)
        .source_capacity("a", 30)
        .build()
        .unwrap();
    for _ in 0..2 {
        assert_eq!(manager.stage("s").unwrap().capacity(), 20);
        assert_eq!(manager.source("a").unwrap().capacity(), 30);
        manager.remove_stage("s").unwrap();
        manager.remove_source("a").unwrap();
    }
}

#[test]
fn a_retry_limit_is_the_number_of_returns_that_are_allowed() {
    for limit in [0, 1, 3] {
        let manager = Manager::builder(caps(10, 10, 10)).max_retries(limit).build().unwrap();
        let (stage, source) = (manager.stage("s").unwrap(), manager.source("a").unwrap());
        source.try_send(&stage, row("a", 1)).unwrap();
        for retries in 0..limit {
            let batch = take(&stage, 1);
            assert_eq!(batch.iter().next().unwrap().retries, retries);
            batch.return_to_buffer();
            assert!(manager.dead_letters().is_empty());
        }
        take(&stage, 1).return_to_buffer();
        assert_eq!(manager.dead_letters().try_recv().unwrap().retry_count, limit);
        assert_nothing_is_held(&manager, &[stage], &[source]);
    }
}

#[test]
fn without_a_limit_a_record_may_be_returned_for_ever() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send(&stage, row("a", 1)).unwrap();
    for _ in 0..10_000 {
        take(&stage, 1).return_to_buffer();
    }
    assert!(manager.dead_letters().is_empty());
    assert_eq!(take(&stage, 1).into_records()[0].retries, 10_000);
}

#[test]
fn a_builder_shows_what_was_set() {
    let text = format!(
        "{:?}",
        builder().watermarks(0.9, 0.25).max_retries(17).stage_capacity("load", 4_321)
    );
    for part in ["0.25", "17", "load", "4321", "max_per_source"] {
        assert!(text.contains(part), "{text}");
    }
}
