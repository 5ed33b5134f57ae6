//! Those who call the buffer, each a task on one thread or a thread of its own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::api::RegistryError;
use crate::books::{self, Tally};
use crate::calls::{self, Buffer, Got, Taken, call, close, receive, return_by_name};
use crate::clock::{is_threaded, rest};
use crate::counts::{source_name, stage_name};
use crate::phase::{self, Phase};
use crate::plan::{Push, Role, Settle, Take};
use crate::random::Random;
use crate::waits::{self, Waited, abandon};
use crate::{progress, watches};

/// Plays a role to its end.
pub(crate) async fn play(role: Role, buffer: Buffer, mut random: Random) {
    let random = &mut random;
    match role {
        Role::Producer { .. } => produce(role, &buffer, random).await,
        Role::Worker { .. } => work(role, &buffer, random).await,
        Role::Reader { pace, quota } => {
            for _ in 0..quota {
                rest(about(random, pace)).await;
                (0..random.between(1, 3)).for_each(|_| _ = receive(&buffer));
            }
            read_on(&buffer).await;
        }
        Role::Closer { after } => close_and_drain(&buffer, random, after).await,
        Role::Drainer { pace, quota } => {
            for _ in 0..quota {
                rest(about(random, pace)).await;
                let patience = if random.one_in(2) { Duration::ZERO } else { about(random, pace) };
                waits::drain(&buffer, random, Some(patience)).await;
            }
        }
        Role::Remover { pace, quota } => {
            for _ in 0..quota {
                rest(about(random, pace)).await;
                remove(&buffer, random);
            }
        }
        Role::StageCloser { stage, after } => {
            rest(after).await;
            if let Some(handle) = buffer.stage(stage) {
                books::with(|books| books.stages_closed[stage] = true);
                books::log(|| format!("close stage {stage}"));
                let _ = call("close", 0, || handle.close());
                buffer.look();
            }
        }
        Role::Idler { source, stage, pace, quota, size } => {
            for _ in 0..quota {
                rest(about(random, pace)).await;
                idle(&buffer, random, source, stage, size).await;
            }
        }
        Role::Follower { source, quota } => follow(&buffer, random, source, quota).await,
        Role::Crowd { .. } => crowd(role, &buffer, random).await,
    }
}

/// Receives what there is from the relief on, ever more rarely, as long as anything may die.
pub(crate) async fn read_on(buffer: &Buffer) {
    phase::begins(Phase::Relief).await;
    let mut pause = Duration::from_millis(1);
    loop {
        while receive(buffer) {
            pause = Duration::from_millis(1);
        }
        let [held, waits] = books::with(|books| {
            let Tally { sure, dying, promised, .. } = books.all;
            [sure + dying + promised, books.requests.len()]
        });
        match phase::current() {
            Phase::Close if held == 0 => return,
            Phase::Relief if held + waits == 0 => phase::begins(Phase::Close).await,
            _ => rest(pause).await,
        }
        pause *= 2;
    }
}

/// From half of it to twice as long.
fn about(random: &mut Random, time: Duration) -> Duration {
    let micros = time.as_micros() as u64;
    Duration::from_micros(random.magnitude(micros / 2 + 1, micros * 2 + 1))
}

async fn produce(role: Role, buffer: &Buffer, random: &mut Random) {
    let Role::Producer { source, stages, how, size, pace, quota, patience } = role else { return };
    let mut left = quota;
    while left > 0 {
        rest(about(random, pace)).await;
        let (how, stage) = (random.pick(&how), random.pick(&stages));
        let records = random.between(*size.start(), *size.end());
        left = left.saturating_sub(records);
        let waits = matches!(how, Push::Send | Push::SendBatch | Push::Reserve | Push::Blocking);
        let closed = if waits {
            waits::push(buffer, random, how, (source, stage), records, patience).await
        } else {
            calls::push(buffer, how, source, stage, records)
        };
        let buffer_closed = books::with(|books| books.close_begun);
        if closed.is_none() || closed == Some(true) && buffer_closed {
            return;
        }
    }
}

async fn work(role: Role, buffer: &Buffer, random: &mut Random) {
    let Role::Worker { stage, how, max, pace, settle, forward_to, mut pause } = role else {
        return;
    };
    let mut settlings = 0;
    loop {
        let how = random.pick(&how);
        let patience = (how == Take::Wait && random.one_in(8)).then(|| about(random, pace));
        let taken = match how {
            Take::Try | Take::NoTime | Take::ByName => calls::take(buffer, how, stage, max),
            _ => match waits::take(buffer, random, how, stage, max, patience).await {
                None => continue,
                Some(got) => got,
            },
        };
        let taken = match taken {
            Got::Closed => return,
            Got::Removed => {
                // The removal may be under way, on a thread that waits for its turn.
                rest(Duration::from_micros(1)).await;
                continue;
            }
            Got::Batch(taken) => taken,
            Got::Records(records) if !records.is_empty() => {
                rest(about(random, pace)).await;
                if random.one_in(2) {
                    return_by_name(buffer, stage, records);
                }
                continue;
            }
            Got::Nothing | Got::Records(_) => {
                // It asked without waiting, and now waits.
                match waits::take(buffer, random, Take::Wait, stage, max, None).await {
                    Some(Got::Batch(taken)) => taken,
                    Some(Got::Closed) => return,
                    _ => continue,
                }
            }
        };
        settlings += 1;
        let now =
            |(after, _): &mut (usize, _)| *after < settlings && progress::somebody_fits(buffer);
        if let Some((_, time)) = pause.take_if(now) {
            books::log(|| format!("a pause of {time:?}"));
            rest(time).await;
        }
        rest(about(random, pace)).await;
        // In the end everything is settled for good.
        let how = if phase::current() == Phase::Close { Settle::Ack } else { random.pick(&settle) };
        finish(buffer, random, how, taken, &forward_to, pace).await;
    }
}

async fn finish(
    buffer: &Buffer,
    random: &mut Random,
    how: Settle,
    taken: Taken,
    forward_to: &[usize],
    pace: Duration,
) {
    match how {
        Settle::Forward | Settle::TryForward if !forward_to.is_empty() => {
            let (next, patience) = (random.pick(forward_to), about(random, pace));
            waits::forward(buffer, random, how, taken, next, patience).await;
        }
        Settle::Abandon if phase::current() == Phase::Run => abandon(Kept(Some(taken))),
        _ => calls::settle(buffer, random, how, taken),
    }
}

/// A batch that its worker does not settle until the relief, and then drops.
struct Kept(Option<Taken>);

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(taken) = self.0.take() else { return };
        let ids = taken.ids();
        books::returning(&ids);
        let _ = call("settle", ids.len(), || drop(taken));
        books::settled(&ids);
    }
}

async fn close_and_drain(buffer: &Buffer, random: &mut Random, after: Option<Duration>) {
    match after {
        Some(after) => rest(after).await,
        None => phase::begins(Phase::Close).await,
    }
    close(buffer);
    // Only when nothing is in the way of the others: a parked letter holds up workers that forward.
    waits::drain(buffer, random, None).await;
}

/// Removes a name, and has it made anew.
fn remove(buffer: &Buffer, random: &mut Random) {
    let plan = &buffer.plan;
    let (stage, source) = (random.below(plan.stages), random.below(plan.sources));
    let is_stage = random.one_in(3);
    books::log(|| {
        format!("remove {}", if is_stage { stage_name(stage) } else { source_name(source) })
    });
    if is_stage && is_threaded() {
        // A worker may be told before the call has returned.
        books::with(|books| {
            books.stages_removed[stage] += 1;
            books.stages_removing[stage] += 1;
        });
    }
    let removed = call("name", 0, || {
        if is_stage {
            buffer.manager.remove_stage(&stage_name(stage))
        } else {
            buffer.manager.remove_source(&source_name(source))
        }
    });
    let tally =
        books::with(|books| if is_stage { books.stages[stage] } else { books.sources[source] });
    if let (
        Ok(Err(RegistryError::StageInUse { held, .. } | RegistryError::SourceInUse { held, .. })),
        false,
    ) = (&removed, is_threaded())
    {
        assert!(*held > 0, "removal: a name is in use by {held} records: {tally:?}");
    }
    if is_stage && !is_threaded() && matches!(removed, Ok(Ok(())) | Err(_)) {
        books::with(|books| books.stages_removed[stage] += 1);
    }
    if let (Ok(Ok(())), false) = (&removed, is_threaded()) {
        assert_eq!(tally.sure + tally.promised, 0, "removal: the name held records: {tally:?}");
    }
    if is_stage && is_threaded() {
        books::with(|books| books.stages_removing[stage] -= 1);
    }
    drop(removed);
    // They exist again before the next look at them, unless the buffer is closed.
    drop((buffer.stage(stage), buffer.source(source)));
    buffer.look();
}

/// Begins a call, polls it once, and leaves it.
async fn idle(buffer: &Buffer, random: &mut Random, source: usize, stage: usize, size: usize) {
    let handles = buffer.source(source).zip(buffer.stage(stage));
    let Some((from, to)) = handles else { return };
    // Large plans are about requests alone.
    let kinds = if size > buffer.plan.most() / 2 { 1 } else { 5 };
    let kind = random.below(kinds);
    books::log(|| format!("leave a call ({kind}) of {size} of source {source} at stage {stage}"));
    match kind {
        0 | 1 => {
            let watch = watches::begin_request(Some(source), stage, size);
            let (ids, records) = calls::records(source, size);
            books::offer(&ids);
            let sent = async move {
                let done = from.send_batch(&to, records).await;
                if done.is_ok() {
                    books::accepted(&ids, stage);
                }
            };
            leave(Waited::new(random, "send", size, watch, sent)).await;
        }
        2 => {
            let watch = watches::begin_take(stage, size, true);
            let taken = async move {
                if let Ok(batch) = to.recv_batch(size).await {
                    let taken = calls::taken(batch, stage, size);
                    calls::give_back(taken);
                }
            };
            leave(Waited::new(random, "take", size, watch, taken)).await;
        }
        3 => {
            let watch = watches::begin_drain();
            let manager = buffer.manager.clone();
            let drained = async move { manager.drain().await };
            leave(Waited::new(random, "drain", 0, watch, drained)).await;
        }
        _ => {
            let watch = watches::begin_request(Some(source), stage, size);
            let reserved = async move { from.reserve(&to, size).await };
            leave(Waited::new(random, "send", size, watch, reserved)).await;
        }
    }
    buffer.look();
}

/// Polls it once. What is not done then is kept.
async fn leave<F: Future + 'static>(mut waited: Waited<F>)
where
    F::Output: 'static,
{
    let done = poll_fn(|context| match Pin::new(&mut waited).poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await;
    match done {
        None => abandon(waited),
        Some(done) => {
            // It may be a batch or a permit, which is dropped.
            let _ = call("settle", 64, || drop(done));
        }
    }
}

/// Follows a signal as long as it changes.
async fn follow(buffer: &Buffer, random: &mut Random, source: usize, quota: usize) {
    let Some(handle) = buffer.source(source) else { return };
    let mut signals = handle.signals();
    let mut last = signals.current();
    for _ in 0..quota {
        let watch = watches::begin_signal();
        let mut waited = Waited::new(random, "signal", 0, watch, signals.changed());
        let changed = waits::within(&mut waited, Some(Duration::from_secs(60))).await;
        drop(waited);
        if let Some(Ok(signal)) = changed {
            assert_ne!(signal, last, "signal: the same was reported twice");
            last = signal;
        }
    }
}

async fn crowd(role: Role, buffer: &Buffer, random: &mut Random) {
    let Role::Crowd { source, stage, senders, size, cancels } = role else { return };
    let mut sends = FuturesUnordered::new();
    for _ in 0..senders {
        let patience = random.one_in(cancels).then(|| about(random, Duration::from_millis(1)));
        let mut own = random.fork();
        let place = (source, stage);
        sends.push(async move {
            waits::push(buffer, &mut own, Push::SendBatch, place, size, patience).await
        });
    }
    while sends.next().await.is_some() {}
}
