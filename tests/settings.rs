//! The settings: which are valid, what is said of those that are not, and the largest there are.

mod common;

use conveyor_buffer::{BufferManager, BufferSettings, RegistryError, SettingsError};

use common::*;

const MAX: usize = u32::MAX as usize;

/// A way to set one of the three caps.
type SetCap = fn(&mut BufferSettings, usize);

const CAPS: [(&str, SetCap); 3] = [
    ("max_total_records", |settings, cap| settings.max_total_records = cap),
    ("max_per_stage", |settings, cap| settings.max_per_stage = cap),
    ("max_per_source", |settings, cap| settings.max_per_source = cap),
];

const BAD_THRESHOLDS: [f64; 7] =
    [f64::NAN, 0.0, -0.0, -0.5, f64::INFINITY, f64::NEG_INFINITY, 1.000_001];

fn with(set: SetCap, cap: usize) -> BufferSettings {
    let mut settings = BufferSettings::default();
    set(&mut settings, cap);
    settings
}

#[test]
fn the_default_is_what_the_design_says() {
    let settings = BufferSettings::default();
    assert_eq!(settings, caps(100_000, 10_000, 5_000));
    assert_eq!(settings.backpressure_threshold, 0.8);
    assert_eq!(settings.validate(), Ok(()));
    assert_eq!(settings.nearest_valid(), settings);
}

#[test]
fn a_cap_of_zero_is_refused_by_name() {
    for (field, set) in CAPS {
        let settings = with(set, 0);
        let error = SettingsError::Zero { field };
        assert_eq!(settings.validate(), Err(error.clone()));
        assert_eq!(Manager::try_new(settings).unwrap_err(), error);
        assert_eq!(error.to_string(), format!("{field} must be at least 1"));
        assert_eq!(settings.nearest_valid(), with(set, 1));
    }
}

#[test]
fn a_cap_past_what_the_counters_hold_is_refused_by_name() {
    for (field, set) in CAPS {
        for value in [MAX + 1, 1 << 33, usize::MAX] {
            let settings = with(set, value);
            let error = SettingsError::TooLarge { field, value };
            assert_eq!(settings.validate(), Err(error.clone()));
            assert_eq!(Manager::try_new(settings).unwrap_err(), error);
            assert_eq!(
                error.to_string(),
                format!("{field} must be at most 4294967295, got {value}")
            );
            assert_eq!(settings.nearest_valid(), with(set, MAX));
        }
    }
}

#[test]
fn the_first_bad_field_is_the_one_that_is_named() {
    let settings = BufferSettings { backpressure_threshold: 0.0, ..caps(1, 0, 0) };
    assert_eq!(settings.validate(), Err(SettingsError::Zero { field: "max_per_stage" }));
}

#[test]
fn a_threshold_that_is_no_share_is_refused() {
    for threshold in BAD_THRESHOLDS {
        let settings =
            BufferSettings { backpressure_threshold: threshold, ..BufferSettings::default() };
        let Err(SettingsError::Threshold { value }) = settings.validate() else {
            panic!("{threshold} was accepted");
        };
        assert_eq!(value.to_bits(), threshold.to_bits());
        let error = Manager::try_new(settings).unwrap_err();
        assert!(error.to_string().starts_with("backpressure_threshold must be above 0.0"));
        assert!(error.to_string().ends_with(&format!("got {threshold}")), "{error}");
    }
    for threshold in [f64::MIN_POSITIVE, 0.5, 1.0] {
        let settings =
            BufferSettings { backpressure_threshold: threshold, ..BufferSettings::default() };
        assert_eq!(settings.validate(), Ok(()));
        assert_eq!(Manager::new(settings).controller().high_watermark(), threshold);
    }
}

#[test]
fn the_nearest_valid_threshold_is_one_or_the_default() {
    let nearest = |threshold| {
        let settings =
            BufferSettings { backpressure_threshold: threshold, ..BufferSettings::default() };
        assert_eq!(settings.nearest_valid().validate(), Ok(()), "{threshold}");
        settings.nearest_valid().backpressure_threshold
    };
    for threshold in [f64::NAN, 0.0, -0.0, -0.5, f64::NEG_INFINITY] {
        assert_eq!(nearest(threshold), 0.8, "{threshold}");
    }
    for threshold in [f64::INFINITY, 1.000_001, 1.0] {
        assert_eq!(nearest(threshold), 1.0, "{threshold}");
    }
    assert_eq!(nearest(0.25), 0.25);
}

#[test]
fn new_panics_with_what_try_new_says() {
    for (_, set) in CAPS {
        let settings = with(set, 0);
        let error = Manager::try_new(settings).unwrap_err();
        assert_eq!(panic_message(|| Manager::new(settings)), error.to_string());
    }
    let settings = BufferSettings { backpressure_threshold: f64::NAN, ..BufferSettings::default() };
    assert!(panic_message(|| Manager::new(settings)).contains("backpressure_threshold"));
}

#[test]
fn with_limits_never_fails() {
    let manager = Manager::with_limits(0, 0, 0, f64::NAN);
    assert_eq!(manager.stage("stage").unwrap().capacity(), 1);
    assert_eq!(manager.source("a").unwrap().capacity(), 1);
    assert_eq!(block_on(manager.available_credits("b")), 1);
    assert_eq!(manager.controller().high_watermark(), 0.8);

    let manager = Manager::with_limits(usize::MAX, 1, usize::MAX, f64::INFINITY);
    assert_eq!(manager.source("a").unwrap().capacity(), MAX);
    assert_eq!(manager.source("a").unwrap().available_credits(), MAX);
    assert_eq!(manager.controller().high_watermark(), 1.0);
}

#[test]
fn the_largest_caps_work_where_no_ring_of_that_size_is_made() {
    let manager =
        BufferManager::builder(caps(MAX, MAX, MAX)).stage_capacity("stage", 8).build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    assert_eq!(source.capacity(), MAX);
    assert_eq!(source.available_credits(), MAX);
    for round in 0..100 {
        source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
        let rejected = source.try_send(&stage, row("a", 8)).unwrap_err();
        assert_eq!(rejected.reason, stage_full("stage", 8, 8));
        assert_eq!(source.available_credits(), MAX - 8);
        assert_eq!(block_on(manager.available_credits("b")), MAX - 8);
        assert_eq!(block_on(manager.get_total_buffered()), 8);
        assert_eq!(drain(&stage), [0, 1, 2, 3, 4, 5, 6, 7], "round {round}");
        assert_eq!(source.available_credits(), MAX);
    }
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_small_global_cap_makes_a_huge_stage_cheap() {
    let (_manager, stage, source) = one_of_each(10, MAX, MAX);
    assert_eq!(stage.capacity(), MAX);
    let rejected = source.try_send_batch(&stage, rows("a", 0..11)).unwrap_err();
    assert_eq!((rejected.accepted, rejected.reason), (10, global_full(10, 10)));
    assert_eq!(drain(&stage), (0..10).collect::<Vec<_>>());
}

/// A record so large that a ring of `u32::MAX` of them fits in no machine.
struct Page([u8; 4096]);

impl conveyor_buffer::Envelope for Page {
    fn source_id(&self) -> &str {
        "a"
    }

    fn retry_count(&self) -> u32 {
        u32::from(self.0[0])
    }

    fn increment_retry(&mut self) {
        self.0[0] += 1;
    }
}

#[test]
fn a_stage_that_fits_in_no_memory_is_refused_and_nothing_else_is_harmed() {
    let manager = BufferManager::<Page>::builder(caps(MAX, MAX, MAX))
        .stage_capacity("small", 2)
        .build()
        .unwrap();
    let error = manager.stage("huge").unwrap_err();
    assert_eq!(error, RegistryError::OutOfMemory { stage_id: "huge".into(), records: MAX });

    let rejected =
        block_on(manager.buffer_for_stage("huge", Page([0; 4096]))).expect_err("no memory");
    assert!(!rejected.is_full() && !rejected.is_closed());
    assert!(rejected.to_string().contains("huge"), "{rejected}");

    block_on(manager.buffer_for_stage("small", rejected.into_record())).unwrap();
    assert_eq!(block_on(manager.get_batch("small", 10)).len(), 1);
    assert_eq!(block_on(manager.get_total_buffered()), 0);
}

#[test]
fn dead_letters_that_fit_in_no_memory_are_refused() {
    let error = BufferManager::<Page>::builder(BufferSettings::default())
        .dead_letter_capacity(MAX)
        .build()
        .unwrap_err();
    let expected = SettingsError::OutOfMemory { field: "dead_letter_capacity", records: MAX };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("dead_letter_capacity"));
}
