//! Waiting until every record is settled.

use std::time::Duration;

use super::manager::BufferManager;
use super::remaining::Remaining;
use crate::record::Envelope;
use crate::sync::{block_on_until, now};

impl<E: Envelope> BufferManager<E> {
    /// Waits until every record is settled: acknowledged, handed out or dead-lettered, in every stage
    /// and every batch. Usually [`close`](Self::close) comes first; sources that are not stopped may
    /// keep it waiting.
    ///
    /// # Cancel safety
    ///
    /// It takes nothing, and may be dropped at any time.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let worker = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || while let Ok(batch) = stage.recv_batch_blocking(10) { batch.ack() }
    /// });
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

    /// [`drain`](Self::drain) for threads: it parks this one.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// manager.drain_blocking(); // nothing was pushed
    /// assert!(manager.remaining().is_empty());
    /// ```
    pub fn drain_blocking(&self) {
        block_on_until(self.drain(), None);
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    ///
    /// What remains when the time is up.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use std::time::Duration;
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// manager.close();
    /// let remaining = manager.drain_timeout(Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(remaining.to_string(), "not drained: 1 records remain (stage filter 1; source a 1)");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_timeout(&self, timeout: Duration) -> Result<(), Remaining> {
        let deadline = now().checked_add(timeout);
        block_on_until(self.drain(), deadline).ok_or_else(|| self.remaining())
    }

    /// The records that are not settled yet, by stage and by source. Exact where no other thread is
    /// running. Dead letters are settled, even if they are parked: see
    /// [`DeadLetters::parked`](crate::DeadLetters::parked).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let remaining = manager.remaining();
    /// assert_eq!(remaining.stages, [("filter".to_owned(), 1)]);
    /// assert_eq!(remaining.sources, [("a".to_owned(), 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remaining(&self) -> Remaining {
        self.registry().remaining()
    }
}
