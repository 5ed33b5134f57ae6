//! Many tasks on one thread: each step is a poll, and so a few calls of the library's, with nobody else inside.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::actors::{play, read_on};
use crate::calls::{Buffer, call};
use crate::checks::{check, raise};
use crate::plan::Plan;
use crate::random::Random;
use crate::{books, clock, counts, phase, progress, waits};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that were woken.
type Ready = Arc<Mutex<VecDeque<usize>>>;

struct TaskWaker {
    task: usize,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.task) {
            ready.push_back(self.task);
        }
    }
}

/// Runs a plan to its end.
pub(crate) fn run(plan: Plan, random: &mut Random) {
    let plan = Arc::new(plan);
    let buffer = Buffer::new(Arc::clone(&plan));
    let mut tasks: Vec<Option<Task>> = Vec::new();
    for role in plan.roles.clone() {
        tasks.push(Some(Box::pin(play(role, buffer.clone(), random.fork()))));
    }
    let reading = buffer.clone();
    tasks.push(Some(Box::pin(async move { read_on(&reading).await })));
    let relieved = buffer.clone();
    tasks.push(Some(Box::pin(async move { waits::relieve(&relieved).await })));

    let ready: Ready = Arc::new(Mutex::new((0..tasks.len()).collect()));
    let wakers: Vec<Waker> = (0..tasks.len())
        .map(|task| Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&ready) })))
        .collect();
    while tasks.iter().any(Option::is_some) {
        let next = {
            let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
            let len = ready.len();
            if len == 0 { None } else { ready.swap_remove_back(random.below(len)) }
        };
        let Some(task) = next else {
            progress::at_rest(&buffer);
            if !clock::advance() {
                if plan.drops {
                    return drop_everything(tasks, buffer, random);
                }
                phase::next();
            }
            continue;
        };
        if random.one_in(plan.late) && phase::current() < phase::Phase::Close {
            // It is polled, but late.
            let waker = wakers[task].clone();
            clock::call_later(Duration::from_micros(random.magnitude(1, 100_000_000)), waker);
            continue;
        }
        let Some(future) = &mut tasks[task] else { continue };
        let polled = future.as_mut().poll(&mut Context::from_waker(&wakers[task]));
        if let Poll::Ready(()) = polled {
            tasks[task] = None;
        }
        counts::hold(&buffer);
    }
    counts::end(&buffer);
}

/// Cancels every call, drops every handle but those of the sources, and sees that these have all their credits.
fn drop_everything(mut tasks: Vec<Option<Task>>, buffer: Buffer, random: &mut Random) {
    books::log(|| "everything is dropped".to_owned());
    let plan = Arc::clone(&buffer.plan);
    let sources: Vec<_> = (0..plan.sources).filter_map(|source| buffer.source(source)).collect();
    while !tasks.is_empty() {
        let task = tasks.swap_remove(random.below(tasks.len()));
        // A batch in its hands is returned.
        let _ = call("drop", plan.total, || drop(task));
    }
    waits::reset();
    // A letter that is parked keeps its credit, and nobody will receive it.
    let parked = buffer.manager.dead_letters().parked();
    let _ = call("drop", plan.total, || drop(buffer));
    for source in &sources {
        let others = plan.guarantees.iter().sum::<usize>() - source.guarantee();
        let most = (plan.total - others).min(plan.per_source);
        let credits = source.available_credits();
        check("counts", source.is_closed() || credits + parked >= most, || {
            format!("every record is gone, and {} has {credits} credits of {most}", source.id())
        });
    }
    raise();
}
