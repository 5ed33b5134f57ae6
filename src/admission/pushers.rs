//! Closing a buffer to which no record can be pushed any more.

use std::sync::Arc;

use super::admission::Admission;

/// Shared by every handle that can push: managers, sources, and what holds one of them. When the
/// last of them is dropped, the buffer is closed, so that workers do not wait forever.
///
/// The `Arc` around it counts the handles. Each handle is made from another one, so a count of zero
/// is final. The thread that drops the last handle closes the buffer.
pub(crate) struct Pushers(Arc<Admission>);

impl Pushers {
    pub(crate) fn new(admission: &Arc<Admission>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(admission)))
    }
}

/// No manager is left, so no account is opened meanwhile or later.
impl Drop for Pushers {
    fn drop(&mut self) {
        self.0.close();
    }
}
