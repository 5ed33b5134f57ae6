//! The SQLite file: its tables, the transactions that fill it, and the queries of the report.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conveyor_buffer::DeadLetter;
use rusqlite::{Connection, Row, params};

use crate::error::Error;
use crate::flight::{Body, Flight};

/// How long to wait for another program that holds the file's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The first bytes of every SQLite file.
const MAGIC: &[u8] = b"SQLite format 3\0";

const TABLES: &str = "
    CREATE TABLE flights (
        year INTEGER, month INTEGER, day INTEGER,
        dep_time INTEGER NOT NULL, sched_dep_time INTEGER, dep_delay INTEGER,
        arr_time INTEGER, sched_arr_time INTEGER, arr_delay INTEGER,
        carrier TEXT, airline TEXT, flight INTEGER, tailnum TEXT, origin TEXT, dest TEXT,
        air_time INTEGER, distance INTEGER, hour INTEGER, minute INTEGER, time_hour TEXT,
        temp REAL, dewp REAL, humid REAL, wind_dir REAL, wind_speed REAL, wind_gust REAL,
        precip REAL, pressure REAL, visib REAL
    );
    CREATE TABLE dead_letters (
        origin TEXT NOT NULL, stage TEXT NOT NULL, retries INTEGER NOT NULL, reason TEXT NOT NULL,
        line TEXT NOT NULL
    );";

const INSERT_FLIGHT: &str = "INSERT INTO flights VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const INSERT_DEAD_LETTER: &str = "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?)";

const AIRLINES: &str = "
    SELECT carrier, max(airline), count(*), avg(dep_delay), avg(arr_delay)
    FROM flights GROUP BY carrier ORDER BY count(*) DESC, carrier";

/// The only connection that writes.
pub struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// A line of the table of airlines.
pub struct Airline {
    pub carrier: Option<String>,
    pub name: Option<String>,
    pub flights: u64,
    /// Means in minutes, of the flights that have a delay.
    pub dep_delay: Option<f64>,
    pub arr_delay: Option<f64>,
}

impl Database {
    /// Creates the file with empty tables. Replaces an SQLite file, and no other.
    ///
    /// # Errors
    ///
    /// An error of SQLite or of the file system.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let connection = create(path).map_err(|cause| Error::database(path, cause))?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Inserts flights in one transaction, which is committed when this returns.
    ///
    /// # Errors
    ///
    /// An error of SQLite. None of the records is inserted then.
    pub fn load<'f>(&self, flights: impl Iterator<Item = &'f Flight>) -> Result<(), Error> {
        self.run(|connection| {
            let transaction = connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached(INSERT_FLIGHT)?;
                for flight in flights {
                    // No other record reaches this stage. The accounting at the end would find one.
                    let Body::Enriched(departure, surroundings) = flight.body() else { continue };
                    let weather = surroundings.weather.as_ref();
                    insert.execute(params![
                        departure.year,
                        departure.month,
                        departure.day,
                        departure.dep_time,
                        departure.sched_dep_time,
                        departure.dep_delay,
                        departure.arr_time,
                        departure.sched_arr_time,
                        departure.arr_delay,
                        departure.carrier,
                        surroundings.airline.as_deref(),
                        departure.flight,
                        departure.tailnum,
                        departure.origin,
                        departure.dest,
                        departure.air_time,
                        departure.distance,
                        departure.hour,
                        departure.minute,
                        departure.time_hour,
                        weather.and_then(|weather| weather.temp),
                        weather.and_then(|weather| weather.dewp),
                        weather.and_then(|weather| weather.humid),
                        weather.and_then(|weather| weather.wind_dir),
                        weather.and_then(|weather| weather.wind_speed),
                        weather.and_then(|weather| weather.wind_gust),
                        weather.and_then(|weather| weather.precip),
                        weather.and_then(|weather| weather.pressure),
                        weather.and_then(|weather| weather.visib),
                    ])?;
                }
            }
            transaction.commit()
        })
    }

    /// Inserts dead letters in one transaction, which is committed when this returns.
    ///
    /// # Errors
    ///
    /// An error of SQLite. None of the records is inserted then.
    pub fn insert_dead_letters(&self, letters: &[DeadLetter<Flight>]) -> Result<(), Error> {
        self.run(|connection| {
            let transaction = connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached(INSERT_DEAD_LETTER)?;
                for letter in letters {
                    let reason = match letter.record.body() {
                        Body::Failed(error) => error.to_string(),
                        _ => "returned too often".to_owned(),
                    };
                    insert.execute(params![
                        letter.source_id,
                        letter.stage_id,
                        letter.retry_count,
                        reason,
                        letter.record.line(),
                    ])?;
                }
            }
            transaction.commit()
        })
    }

    /// Returns the numbers of flights and of dead letters in the file.
    ///
    /// # Errors
    ///
    /// An error of SQLite.
    pub fn counts(&self) -> Result<(u64, u64), Error> {
        let query = "SELECT (SELECT count(*) FROM flights), (SELECT count(*) FROM dead_letters)";
        self.run(|connection| {
            connection.query_row(query, [], |row| Ok((count(row, 0)?, count(row, 1)?)))
        })
    }

    /// Returns the airlines, those with the most flights first.
    ///
    /// # Errors
    ///
    /// An error of SQLite.
    pub fn airlines(&self) -> Result<Vec<Airline>, Error> {
        self.run(|connection| {
            let mut query = connection.prepare(AIRLINES)?;
            let airlines = query.query_map([], |row| {
                Ok(Airline {
                    carrier: row.get(0)?,
                    name: row.get(1)?,
                    flights: count(row, 2)?,
                    dep_delay: row.get(3)?,
                    arr_delay: row.get(4)?,
                })
            })?;
            airlines.collect()
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn run<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        work(&mut self.connection()).map_err(|cause| Error::database(&self.path, cause))
    }

    /// A poisoned lock is no problem: the transaction of a thread that panicked was rolled back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a count. SQLite's integers are signed, but a count is never negative.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

fn create(path: &Path) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if is_foreign(path)? {
        return Err("it exists and is not an SQLite file, so it is not replaced".into());
    }
    // SQLite keeps up to three files beside its own. It would take those that a killed program has
    // left for files of the new database.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    // With a write-ahead log a commit does not wait for the disk: a crash of the machine may lose
    // the last commits, but does not damage the file; a crash of the program loses nothing.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.execute_batch(TABLES)?;
    Ok(connection)
}

/// Returns whether the path names something other than an SQLite file or an empty file.
fn is_foreign(path: &Path) -> std::io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.is_file() => Ok(true),
        Ok(_) => {
            let mut start = Vec::new();
            File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut start)?;
            Ok(!start.is_empty() && start != MAGIC)
        }
    }
}
