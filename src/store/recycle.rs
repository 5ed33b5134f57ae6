//! A thread keeps the memory of the batch that it settled last for its next batch.

use std::any::Any;
use std::cell::Cell;

thread_local! {
    static SPARE: Cell<Option<Box<dyn Any>>> = const { Cell::new(None) };
}

/// Returns the value that this thread last passed to [`keep`], if it has that type, or else a new
/// one.
pub(crate) fn take<T: Default + 'static>() -> Box<T> {
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    spare.and_then(|spare| spare.downcast().ok()).unwrap_or_default()
}

/// Keeps a value for the next [`take`] of this thread, in place of an earlier one.
pub(crate) fn keep<T: 'static>(spare: Box<T>) {
    // A thread that is ending drops it.
    let _ = SPARE.try_with(|cell| cell.set(Some(spare)));
}
