//! Calls that wait: polled when they are woken, by this waker or that, and cancelled or left alone at any time.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::books;
use crate::calls::{Buffer, Done, Got, Taken, call, pushed, records, settle, taken};
use crate::clock::{is_threaded, rest};
use crate::handle::ForwardError;
use crate::misfortune::{Misfortune, waker};
use crate::plan::{Push, Settle, Take};
use crate::random::Random;
use crate::watches::Watch;
use crate::{checks, phase, watches};

/// A call of the library's that waits. Each of its polls is a call, and so is its end.
pub(crate) struct Waited<F> {
    future: Option<Pin<Box<F>>>,
    what: &'static str,
    size: usize,
    watch: Watch,
    random: Random,
    /// The waker of the last poll, and the one that it passes the call to.
    wakers: Option<(Waker, Waker)>,
    /// What its watch had seen, once it has ended.
    pub(crate) fewest: usize,
}

impl<F: Future> Waited<F> {
    pub(crate) fn new(
        random: &mut Random,
        what: &'static str,
        size: usize,
        watch: Watch,
        future: F,
    ) -> Self {
        let (future, random) = (Some(Box::pin(future)), random.fork());
        Self { future, what, size, watch, random, wakers: None, fewest: 0 }
    }

    /// Whether it has its output, or was cancelled.
    pub(crate) fn has_ended(&self) -> bool {
        self.future.is_none()
    }

    fn cancel(&mut self) {
        if let Some(future) = self.future.take() {
            let _ = call("cancel", self.size, || drop(future));
            self.fewest = watches::end(self.watch);
        }
    }
}

impl<F: Future> Future for Waited<F> {
    type Output = Done<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let same = this.wakers.as_ref().is_some_and(|(_, outer)| outer.will_wake(context.waker()));
        if !same || this.random.one_in(3) {
            let outer = context.waker().clone();
            this.wakers = Some((waker(outer.clone(), this.watch), outer));
        }
        let (waker, _) = this.wakers.as_ref().expect("just made");
        let future = this.future.as_mut().expect("polled after it was ready");
        watches::polling(this.watch);
        let mut context = Context::from_waker(waker);
        let polled = call(this.what, this.size, || future.as_mut().poll(&mut context));
        let done = match polled {
            Ok(Poll::Pending) => {
                watches::polled(this.watch);
                return Poll::Pending;
            }
            Ok(Poll::Ready(output)) => {
                this.fewest = watches::end(this.watch);
                this.future = None;
                Ok(output)
            }
            Err(misfortune) => {
                this.cancel();
                Err(misfortune)
            }
        };
        this.wakers = None;
        Poll::Ready(done)
    }
}

impl<F> Drop for Waited<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            let _ = call("cancel", self.size, || drop(future));
            watches::end(self.watch);
        }
    }
}

/// Waits for that long at most, and then cancels. `None` if it was cancelled.
pub(crate) async fn within<F: Future>(
    waited: &mut Waited<F>,
    patience: Option<Duration>,
) -> Option<Done<F::Output>> {
    let Some(patience) = patience else { return Some(waited.await) };
    let mut rest = pin!(rest(patience));
    let done = std::future::poll_fn(|context| {
        if let Poll::Ready(done) = Pin::new(&mut *waited).poll(context) {
            return Poll::Ready(Some(done));
        }
        rest.as_mut().poll(context).map(|()| None)
    })
    .await;
    if !waited.has_ended() {
        waited.cancel();
    }
    done
}

/// A push that waits. `None` if a name cannot be had any more; else whether it was told of a close.
pub(crate) async fn push(
    buffer: &Buffer,
    random: &mut Random,
    how: Push,
    (source, stage): (usize, usize),
    size: usize,
    patience: Option<Duration>,
) -> Option<bool> {
    let (from, to) = buffer.source(source).zip(buffer.stage(stage))?;
    let size = if how == Push::Send { 1 } else { size };
    books::log(|| format!("{how:?} {size} of source {source} to stage {stage}"));
    let was_closed = books::with(|books| books.close_returned);
    let place = (source, stage);
    if how == Push::Blocking {
        let (ids, records) = records(source, size);
        books::offer(&ids);
        let done = call("send", size, || match patience {
            None if is_threaded() => from.send_batch_blocking(&to, records),
            _ => from.send_batch_timeout(&to, records, patience.unwrap_or(Duration::ZERO)),
        });
        let done = done.map(|sent| sent.map_err(|refused| (refused.records, refused.reason)));
        return Some(pushed(buffer, place, &ids, was_closed, done));
    }
    if how == Push::Reserve {
        return reserve(buffer, random, place, size, patience).await;
    }
    let watch = watches::begin_request(Some(source), stage, size);
    let (ids, mut records) = records(source, size);
    books::offer(&ids);
    let sent = async {
        if how == Push::Send {
            let sent = from.send(&to, records.pop().expect("one record")).await;
            sent.map_err(|refused| (vec![refused.record], refused.reason))
        } else {
            let sent = from.send_batch(&to, records).await;
            sent.map_err(|refused| (refused.records, refused.reason))
        }
    };
    let mut waited = Waited::new(random, "send", size, watch, sent);
    let done = within(&mut waited, patience).await;
    drop(waited);
    match done {
        Some(done) => Some(pushed(buffer, place, &ids, was_closed, done)),
        None => {
            books::log(|| "  cancelled".to_owned());
            buffer.look();
            Some(false)
        }
    }
}

async fn reserve(
    buffer: &Buffer,
    random: &mut Random,
    (source, stage): (usize, usize),
    size: usize,
    patience: Option<Duration>,
) -> Option<bool> {
    let (from, to) = buffer.source(source).zip(buffer.stage(stage))?;
    let watch = watches::begin_request(Some(source), stage, size);
    let reserved = async { from.reserve(&to, size).await };
    let mut waited = Waited::new(random, "send", size, watch, reserved);
    let done = within(&mut waited, patience).await;
    drop(waited);
    let permit = match done {
        Some(Ok(Ok(permit))) => permit,
        Some(Ok(Err(reason))) => {
            checks::refusal(buffer, source, stage, size, &reason);
            buffer.look();
            return Some(reason.is_closed());
        }
        Some(Err(Misfortune)) | None => {
            buffer.look();
            return Some(false);
        }
    };
    books::promise(source, stage, size as isize);
    buffer.look();
    rest(Duration::from_micros(random.magnitude(1, 1_000_000))).await;
    let (ids, records) = records(source, random.below(size + 2));
    books::offer(&ids);
    books::promise(source, stage, -(size as isize));
    books::log(|| format!("{} by a permit for {size}", ids.len()));
    let done = call("send", size, || permit.send_batch(records));
    let done = match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(rest)) => Err(rest),
        Err(Misfortune) => Ok(()),
    };
    if let Err(rest) = done {
        books::refused(rest.iter().map(|record| record.id));
    }
    books::accepted(&ids, stage);
    buffer.look();
    Some(false)
}

/// Takes a batch, and waits for it. `None` if it was cancelled.
pub(crate) async fn take(
    buffer: &Buffer,
    random: &mut Random,
    how: Take,
    stage: usize,
    max: usize,
    patience: Option<Duration>,
) -> Option<Got> {
    let removed = books::removals(stage);
    let Some(handle) = buffer.stage(stage) else { return Some(Got::Closed) };
    let linger = Duration::from_micros(random.magnitude(1, 1_000_000));
    let blocks = matches!(how, Take::Blocking | Take::BlockingLinger);
    let lingers = matches!(how, Take::Linger | Take::BlockingLinger);
    let size = max.min(buffer.plan.per_stage);
    let done = if blocks && is_threaded() {
        let watch = watches::begin_take(stage, max, true);
        let done = call("take", size, || match how {
            Take::Blocking => handle.recv_batch_blocking(max),
            _ => handle.recv_batch_linger_blocking(max, linger),
        });
        watches::end(watch);
        done
    } else {
        let watch = watches::begin_take(stage, max, lingers);
        let batch = async {
            if lingers {
                handle.recv_batch_linger(max, linger).await
            } else {
                handle.recv_batch(max).await
            }
        };
        let mut waited = Waited::new(random, "take", size, watch, batch);
        let done = within(&mut waited, patience).await;
        drop(waited);
        match done {
            Some(done) => done,
            None => {
                buffer.look();
                return None;
            }
        }
    };
    let got = match done {
        Ok(Ok(batch)) => Got::Batch(taken(batch, stage, max)),
        Ok(Err(_)) => checks::told_closed("a waiting take", stage, removed),
        Err(Misfortune) => return None,
    };
    buffer.look();
    Some(got)
}

/// Moves a batch on, and settles it otherwise if that takes too long.
pub(crate) async fn forward(
    buffer: &Buffer,
    random: &mut Random,
    how: Settle,
    taken: Taken,
    next: usize,
    patience: Duration,
) {
    let Taken { batch, stage } = taken;
    let Some(handle) = buffer.stage(next) else {
        return settle(buffer, random, Settle::Ack, Taken { batch, stage });
    };
    let ids: Vec<_> = batch.iter().map(|record| record.id).collect();
    books::log(|| format!("{how:?} {} from stage {stage} to {next}", ids.len()));
    books::move_on(&ids);
    let waits = how == Settle::Forward;
    let done = if !waits {
        Some(call("settle", ids.len(), || batch.try_forward(&handle)))
    } else if is_threaded() || random.one_in(4) {
        // On threads a cancelled forward might be a letter by now, and nobody could tell.
        let patience = if is_threaded() { patience } else { Duration::ZERO };
        Some(call("settle", ids.len(), || batch.forward_timeout(&handle, patience)))
    } else {
        let watch = watches::begin_request(None, next, ids.len());
        let moved = batch.forward(&handle);
        let mut waited = Waited::new(random, "settle", ids.len(), watch, moved);
        let done = within(&mut waited, Some(patience)).await;
        drop(waited);
        done
    };
    match done {
        Some(Ok(Ok(()))) => books::moved(&ids, next),
        Some(Ok(Err(ForwardError { batch, .. }))) => {
            books::not_moved(&ids);
            buffer.look();
            let how = random.pick(&[Settle::Ack, Settle::Return]);
            return settle(buffer, random, how, Taken { batch, stage });
        }
        Some(Err(Misfortune)) | None => books::move_failed(&ids),
    }
    buffer.look();
}

/// Drains. `false` if it was given up.
pub(crate) async fn drain(
    buffer: &Buffer,
    random: &mut Random,
    patience: Option<Duration>,
) -> bool {
    books::log(|| "drain".to_owned());
    // On many threads, others may have pushed between the end of a drain and a close.
    let was_closed = !is_threaded() || books::with(|books| books.close_returned);
    let watch = watches::begin_drain();
    let mut waited = Waited::new(random, "drain", 0, watch, buffer.manager.drain());
    let done = within(&mut waited, patience).await;
    let fewest = waited.fewest;
    drop(waited);
    if matches!(done, Some(Ok(()))) {
        checks::drained("drain", fewest);
        if was_closed {
            checks::nothing_remains(buffer);
        }
    }
    buffer.look();
    matches!(done, Some(Ok(())))
}

thread_local! {
    /// What is not polled, until the relief.
    static ATTIC: RefCell<Vec<Box<dyn std::any::Any>>> = const { RefCell::new(Vec::new()) };
}

/// Keeps something until the relief.
pub(crate) fn abandon(thing: impl std::any::Any) {
    ATTIC.with_borrow_mut(|attic| attic.push(Box::new(thing)));
}

/// Drops it all.
pub(crate) async fn relieve(buffer: &Buffer) {
    phase::begins(phase::Phase::Relief).await;
    for thing in ATTIC.take() {
        drop(thing);
        buffer.look();
    }
}

pub(crate) fn reset() {
    drop(ATTIC.take());
}
