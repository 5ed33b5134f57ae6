//! The rows of the library. Each handle that the library has for a kind of work gets its row here,
//! and so takes part in every workload of that kind.

use super::{BlockingRows, Caps, Description, Rows};
use crate::common::conveyor::{ByProducer, Conveyor};
use crate::common::{Medium, Sourced};

pub const CONVEYOR: Description = Description {
    name: "conveyor-buffer",
    package: "conveyor-buffer",
    caps: Caps::UntilSettled,
    how: "by handle: a `Producer`, `try_send`, `try_send_batch`, `try_recv_batch`, `ack`, `into_records`; to wait, \
          `send_blocking` and `recv_batch_blocking`, or `recv_batch_linger_blocking` to linger",
};

/// A `Producer` of each thread, which gathers blocks.
pub const PRODUCER: &str = "producer";
/// A `Source` and a `Stage`, which threads may share.
pub const SHARED_HANDLE: &str = "shared handle";
/// The same, by the calls that push and take a `Vec`.
pub const BATCHES: &str = "batches";
/// By the names of sources and stages.
#[cfg(feature = "conveyor-etl-buffer")]
pub const BY_NAME: &str = "by name";

/// Single records, of which a thread pushes many before it does anything else.
pub fn singles<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<ByProducer<R>>(CONVEYOR, PRODUCER);
    rows.add::<Conveyor<R>>(CONVEYOR, SHARED_HANDLE);
}

/// Single records, each of which is taken before the next is pushed.
pub fn one_at_a_time<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Conveyor<R>>(CONVEYOR, SHARED_HANDLE);
}

/// Batches of records.
pub fn batches<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Conveyor<R>>(CONVEYOR, BATCHES);
}

/// Single records by calls that wait.
pub fn blocking(rows: &mut impl BlockingRows) {
    rows.add::<ByProducer<Medium, true>>(CONVEYOR, "producer, lingering");
    rows.add::<ByProducer<Medium>>(CONVEYOR, "producer, as it comes");
    rows.add::<Conveyor<Medium, true>>(CONVEYOR, "shared handle, lingering");
    rows.add::<Conveyor<Medium>>(CONVEYOR, "shared handle, as it comes");
}

/// Single records by calls that wait, with workers that take each as it comes.
pub fn blocking_as_it_comes(rows: &mut impl BlockingRows) {
    rows.add::<ByProducer<Medium>>(CONVEYOR, PRODUCER);
    rows.add::<Conveyor<Medium>>(CONVEYOR, SHARED_HANDLE);
}
