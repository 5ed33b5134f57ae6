//! The configuration: read from TOML and JSON, with errors that name the field.

mod common;

use std::time::Duration;

use conveyor_buffer::{
    Backoff, BackoffConfig, BackpressureSignal, BufferSettings, Builder, Config, SettingsError,
    SourceConfig, StageConfig,
};

use common::*;

const EXAMPLE: &str = include_str!("../examples/config.toml");

fn error(text: &str) -> String {
    toml::from_str::<Config>(text).expect_err(text).to_string()
}

#[test]
fn the_example_file_sets_every_field_and_builds_what_it_says() {
    let config: Config = toml::from_str(EXAMPLE).unwrap();
    // Every field that there is, so that a new one is added to the example.
    let written = serde_json::to_value(&config).unwrap();
    for table in [&written, &written["settings"], &written["retry_backoff"]] {
        for (field, value) in table.as_object().unwrap() {
            assert!(!value.is_null(), "{field} is not in the example");
        }
    }
    for kind in ["stages", "sources"] {
        let entries: Vec<_> = written[kind].as_object().unwrap().values().collect();
        for field in entries[0].as_object().unwrap().keys() {
            assert!(entries.iter().any(|entry| !entry[field].is_null()), "{kind}: {field}");
        }
    }

    let manager = Builder::<Row>::from_config(config).build().unwrap();
    let controller = manager.controller();
    assert_eq!((controller.high_watermark(), controller.low_watermark()), (0.85, 0.5));
    assert_eq!(manager.dead_letters().capacity(), 1_000);
    let stages = ["parse", "load", "other"].map(|id| manager.stage(id).unwrap().capacity());
    assert_eq!(stages, [50_000, 2_000, 20_000]);
    let sources = ["bulk", "kafka-1", "other"].map(|id| manager.source(id).unwrap());
    assert_eq!(sources.each_ref().map(|source| source.capacity()), [500, 10_000, 5_000]);
    assert_eq!(manager.source("alarms").unwrap().guarantee(), 100);
    // A record that is returned stays away.
    let stage = manager.stage("load").unwrap();
    sources[0].try_send(&stage, row("bulk", 0)).unwrap();
    stage.try_recv_batch(1).unwrap().return_to_buffer();
    assert_eq!((stage.len(), stage.delayed()), (0, 1));
}

#[test]
fn what_is_left_out_has_its_default() {
    let config: Config = toml::from_str("").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.settings, BufferSettings::default());
    let config: Config = toml::from_str("settings.max_per_stage = 7").unwrap();
    assert_eq!(config.settings, BufferSettings { max_per_stage: 7, ..BufferSettings::default() });
    let manager = Builder::<Row>::from_config(config).build().unwrap();
    assert_eq!(manager.stage("stage").unwrap().capacity(), 7);

    for (text, high, low) in [
        ("settings.backpressure_threshold = 0.4", 0.4, 0.3),
        ("high_watermark = 0.4", 0.4, 0.3),
        ("low_watermark = 0.1", 0.8, 0.1),
    ] {
        let config = toml::from_str(text).unwrap();
        let manager = Builder::<Row>::from_config(config).build().unwrap();
        let controller = manager.controller();
        assert_eq!(
            (controller.high_watermark(), controller.low_watermark()),
            (high, low),
            "{text}"
        );
    }
}

#[test]
fn what_is_written_is_read_again() {
    let config: Config = toml::from_str(EXAMPLE).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    let text = serde_json::to_string(&Config::default()).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), Config::default());

    for signal in
        [BackpressureSignal::Resume, BackpressureSignal::SlowDown, BackpressureSignal::Pause]
    {
        let text = serde_json::to_string(&signal).unwrap();
        assert_eq!(serde_json::from_str::<BackpressureSignal>(&text).unwrap(), signal);
    }
    assert_eq!(serde_json::to_string(&BackpressureSignal::SlowDown).unwrap(), "\"slow_down\"");
}

/// The path of each number in the example.
fn fields() -> Vec<(&'static str, &'static str)> {
    let mut table = "";
    let mut fields = Vec::new();
    for line in EXAMPLE.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']');
        } else if let Some((field, _)) = line.split_once(" = ") {
            fields.push((table, field));
        }
    }
    fields
}

#[test]
fn a_wrong_value_in_any_field_is_an_error_that_names_the_field() {
    let fields = fields();
    assert!(fields.len() >= 14, "{fields:?}");
    for (table, field) in fields {
        let named = |error: &str| {
            let mut path = table.split('.').map(|part| part.trim_matches('"')).chain([field]);
            path.all(|part| part.is_empty() || error.contains(part))
        };
        for wrong in ["\"many\"", "-1", "[]", "true", "0"] {
            // What `build` checks, or what may be 0.
            let counts = ["max_retries", "longest_ms", "idle_sources_ms"];
            if wrong == "true" && field == "measure_time"
                || wrong == "0" && counts.contains(&field)
                || ["0", "-1"].contains(&wrong) && field == "jitter"
            {
                continue;
            }
            let text = if table.is_empty() {
                format!("{field} = {wrong}")
            } else {
                format!("[{table}]\n{field} = {wrong}")
            };
            let value: toml::Table = toml::from_str(&text).unwrap();
            // An error without the text of the file.
            let error = value.clone().try_into::<Config>().unwrap_err().to_string();
            assert!(named(&error), "{table} {field} = {wrong}: {error}");
            let json = serde_json::to_string(&value).unwrap();
            let error = serde_json::from_str::<Config>(&json).unwrap_err().to_string();
            assert!(named(&error), "{json}: {error}");
        }
    }
}

#[test]
fn values_out_of_range_are_errors_that_say_the_range() {
    for (text, expected) in [
        ("settings.max_per_stage = 0", "settings: max_per_stage must be at least 1"),
        ("max_sources = 5_000_000_000", "max_sources must be at most 4294967295, got 5000000000"),
        ("sources.a.capacity = 0", "sources: a: capacity must be at least 1"),
        ("settings.backpressure_threshold = 1.5", "above 0.0 and at most 1.0, got 1.5"),
        ("settings.backpressure_threshold = nan", "above 0.0 and at most 1.0, got NaN"),
        ("stages.\"\".capacity = 1", "stages: a name must not be empty"),
        ("high_watermark = 1.5", "high_watermark must be above 0.0 and at most 1.0, got 1.5"),
        ("low_watermark = -0.5", "low_watermark must be above 0.0 and at most 1.0, got -0.5"),
        ("max_age_ms = 0", "max_age_ms must be from 1 ms to 24 days, got 0ns"),
        ("retry_backoff.longest_ms = 100", "retry_backoff: first_ms must be at least 1"),
        (
            "retry_backoff = { first_ms = 10, longest_ms = 5 }",
            "retry_backoff: longest_ms must be at least first_ms, 10, got 5",
        ),
        (
            "sources.a = { capacity = 2, guarantee = 3 }",
            "sources: a: capacity must be at least 3 for guarantee, got 2",
        ),
    ] {
        assert!(error(text).contains(expected), "{text}: {}", error(text));
    }
    // What depends on several fields is an error of `build`.
    for (text, expected) in [
        (
            "high_watermark = 0.5\nlow_watermark = 0.6",
            SettingsError::Watermarks { high: 0.5, low: 0.6 },
        ),
        (
            "settings.max_per_source = 2\nsources.a.guarantee = 3",
            SettingsError::BelowGuarantee { field: "max_per_source", value: 2, guarantee: 3 },
        ),
        (
            "retry_backoff = { first_ms = 1, jitter = -1.0 }",
            SettingsError::Share { field: "retry_backoff.jitter", value: -1.0 },
        ),
    ] {
        let builder = Builder::<Row>::from_config(toml::from_str(text).unwrap());
        assert_eq!(builder.build().unwrap_err(), expected, "{text}");
    }
}

#[test]
fn unknown_fields_and_fields_given_twice_are_errors_that_name_them() {
    for (text, path) in [
        ("max_stage = 1", "max_stage"),
        ("[settings]\nmax_records = 1", "settings: unknown field `max_records`"),
        ("[stages.parse]\ncap = 1", "stages: parse: unknown field `cap`"),
        ("[retry_backoff]\nfirst = 1", "retry_backoff: unknown field `first`"),
        ("[sources.a]\ncap = 1", "sources: a: unknown field `cap`"),
    ] {
        assert!(error(text).contains(path), "{}", error(text));
        assert!(error(text).contains("expected"), "it names those that there are: {}", error(text));
    }
    for (text, path) in [
        (r#"{"max_stages": 1, "max_stages": 1}"#, "max_stages: given twice"),
        (r#"{"stages": {"a": {}, "a": {}}}"#, "stages: a: given twice"),
        (r#"{"settings": {"max_per_stage": 1, "max_per_stage": 1}}"#, "max_per_stage: given twice"),
    ] {
        let error = serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
    }
    assert!(serde_json::from_str::<BackpressureSignal>("\"stop\"").is_err());
}

#[test]
fn a_configuration_can_be_made_in_the_program() {
    let mut config = Config::default();
    let (mut stage, mut source) = (StageConfig::default(), SourceConfig::default());
    stage.capacity = Some(3);
    source.capacity = Some(2);
    config.stages.insert("a".to_owned(), stage);
    config.sources.insert("b".to_owned(), source);
    let manager = Builder::<Row>::from_config(config.clone()).build().unwrap();
    assert_eq!(manager.stage("a").unwrap().capacity(), 3);
    assert_eq!(manager.source("b").unwrap().capacity(), 2);
    (config.max_sources, config.idle_sources_ms) = (Some(1), Some(0));
    let manager = Builder::<Row>::from_config(config.clone()).build().unwrap();
    let made = ["b", "c", "d"].map(|id| manager.source(id).is_ok());
    assert_eq!(made, [true; 3], "each gives its place to the next");
    let mut backoff = BackoffConfig::default();
    (backoff.first_ms, backoff.longest_ms) = (5, Some(50));
    let (first, longest) = (Duration::from_millis(5), Duration::from_millis(50));
    assert_eq!(Backoff::from(backoff.clone()), Backoff::exponential(first, longest));
    backoff.longest_ms = None;
    assert_eq!(Backoff::from(backoff), Backoff::fixed(first));
    config.max_stages = Some(0);
    let error = Builder::<Row>::from_config(config).build().unwrap_err();
    assert_eq!(error, SettingsError::Zero { field: "max_stages" });
}
