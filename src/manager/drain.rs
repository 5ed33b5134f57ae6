//! Waiting until all records are settled.

use std::time::Duration;

use super::manager::BufferManager;
use super::remaining::Remaining;
use crate::record::Envelope;
use crate::sync::{block_on_until, now};

impl<E: Envelope> BufferManager<E> {
    /// Waits until every record in every stage and batch is settled.
    ///
    /// A record is settled when it is acknowledged, handed out or dead-lettered. Usually
    /// [`close`](Self::close) comes first; on an open buffer, sources that keep pushing may keep
    /// the call waiting.
    ///
    /// The call also waits for credits that are held without a record: those of a
    /// [`Permit`](crate::Permit), of a granted future that is not polled, and of a receive that
    /// lingers. One that is passed to [`mem::forget`](std::mem::forget) keeps it waiting forever.
    ///
    /// # Cancel safety
    ///
    /// The future takes nothing and may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let worker = std::thread::spawn(move || {
    ///     while let Ok(batch) = stage.recv_batch_blocking(10) {
    ///         batch.ack();
    ///     }
    /// });
    ///
    /// manager.close();
    /// manager.drain().await;
    /// assert_eq!(manager.get_total_buffered().await, 0);
    /// worker.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn drain(&self) {
        self.admission().drain().await;
    }

    /// Blocks the thread until every record is settled: the blocking form of
    /// [`drain`](Self::drain).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    pub fn drain_blocking(&self) {
        block_on_until(self.drain(), None);
    }

    /// Blocks the thread until every record is settled, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the [`Remaining`] records after the timeout.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// manager.close();
    ///
    /// let remaining = manager.drain_timeout(Duration::from_millis(1)).unwrap_err();
    /// let text = "not drained: 1 records remain (stage filter 1; source a 1)";
    /// assert_eq!(remaining.to_string(), text);
    ///
    /// stage.try_recv_batch(1)?.ack();
    /// manager.drain_timeout(Duration::from_millis(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_timeout(&self, timeout: Duration) -> Result<(), Remaining> {
        let deadline = now().checked_add(timeout);
        block_on_until(self.drain(), deadline).ok_or_else(|| self.remaining())
    }

    /// Returns the unsettled records, and what is reserved for records to come, by stage and by
    /// source.
    ///
    /// The result is exact if no other thread uses the buffer. Dead letters are settled, even if
    /// they are parked: see [`DeadLetters::parked`](crate::DeadLetters::parked).
    pub fn remaining(&self) -> Remaining {
        self.registry().remaining()
    }
}
