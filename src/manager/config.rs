//! The configuration: all that a builder takes, as data.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::builder::{Builder, budget, max_age};
use crate::backpressure::low_for;
use crate::record::Envelope;
use crate::retry::Backoff;
use crate::settings::{BufferSettings, SettingsError, cap, check_threshold, is_threshold};

/// All that a [`Builder`] takes, as data that can be read from a file.
///
/// Any format of [`serde`] will do that names its fields, such as TOML or JSON. What is not given has
/// its default. Unknown fields, values of the wrong type and values out of range are errors that name
/// the field with its entry, as in `stages: parse: capacity must be at least 1`.
/// [`Builder::build`] checks what depends on several fields.
///
/// The whole as a file, `examples/config.toml`:
///
/// ```toml
#[doc = include_str!("../../examples/config.toml")]
/// ```
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferedRecord, Builder, Config};
///
/// let text = r#"
///     max_retries = 3
///     settings = { max_total_records = 1_000 }
///     stages = { parse = { capacity = 100 } }
/// "#;
/// let config: Config = toml::from_str(text)?;
/// let manager = Builder::<BufferedRecord<String>>::from_config(config).build()?;
/// assert_eq!(manager.stage("parse")?.capacity(), 100);
///
/// let error = toml::from_str::<Config>("stages.parse.capacity = 0").unwrap_err();
/// assert!(error.to_string().contains("stages: parse: capacity must be at least 1"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Config {
    /// The caps and the threshold.
    pub settings: BufferSettings,
    /// The high one of [`Builder::watermarks`], in place of the threshold.
    pub high_watermark: Option<f64>,
    /// The low one of [`Builder::watermarks`]. Default: three quarters of the high one.
    pub low_watermark: Option<f64>,
    /// [`Builder::max_retries`].
    pub max_retries: Option<u32>,
    /// [`Builder::retry_backoff`].
    pub retry_backoff: Option<BackoffConfig>,
    /// [`Builder::max_age`], in milliseconds.
    pub max_age_ms: Option<u64>,
    /// [`Builder::measure_time`].
    pub measure_time: Option<bool>,
    /// [`Builder::max_stages`].
    pub max_stages: Option<usize>,
    /// [`Builder::max_sources`].
    pub max_sources: Option<usize>,
    /// [`Builder::idle_sources`], in milliseconds.
    pub idle_sources_ms: Option<u64>,
    /// [`Builder::dead_letter_capacity`].
    pub dead_letter_capacity: Option<usize>,
    /// [`Builder::max_total_bytes`].
    pub max_total_bytes: Option<usize>,
    /// [`Builder::max_source_bytes`].
    pub max_source_bytes: Option<usize>,
    /// What differs from the settings in single stages, by name.
    pub stages: BTreeMap<String, StageConfig>,
    /// What differs from the settings in single sources, by name.
    pub sources: BTreeMap<String, SourceConfig>,
}

/// A [`Backoff`], as a [`Config`] gives it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// The delay after the first failure of a record, in milliseconds.
    pub first_ms: u64,
    /// The longest delay, to which it doubles with each failure, in milliseconds. Default: every
    /// delay is the first one.
    pub longest_ms: Option<u64>,
    /// [`Backoff::jitter`].
    pub jitter: f64,
}

impl From<BackoffConfig> for Backoff {
    fn from(config: BackoffConfig) -> Self {
        let first = Duration::from_millis(config.first_ms);
        let backoff = match config.longest_ms {
            None => Self::fixed(first),
            Some(longest) => Self::exponential(first, Duration::from_millis(longest)),
        };
        backoff.jitter(config.jitter)
    }
}

/// What a [`Config`] says of one stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct StageConfig {
    /// [`Builder::stage_capacity`].
    pub capacity: Option<usize>,
}

/// What a [`Config`] says of one source.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct SourceConfig {
    /// [`Builder::source_capacity`].
    pub capacity: Option<usize>,
    /// [`Builder::source_guarantee`].
    pub guarantee: Option<usize>,
}

impl<E: Envelope> Builder<E> {
    /// Creates a builder from a configuration.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferedRecord, Builder, Config, SettingsError};
    ///
    /// let text = r#"{ "max_sources": 10, "sources": { "bulk": { "capacity": 100 } } }"#;
    /// let config: Config = serde_json::from_str(text)?;
    /// let manager = Builder::<BufferedRecord<u8>>::from_config(config).build()?;
    /// assert_eq!(manager.source("bulk")?.capacity(), 100);
    ///
    /// // What depends on several fields is checked by `build`.
    /// let text = r#"{ "low_watermark": 0.9 }"#;
    /// let builder = Builder::<BufferedRecord<u8>>::from_config(serde_json::from_str(text)?);
    /// assert_eq!(builder.build().unwrap_err(), SettingsError::Watermarks { high: 0.8, low: 0.9 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_config(config: Config) -> Self {
        let mut builder = Self::new(config.settings);
        if config.high_watermark.is_some() || config.low_watermark.is_some() {
            let high = config.high_watermark.unwrap_or(config.settings.backpressure_threshold);
            builder = builder.watermarks(high, config.low_watermark.unwrap_or(low_for(high)));
        }
        builder = set(builder, config.max_retries, Self::max_retries);
        let backoff = config.retry_backoff.map(Backoff::from);
        builder = set(builder, backoff, Self::retry_backoff);
        let age = config.max_age_ms.map(Duration::from_millis);
        builder = set(builder, age, Self::max_age);
        builder = set(builder, config.measure_time, Self::measure_time);
        builder = set(builder, config.max_stages, Self::max_stages);
        builder = set(builder, config.max_sources, Self::max_sources);
        let idle = config.idle_sources_ms.map(Duration::from_millis);
        builder = set(builder, idle, Self::idle_sources);
        builder = set(builder, config.dead_letter_capacity, Self::dead_letter_capacity);
        builder = set(builder, config.max_total_bytes, Self::max_total_bytes);
        builder = set(builder, config.max_source_bytes, Self::max_source_bytes);
        for (id, stage) in &config.stages {
            builder = set(builder, stage.capacity, |builder, n| builder.stage_capacity(id, n));
        }
        for (id, source) in &config.sources {
            builder = set(builder, source.capacity, |builder, n| builder.source_capacity(id, n));
            builder = set(builder, source.guarantee, |builder, n| builder.source_guarantee(id, n));
        }
        builder
    }
}

/// Calls a method of the builder if its value is given.
fn set<B, T>(builder: B, value: Option<T>, method: impl FnOnce(B, T) -> B) -> B {
    match value {
        Some(value) => method(builder, value),
        None => builder,
    }
}

/// Implements `Deserialize` for a struct with defaults. Each field is read by one of the functions
/// below, which name it in their errors: the formats themselves may not.
macro_rules! deserialize_fields {
    ($type:ident { $($field:ident: $read:ident),+ $(,)? }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                const FIELDS: &[&str] = &[$(stringify!($field)),+];

                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "fields of {}", stringify!($type))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$type, A::Error> {
                        let mut value = $type::default();
                        let mut seen = Vec::new();
                        while let Some(name) = map.next_key::<String>()? {
                            match name.as_str() {
                                $(stringify!($field) => {
                                    value.$field = $read(&mut map, stringify!($field))?;
                                })+
                                unknown => return Err(A::Error::unknown_field(unknown, FIELDS)),
                            }
                            if seen.contains(&name) {
                                return Err(A::Error::custom(format_args!("{name}: given twice")));
                            }
                            seen.push(name);
                        }
                        Ok(value)
                    }
                }

                deserializer.deserialize_struct(stringify!($type), FIELDS, Fields)
            }
        }
    };
}

deserialize_fields!(BufferSettings {
    max_total_records: number,
    max_per_stage: number,
    max_per_source: number,
    backpressure_threshold: threshold,
});

deserialize_fields!(Config {
    settings: value,
    high_watermark: watermark,
    low_watermark: watermark,
    max_retries: value,
    retry_backoff: backoff,
    max_age_ms: age,
    measure_time: value,
    max_stages: optional_number,
    max_sources: optional_number,
    idle_sources_ms: value,
    dead_letter_capacity: optional_number,
    max_total_bytes: optional_budget,
    max_source_bytes: optional_budget,
    stages: entries,
    sources: sources,
});

deserialize_fields!(StageConfig { capacity: optional_number });

deserialize_fields!(SourceConfig { capacity: optional_number, guarantee: optional_number });

deserialize_fields!(BackoffConfig { first_ms: value, longest_ms: value, jitter: value });

/// Reads a value of any kind.
fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    map: &mut A,
    field: &str,
) -> Result<T, A::Error> {
    map.next_value().map_err(|error| A::Error::custom(format_args!("{field}: {error}")))
}

/// Reads a number within the range of a cap.
fn number<'de, A: MapAccess<'de>>(map: &mut A, field: &'static str) -> Result<usize, A::Error> {
    let number = value(map, field)?;
    cap(field, number).map(|_| number).map_err(A::Error::custom)
}

/// The same, where there may be none.
fn optional_number<'de, A: MapAccess<'de>>(
    map: &mut A,
    field: &'static str,
) -> Result<Option<usize>, A::Error> {
    let number: Option<usize> = value(map, field)?;
    if let Some(number) = number {
        cap(field, number).map_err(A::Error::custom)?;
    }
    Ok(number)
}

/// Reads a byte budget, where there may be none.
fn optional_budget<'de, A: MapAccess<'de>>(
    map: &mut A,
    field: &'static str,
) -> Result<Option<usize>, A::Error> {
    let bytes = value(map, field)?;
    budget(field, bytes).map(|_| bytes).map_err(A::Error::custom)
}

fn threshold<'de, A: MapAccess<'de>>(map: &mut A, field: &str) -> Result<f64, A::Error> {
    let threshold = value(map, field)?;
    check_threshold(threshold).map(|()| threshold).map_err(A::Error::custom)
}

fn watermark<'de, A: MapAccess<'de>>(map: &mut A, field: &str) -> Result<Option<f64>, A::Error> {
    let mark: Option<f64> = value(map, field)?;
    match mark {
        Some(mark) if !is_threshold(mark) => Err(A::Error::custom(format_args!(
            "{field} must be above 0.0 and at most 1.0, got {mark}"
        ))),
        _ => Ok(mark),
    }
}

fn age<'de, A: MapAccess<'de>>(map: &mut A, field: &'static str) -> Result<Option<u64>, A::Error> {
    let millis: Option<u64> = value(map, field)?;
    let checked = millis.map(|millis| max_age(field, Duration::from_millis(millis)));
    checked.transpose().map(|_| millis).map_err(A::Error::custom)
}

fn backoff<'de, A: MapAccess<'de>>(
    map: &mut A,
    field: &str,
) -> Result<Option<BackoffConfig>, A::Error> {
    let backoff: Option<BackoffConfig> = value(map, field)?;
    let Some(BackoffConfig { first_ms, longest_ms, .. }) = backoff else { return Ok(None) };
    let longest = longest_ms.unwrap_or(first_ms);
    if first_ms == 0 {
        let zero = SettingsError::Zero { field: "first_ms" };
        Err(A::Error::custom(format_args!("{field}: {zero}")))
    } else if longest < first_ms {
        Err(A::Error::custom(format_args!(
            "{field}: longest_ms must be at least first_ms, {first_ms}, got {longest}"
        )))
    } else {
        Ok(backoff)
    }
}

fn sources<'de, A: MapAccess<'de>>(
    map: &mut A,
    field: &str,
) -> Result<BTreeMap<String, SourceConfig>, A::Error> {
    let sources: BTreeMap<String, SourceConfig> = entries(map, field)?;
    for (id, SourceConfig { capacity, guarantee }) in &sources {
        if let (Some(capacity), Some(guarantee)) = (capacity, guarantee)
            && capacity < guarantee
        {
            return Err(A::Error::custom(format_args!(
                "{field}: {id}: capacity must be at least {guarantee} for guarantee, got {capacity}"
            )));
        }
    }
    Ok(sources)
}

/// Reads one entry for each name, which is not empty.
fn entries<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    map: &mut A,
    field: &str,
) -> Result<BTreeMap<String, T>, A::Error> {
    struct Entries<T>(BTreeMap<String, T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(EntriesVisitor(PhantomData)).map(Entries)
        }
    }

    struct EntriesVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an entry for each name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                if name.is_empty() {
                    return Err(A::Error::custom("a name must not be empty"));
                }
                let entry = value(&mut map, &name)?;
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(A::Error::custom(format_args!("{name}: given twice")));
                }
            }
            Ok(entries)
        }
    }

    value(map, field).map(|Entries(entries)| entries)
}
