//! The record: a row of a CSV file that becomes a row of a table.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use conveyor_buffer::Envelope;
use csv::ByteRecord;

use crate::reference::Weather;

/// A row of a CSV file of flights, at some stage of the pipeline.
pub struct Flight {
    /// The source that read it. Names live as long as the program, so that records need no shared
    /// pointer to them.
    source: &'static str,
    /// The number of its file, since each file has columns of its own.
    file: usize,
    retries: u32,
    /// The row as it was read, which dead letters show.
    row: ByteRecord,
    body: Body,
}

/// The state of a row.
pub enum Body {
    /// Before `parse`.
    Raw,
    /// `parse` failed.
    Failed(ParseError),
    /// After `parse`.
    Parsed(Departure),
    /// After `enrich`.
    Enriched(Departure, Surroundings),
}

/// A departure. It always has a time of departure; other values that the file lacks are `None`,
/// such as the arrival of a flight that was diverted.
pub struct Departure {
    pub year: Option<i64>,
    pub month: Option<i64>,
    pub day: Option<i64>,
    pub dep_time: i64,
    pub sched_dep_time: Option<i64>,
    pub dep_delay: Option<i64>,
    pub arr_time: Option<i64>,
    pub sched_arr_time: Option<i64>,
    pub arr_delay: Option<i64>,
    pub carrier: Option<String>,
    pub flight: Option<i64>,
    pub tailnum: Option<String>,
    pub origin: Option<String>,
    pub dest: Option<String>,
    pub air_time: Option<i64>,
    pub distance: Option<i64>,
    pub hour: Option<i64>,
    pub minute: Option<i64>,
    pub time_hour: Option<String>,
}

/// The data that `enrich` adds to a departure, where it is known.
pub struct Surroundings {
    pub airline: Option<Arc<str>>,
    pub weather: Option<Weather>,
}

/// Why a row is not a departure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It has no time of departure.
    Cancelled,
    /// The number of fields differs from the header's.
    Fields { found: usize, expected: usize },
    /// A field is not UTF-8.
    NotText { column: Column },
    /// A field is not a number.
    NotANumber { column: Column },
}

impl Flight {
    pub fn new(source: &'static str, file: usize, row: ByteRecord) -> Self {
        Self { source, file, retries: 0, row, body: Body::Raw }
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Returns the line that was read, byte for byte, except that invalid UTF-8 is replaced.
    pub fn line(&self) -> String {
        let fields: Vec<_> = self.row.iter().collect();
        String::from_utf8_lossy(&fields.join(&b',')).into_owned()
    }

    /// Parses the row by the columns of its file. Returns whether it is a departure.
    pub fn parse(&mut self, columns: &[Columns]) -> bool {
        match columns[self.file].parse(&self.row) {
            Ok(departure) => {
                self.body = Body::Parsed(departure);
                true
            }
            Err(error) => {
                self.body = Body::Failed(error);
                false
            }
        }
    }

    /// Adds what `look_up` knows of the departure.
    pub fn enrich(&mut self, look_up: impl FnOnce(&Departure) -> Surroundings) {
        // The parse stage forwards departures only.
        self.body = match std::mem::replace(&mut self.body, Body::Raw) {
            Body::Parsed(departure) => {
                let surroundings = look_up(&departure);
                Body::Enriched(departure, surroundings)
            }
            other => other,
        };
    }
}

impl Envelope for Flight {
    fn source_id(&self) -> &str {
        self.source
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled: no dep_time"),
            Self::Fields { found, expected } => {
                write!(f, "malformed: {found} fields instead of {expected}")
            }
            Self::NotText { column } => write!(f, "malformed: {column} is not UTF-8"),
            Self::NotANumber { column } => write!(f, "malformed: {column} is not a number"),
        }
    }
}

/// The columns that a departure is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Year,
    Month,
    Day,
    DepTime,
    SchedDepTime,
    DepDelay,
    ArrTime,
    SchedArrTime,
    ArrDelay,
    Carrier,
    Flight,
    Tailnum,
    Origin,
    Dest,
    AirTime,
    Distance,
    Hour,
    Minute,
    TimeHour,
}

/// Their names, in the same order.
const NAMES: [&str; 19] = [
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "air_time",
    "distance",
    "hour",
    "minute",
    "time_hour",
];

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[*self as usize])
    }
}

/// The positions of the columns in a row, from the header of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Columns {
    /// The position of each of [`NAMES`].
    places: [usize; NAMES.len()],
    /// The number of fields of a row, of these columns and others.
    fields: usize,
}

impl Columns {
    /// # Errors
    ///
    /// The first column that the header lacks.
    pub fn from_header(header: &ByteRecord) -> Result<Self, MissingColumn> {
        let mut places = [0; NAMES.len()];
        for (place, name) in places.iter_mut().zip(NAMES) {
            let found = header.iter().position(|field| unquoted(field) == name.as_bytes());
            *place = found.ok_or(MissingColumn(name))?;
        }
        Ok(Self { places, fields: header.len() })
    }

    /// Returns the airport that a row names, if any.
    pub fn airport<'r>(&self, row: &'r ByteRecord) -> Option<&'r str> {
        let code = std::str::from_utf8(self.field(row, Column::Origin)?).ok()?;
        let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        is_code.then_some(code)
    }

    fn parse(&self, row: &ByteRecord) -> Result<Departure, ParseError> {
        if row.len() != self.fields {
            return Err(ParseError::Fields { found: row.len(), expected: self.fields });
        }
        let text = |column| self.text(row, column);
        let owned = |column| Ok(text(column)?.map(str::to_owned));
        let number = |column| match text(column)? {
            None => Ok(None),
            Some(text) => match i64::from_str(text) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ParseError::NotANumber { column }),
            },
        };
        Ok(Departure {
            year: number(Column::Year)?,
            month: number(Column::Month)?,
            day: number(Column::Day)?,
            dep_time: number(Column::DepTime)?.ok_or(ParseError::Cancelled)?,
            sched_dep_time: number(Column::SchedDepTime)?,
            dep_delay: number(Column::DepDelay)?,
            arr_time: number(Column::ArrTime)?,
            sched_arr_time: number(Column::SchedArrTime)?,
            arr_delay: number(Column::ArrDelay)?,
            carrier: owned(Column::Carrier)?,
            flight: number(Column::Flight)?,
            tailnum: owned(Column::Tailnum)?,
            origin: owned(Column::Origin)?,
            dest: owned(Column::Dest)?,
            air_time: number(Column::AirTime)?,
            distance: number(Column::Distance)?,
            hour: number(Column::Hour)?,
            minute: number(Column::Minute)?,
            time_hour: owned(Column::TimeHour)?,
        })
    }

    /// Returns a field, or `None` if the file marks it as not available.
    fn text<'r>(&self, row: &'r ByteRecord, column: Column) -> Result<Option<&'r str>, ParseError> {
        let field = self.field(row, column).unwrap_or_default();
        match std::str::from_utf8(field) {
            Ok("NA" | "") => Ok(None),
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(ParseError::NotText { column }),
        }
    }

    fn field<'r>(&self, row: &'r ByteRecord, column: Column) -> Option<&'r [u8]> {
        row.get(self.places[column as usize]).map(unquoted)
    }
}

/// A column that a file lacks.
#[derive(Debug)]
pub struct MissingColumn(&'static str);

impl fmt::Display for MissingColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its header has no column {}", self.0)
    }
}

impl std::error::Error for MissingColumn {}

/// Returns a field without the quotes around it. No field of these files contains a comma or a
/// quote.
fn unquoted(field: &[u8]) -> &[u8] {
    match field {
        [b'"', inner @ .., b'"'] => inner,
        _ => field,
    }
}
