//! The data that flights are joined with: the names of airlines, and the weather at each airport.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use csv::StringRecord;

use crate::error::Error;
use crate::flight::{Departure, Surroundings};

/// The weather at one airport in one hour. A value that was not measured is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub temp: Option<f64>,
    pub dewp: Option<f64>,
    pub humid: Option<f64>,
    pub wind_dir: Option<f64>,
    pub wind_speed: Option<f64>,
    pub wind_gust: Option<f64>,
    pub precip: Option<f64>,
    pub pressure: Option<f64>,
    pub visib: Option<f64>,
}

/// Airlines by carrier code, and weather by airport and hour.
pub struct Reference {
    airlines: HashMap<String, Arc<str>>,
    weather: HashMap<String, HashMap<String, Weather>>,
}

impl Reference {
    /// # Errors
    ///
    /// The file that cannot be read, and why.
    pub fn read(airlines: &Path, weather: &Path) -> Result<Self, Error> {
        Ok(Self {
            airlines: read_airlines(airlines).map_err(|cause| Error::file(airlines, cause))?,
            weather: read_weather(weather).map_err(|cause| Error::file(weather, cause))?,
        })
    }

    /// Returns what is known about a departure.
    pub fn of(&self, departure: &Departure) -> Surroundings {
        let airline = departure.carrier.as_ref().and_then(|carrier| self.airlines.get(carrier));
        let weather = departure
            .origin
            .as_ref()
            .zip(departure.time_hour.as_ref())
            .and_then(|(origin, hour)| self.weather.get(origin)?.get(hour));
        Surroundings { airline: airline.cloned(), weather: weather.copied() }
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn read_airlines(path: &Path) -> Result<HashMap<String, Arc<str>>, Cause> {
    let mut reader = csv::Reader::from_path(path)?;
    let header = reader.headers()?.clone();
    let (carrier, name) = (column(&header, "carrier")?, column(&header, "name")?);
    let mut airlines = HashMap::new();
    for row in reader.records() {
        let row = row?;
        airlines.insert(row[carrier].to_owned(), Arc::from(&row[name]));
    }
    Ok(airlines)
}

fn read_weather(path: &Path) -> Result<HashMap<String, HashMap<String, Weather>>, Cause> {
    let mut reader = csv::Reader::from_path(path)?;
    let header = reader.headers()?.clone();
    let (origin, time_hour) = (column(&header, "origin")?, column(&header, "time_hour")?);
    let names = [
        "temp",
        "dewp",
        "humid",
        "wind_dir",
        "wind_speed",
        "wind_gust",
        "precip",
        "pressure",
        "visib",
    ];
    let mut places = [0; 9];
    for (place, name) in places.iter_mut().zip(names) {
        *place = column(&header, name)?;
    }
    let mut weather = HashMap::<String, HashMap<String, Weather>>::new();
    for row in reader.records() {
        let row = row?;
        let mut values = [None; 9];
        for (value, place) in values.iter_mut().zip(places) {
            *value = number(&row, place)?;
        }
        let [temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib] = values;
        let measured =
            Weather { temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib };
        let at_airport = weather.entry(row[origin].to_owned()).or_default();
        at_airport.insert(row[time_hour].to_owned(), measured);
    }
    Ok(weather)
}

fn column(header: &StringRecord, name: &str) -> Result<usize, String> {
    let place = header.iter().position(|column| column == name);
    place.ok_or_else(|| format!("its header has no column {name}"))
}

fn number(row: &StringRecord, place: usize) -> Result<Option<f64>, String> {
    match &row[place] {
        "NA" | "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let line = row.position().map_or(0, csv::Position::line);
            format!("line {line}: {text:?} is not a number")
        }),
    }
}
