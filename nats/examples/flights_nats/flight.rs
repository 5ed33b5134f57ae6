//! The record: a row of the CSV file, with the message that it came in.

use conveyor_buffer::Envelope;
use conveyor_buffer_nats::{Carries, Delivery, Undecodable};

/// The columns of the file, in their order.
pub const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,\
                          arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,\
                          minute,time_hour";

/// A flight on its way from the message to the table.
pub struct Flight {
    pub day: u32,
    /// In minutes; `None` for a flight that was cancelled.
    pub dep_delay: Option<i32>,
    pub carrier: String,
    pub number: u32,
    pub origin: String,
    pub dest: String,
    delivery: Delivery,
}

impl Flight {
    /// Reads the row of a message. This is the decoder of the puller.
    pub fn decode(delivery: Delivery) -> Result<Self, Undecodable> {
        let Ok(line) = std::str::from_utf8(delivery.payload()) else {
            return Err(delivery.undecodable("not text"));
        };
        let fields: Vec<_> = line.split(',').collect();
        let [_, _, day, _, _, dep_delay, _, _, _, carrier, number, _, origin, dest, ..] =
            fields[..]
        else {
            return Err(delivery.undecodable("too few columns"));
        };
        let (Ok(day), Ok(number)) = (day.parse(), number.parse()) else {
            return Err(delivery.undecodable("not a number"));
        };
        Ok(Self {
            day,
            dep_delay: dep_delay.parse().ok(),
            carrier: carrier.to_owned(),
            number,
            origin: origin.to_owned(),
            dest: dest.to_owned(),
            delivery,
        })
    }

    /// Returns the row as it was published.
    pub fn line(&self) -> &[u8] {
        self.delivery.payload()
    }
}

impl Carries for Flight {
    fn delivery(&self) -> &Delivery {
        &self.delivery
    }
}

impl Envelope for Flight {
    fn source_id(&self) -> &str {
        self.delivery.source_id()
    }

    fn retry_count(&self) -> u32 {
        self.delivery.retry_count()
    }

    fn increment_retry(&mut self) {
        self.delivery.increment_retry();
    }
}
