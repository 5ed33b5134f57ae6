//! What the byte budgets add to [`Admission`]: accounts, charges, signals. See
//! [`docs::internals`](crate::docs::internals#byte-budgets).

use std::sync::Arc;

use super::admission::Admission;
use super::protocol::Moved;
use super::wait_queue::Freed;
use crate::caps::{Denied, Ledger};

impl Admission {
    /// Returns the ledger of bytes, in a buffer with byte budgets.
    pub(crate) fn bytes(&self) -> Option<&Ledger> {
        self.protocol().bytes.as_ref().map(|bytes| &bytes.ledger)
    }

    /// Whether records are measured.
    #[inline]
    pub(crate) fn measures(&self) -> bool {
        self.protocol().bytes.is_some()
    }

    /// Checks that the charge of a record exceeds neither the budget of its source nor that of the
    /// buffer.
    pub(crate) fn check_units(&self, index: u32, units: u32) -> Result<(), Denied> {
        let bytes = self.protocol().bytes.as_ref();
        bytes.map_or(Ok(()), |bytes| bytes.check_size(index, units))
    }

    /// Returns how many units an account may still be charged, in a buffer with byte budgets.
    pub(crate) fn free_units(&self, index: u32) -> Option<u32> {
        self.bytes().map(|bytes| bytes.available(bytes.account(index)))
    }

    /// Opens the byte account of a source.
    pub(super) fn open_bytes(&self, index: u32, name: &Arc<str>) {
        if let Some(bytes) = &self.protocol().bytes {
            bytes.open(index);
            bytes.account(index).cell().set_owner("source", name);
        }
    }

    /// Closes the byte account of a source whose account of credits is closed.
    pub(super) fn close_bytes(&self, index: u32) {
        if let Some(bytes) = self.bytes() {
            let _ = bytes.close_account(index);
            self.update_bytes_signal();
        }
    }

    /// Closes every byte account.
    pub(super) fn close_all_bytes(&self) {
        if let Some(bytes) = self.bytes() {
            bytes.close();
            self.update_bytes_signal();
        }
    }

    /// Takes `wanted` units for records that have their credits, or as many as are free, but at
    /// least `least`.
    ///
    /// # Errors
    ///
    /// Returns what denied the units, if it took none.
    pub(crate) fn try_take_units(
        &self,
        index: u32,
        least: u32,
        wanted: u32,
    ) -> Result<u32, Denied> {
        let Some(bytes) = &self.protocol().bytes else { return Ok(0) };
        bytes.check_size(index, least)?;
        let mut moved = Moved { account: Some(index), ..Moved::default() };
        let leasing = self.protocol().leasing();
        let grant = bytes.ledger.acquire(index, least, wanted, 0, leasing);
        moved.bytes = grant.pool_moved;
        self.protocol().follow_grant(&bytes.ledger, &grant, &mut moved);
        self.follow(&moved);
        if moved.left_some {
            self.notify(Freed { account: Some(index), ..Freed::pool() });
        }
        match (grant.taken.records, grant.taken.denied) {
            (0, Some(denied)) => Err(denied.in_bytes(least)),
            (units, _) => Ok(units),
        }
    }

    /// Gives units back, and notifies requests that wait for them.
    pub(crate) fn release_units(&self, index: u32, units: u32) {
        if units > 0 {
            self.return_units(index, units);
            if self.has_waiters() {
                self.notify(Freed { account: Some(index), ..Freed::pool() });
            }
        }
    }

    /// Gives units back. The caller must notify waiters.
    #[cold]
    pub(super) fn return_units(&self, index: u32, units: u32) {
        if let Some(bytes) = &self.protocol().bytes {
            let released = bytes.release(index, units);
            self.update_account_bytes_signal(index);
            if released.pool_moved {
                self.update_bytes_signal();
            }
        }
    }

    pub(super) fn update_account_bytes_signal(&self, index: u32) {
        if let Some(bytes) = &self.protocol().bytes {
            bytes.account(index).update_signal();
        }
    }

    /// Updates the signal that follows the bytes of the whole buffer. Must be called after the
    /// level of the byte pool has changed.
    pub(super) fn update_bytes_signal(&self) {
        if let Some(bytes) = self.bytes() {
            self.controller().follow_bytes(bytes.leased(), || bytes.leased_after_fence());
        }
    }
}
