//! *In progress* for what is held: sent in time, and only then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::AckKind;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::delivery::Held;
use crate::stats::Counters;

/// Entries are cleared of settled messages when there are this many more than after the last time.
const SLACK: usize = 4_096;

/// Sends *in progress* for every message of one puller that is held for longer than `every`.
///
/// All messages have the same interval, so a queue in the order of arrival is sorted by due time.
/// Messages that are settled before they are due cost an entry, and nothing is sent for them.
pub(crate) struct Keeper {
    client: Client,
    counters: Arc<Counters>,
    every: Duration,
    /// Set when nothing is to be sent any more.
    is_over: Arc<AtomicBool>,
    groups: VecDeque<Group>,
    entries: usize,
    clear_at: usize,
}

/// Messages that arrived together.
pub(crate) struct Group {
    /// When the first of them arrived, or when *in progress* was last sent.
    pub(crate) since: Instant,
    pub(crate) messages: Vec<Weak<Held>>,
}

impl Keeper {
    /// Starts the task. It ends when the sender is dropped and no message is held any more, or at
    /// the first time that it is due after `is_over` was set.
    pub(crate) fn spawn(
        client: Client,
        counters: Arc<Counters>,
        every: Duration,
        is_over: Arc<AtomicBool>,
    ) -> mpsc::UnboundedSender<Group> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let keeper = Self {
            client,
            counters,
            every,
            is_over,
            groups: VecDeque::new(),
            entries: 0,
            clear_at: SLACK,
        };
        tokio::spawn(keeper.run(receiver));
        sender
    }

    async fn run(mut self, mut arrivals: mpsc::UnboundedReceiver<Group>) {
        let mut is_open = true;
        loop {
            let due = self.groups.front().map(|group| group.since + self.every);
            tokio::select! {
                arrival = arrivals.recv(), if is_open => match arrival {
                    Some(group) => self.watch(group),
                    None => is_open = false,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    // It publishes nothing else, so Relaxed is enough.
                    if self.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    self.send_due().await;
                }
                else => return,
            }
        }
    }

    fn watch(&mut self, group: Group) {
        self.entries += group.messages.len();
        self.groups.push_back(group);
        // The number of entries at least doubles between two walks, so that a message is visited
        // about once, and the entries stay below twice the messages that are held.
        if self.entries >= self.clear_at {
            self.clear();
        }
    }

    fn clear(&mut self) {
        for group in &mut self.groups {
            group.messages.retain(|message| live(message).is_some());
            group.messages.shrink_to_fit();
        }
        self.groups.retain(|group| !group.messages.is_empty());
        self.entries = self.groups.iter().map(|group| group.messages.len()).sum();
        self.clear_at = 2 * self.entries + SLACK;
    }

    /// Sends *in progress* for the messages that are due and still held.
    async fn send_due(&mut self) {
        while let Some(group) =
            self.groups.pop_front_if(|group| group.since.elapsed() >= self.every)
        {
            self.entries -= group.messages.len();
            let since = Instant::now();
            let mut messages = Vec::new();
            for message in group.messages {
                let Some(held) = live(&message) else { continue };
                // An error means that the client is closed; then the messages are redelivered.
                if self.client.publish(held.reply().clone(), AckKind::Progress.into()).await.is_ok()
                {
                    self.counters.in_progress.add(1);
                }
                messages.push(message);
            }
            if !messages.is_empty() {
                self.entries += messages.len();
                self.groups.push_back(Group { since, messages });
            }
        }
    }
}

/// Returns the message if it is still held and not settled.
fn live(message: &Weak<Held>) -> Option<Arc<Held>> {
    message.upgrade().filter(|held| !held.is_settled())
}
