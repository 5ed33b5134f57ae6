//! Memory that a thread keeps of the batch that it settled last, for the next one: without anything that
//! was in it.

use std::any::Any;
use std::cell::Cell;

thread_local! {
    static SPARE: Cell<Option<Box<dyn Any>>> = const { Cell::new(None) };
}

/// What [`keep`] was given last on this thread if it was of that type, or else a new one.
pub(crate) fn take<T: Default + 'static>() -> Box<T> {
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    spare.and_then(|spare| spare.downcast().ok()).unwrap_or_default()
}

/// Keeps this for the next [`take`], in place of what was kept before.
pub(crate) fn keep<T: 'static>(spare: Box<T>) {
    // On a thread that is ending it is dropped.
    let _ = SPARE.try_with(|cell| cell.set(Some(spare)));
}
