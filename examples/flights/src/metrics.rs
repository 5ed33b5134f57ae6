//! The endpoint for Prometheus, off unless asked for.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use conveyor_buffer::BufferManager;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::control::Control;
use crate::error::Error;
use crate::flight::Flight;

/// How often the statistics are handed to the recorder.
const INTERVAL: Duration = Duration::from_millis(100);

/// The name of the buffer in the metrics.
const BUFFER: &str = "flights";

/// Serves the statistics of the buffer.
pub struct Metrics {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    recording: JoinHandle<()>,
}

impl Metrics {
    /// Serves at that address from now on, and keeps the metrics up to date.
    ///
    /// # Errors
    ///
    /// The address is in use or not allowed.
    pub fn serve(address: SocketAddr, manager: &BufferManager<Flight>) -> Result<Self, Error> {
        PrometheusBuilder::new().with_http_listener(address).install().map_err(Error::Metrics)?;
        let ended = Arc::new(AtomicBool::new(false));
        let recording = thread::spawn({
            let (ended, manager) = (Arc::clone(&ended), manager.clone());
            move || {
                while !ended.load(SeqCst) {
                    manager.record_metrics(BUFFER);
                    thread::park_timeout(INTERVAL);
                }
            }
        });
        Ok(Self { address, ended, recording })
    }

    /// Goes on until Ctrl-C.
    pub fn finish(self, control: &Control) {
        while !control.interrupted() {
            thread::sleep(INTERVAL);
        }
        self.ended.store(true, SeqCst);
        self.recording.thread().unpark();
        // It ends in any case.
        let _ = self.recording.join();
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}/metrics", self.address)
    }
}
