//! The SQLite file that all workers write.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use conveyor_buffer_nats::Carries;
use rusqlite::{Connection, OpenFlags, params};

use crate::Failure;
use crate::flight::Flight;

/// How long to wait for the other process that writes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The sequence of its message identifies a flight, however often the message is delivered.
const TABLES: &str = "
    CREATE TABLE flights (
        sequence INTEGER PRIMARY KEY,
        day INTEGER NOT NULL, carrier TEXT NOT NULL, flight INTEGER NOT NULL,
        origin TEXT NOT NULL, dest TEXT NOT NULL, dep_delay INTEGER,
        line TEXT NOT NULL, worker TEXT NOT NULL
    );
    CREATE TABLE workers (
        name TEXT PRIMARY KEY,
        loaded INTEGER NOT NULL, redelivered INTEGER NOT NULL, duplicates INTEGER NOT NULL
    );";

const INSERT: &str = "INSERT OR IGNORE INTO flights VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// In the transaction of the flights, so that the counts of a worker that is killed are right.
const COUNT: &str = "
    INSERT INTO workers VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
        loaded = loaded + ?2, redelivered = redelivered + ?3, duplicates = duplicates + ?4";

pub struct Database {
    connection: Connection,
}

/// What a worker has done.
pub struct Tally {
    pub worker: String,
    pub loaded: i64,
    pub redelivered: i64,
    pub duplicates: i64,
}

impl Database {
    /// Creates the file. Replaces a file of this program, and no other.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        if path.exists() {
            let is_ours = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
                .and_then(|old| old.table_exists(None, "workers"));
            if !is_ours.unwrap_or(false) {
                let path = path.display();
                return Err(format!("{path} is not a file of this program: it stays").into());
            }
        }
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let database = Self::open(path)?;
        database.connection.pragma_update(None, "journal_mode", "wal")?;
        database.connection.execute_batch(TABLES)?;
        Ok(database)
    }

    pub fn open(path: &Path) -> Result<Self, Failure> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(LOCK_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "normal")?;
        Ok(Self { connection })
    }

    /// Inserts flights in one transaction, except those that are there already.
    pub fn load<'f>(
        &mut self,
        worker: &str,
        flights: impl Iterator<Item = &'f Flight>,
    ) -> rusqlite::Result<()> {
        let (mut loaded, mut redelivered, mut duplicates) = (0, 0, 0);
        // The lock is taken at once: a transaction that turns into a writer later may be refused.
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for flight in flights {
                let inserted = i64::try_from(insert.execute(params![
                    flight.delivery().stream_sequence() as i64,
                    flight.day,
                    flight.carrier,
                    flight.number,
                    flight.origin,
                    flight.dest,
                    flight.dep_delay,
                    String::from_utf8_lossy(flight.line()),
                    worker,
                ])?)
                .unwrap_or(0);
                loaded += inserted;
                duplicates += 1 - inserted;
                redelivered += i64::from(flight.delivery().delivered() > 1);
            }
        }
        transaction.execute(COUNT, params![worker, loaded, redelivered, duplicates])?;
        transaction.commit()
    }

    /// Returns the number of flights.
    pub fn count(&self) -> rusqlite::Result<i64> {
        self.connection.query_row("SELECT count(*) FROM flights", [], |row| row.get(0))
    }

    /// Returns the rows in the order of their messages.
    pub fn lines(&self) -> rusqlite::Result<Vec<String>> {
        let mut select = self.connection.prepare("SELECT line FROM flights ORDER BY sequence")?;
        select.query_map([], |row| row.get(0))?.collect()
    }

    pub fn tallies(&self) -> rusqlite::Result<Vec<Tally>> {
        let mut select = self.connection.prepare("SELECT * FROM workers ORDER BY name")?;
        let tally = |row: &rusqlite::Row<'_>| {
            Ok(Tally {
                worker: row.get(0)?,
                loaded: row.get(1)?,
                redelivered: row.get(2)?,
                duplicates: row.get(3)?,
            })
        };
        select.query_map([], tally)?.collect()
    }
}
