//! The pull requests of one puller, and what the server answers.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a request for what is there waits at the server, if nothing is there or other
/// processes hold all that may be delivered.
const BRIEFLY: Duration = Duration::from_millis(100);

/// How long the server may be silent before its requests count as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// The longest interval of the server's heartbeats while nothing comes.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long messages on the wire are waited for after the subscription was ended.
const DRAIN: Duration = Duration::from_secs(2);

/// The status header that says how much of a request was not delivered.
const PENDING: &str = "Nats-Pending-Messages";

/// The open requests of one puller.
///
/// All of them are answered on one subscription. The server hands out messages to several requests
/// in turn, so only that way they arrive in the order of their delivery. Therefore it is not known
/// which request a message answers, but only how many messages are still owed to all of them.
pub(crate) struct Requests {
    client: Client,
    consumer: PullConsumer,
    inbox: Option<Inbox>,
    /// Messages that were asked for and neither came nor were refused.
    owed: usize,
    silence: Duration,
    alarm: Pin<Box<Sleep>>,
    /// A request that waits for long is open.
    is_waiting: bool,
}

struct Inbox {
    prefix: String,
    subscriber: Subscriber,
    is_ended: bool,
}

/// What the server says beside messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There are no more messages now, or the time of a request is up.
    Dry,
    /// The server did not answer in time, has no responder, or says that something passing is in
    /// the way. All requests are lost, and the consumer may be gone.
    Lost,
    /// The server refuses a request for a reason that does not pass.
    Refused(String),
}

impl Requests {
    pub(crate) fn new(client: Client, consumer: PullConsumer) -> Self {
        let alarm = Box::pin(sleep_until(Instant::now()));
        let inbox = None;
        Self { client, consumer, inbox, owed: 0, silence: SILENCE, alarm, is_waiting: false }
    }

    /// Returns how many messages may still come.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    /// Asks for up to `wanted` messages that are there, or come within 100 ms.
    pub(crate) async fn ask(&mut self, wanted: usize) -> Result<(), async_nats::Error> {
        // With `no_wait` alone the server would not answer while `max_ack_pending` is reached.
        let config = BatchConfig {
            batch: wanted,
            no_wait: true,
            expires: Some(BRIEFLY),
            ..BatchConfig::default()
        };
        self.send(config, SILENCE).await
    }

    /// Asks for one message and waits for it.
    pub(crate) async fn wait_for_one(&mut self, wait: Duration) -> Result<(), async_nats::Error> {
        // The server sends heartbeats, so that a lost request is noticed. It refuses heartbeats
        // that are not shorter than half of the wait.
        let heartbeat = (wait / 3).min(HEARTBEAT);
        let config = BatchConfig {
            batch: 1,
            expires: Some(wait),
            idle_heartbeat: heartbeat,
            ..BatchConfig::default()
        };
        self.is_waiting = true;
        self.send(config, heartbeat * 2 + Duration::from_secs(1)).await
    }

    async fn send(
        &mut self,
        config: BatchConfig,
        silence: Duration,
    ) -> Result<(), async_nats::Error> {
        let inbox = match &mut self.inbox {
            Some(inbox) => inbox,
            none => {
                let prefix = self.client.new_inbox();
                let subscriber = self.client.subscribe(format!("{prefix}.*")).await?;
                none.insert(Inbox { prefix, subscriber, is_ended: false })
            }
        };
        // The size is in the subject of the answer: a status without a header leaves all of it.
        let reply = format!("{}.{}", inbox.prefix, config.batch);
        let wanted = config.batch;
        self.consumer.request_batch(config, reply.into()).await?;
        self.owed += wanted;
        self.silence = silence;
        self.alarm.as_mut().reset(Instant::now() + silence);
        Ok(())
    }

    /// Ends a request that waits for long. The others end soon by themselves, and only that way the
    /// server does not count messages as delivered that it then drops.
    pub(crate) async fn end(&mut self) {
        if let (true, Some(inbox)) = (self.is_waiting, &mut self.inbox) {
            inbox.is_ended = true;
            self.alarm.as_mut().reset(Instant::now() + DRAIN);
            // If the client is closed, the subscription ends by itself.
            let _ = inbox.subscriber.drain().await;
        }
    }

    /// Waits for messages and takes all that are there, until the server says something else.
    ///
    /// The future may be dropped: what it has taken is in `messages`.
    pub(crate) async fn receive(&mut self, messages: &mut Vec<Message>) -> Option<Answer> {
        if self.owed == 0 {
            return pending().await;
        }
        poll_fn(|context| {
            loop {
                match self.poll_next(context) {
                    Poll::Ready(Ok(message)) => messages.push(message),
                    Poll::Ready(Err(answer)) => return Poll::Ready(Some(answer)),
                    Poll::Pending if !messages.is_empty() => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
                if self.owed == 0 {
                    return Poll::Ready(None);
                }
            }
        })
        .await
    }

    fn poll_next(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<Message, Answer>> {
        let Some(inbox) = &mut self.inbox else { return Poll::Ready(Err(self.lose())) };
        while let Poll::Ready(next) = Pin::new(&mut inbox.subscriber).poll_next(context) {
            let Some(message) = next else {
                let answer = if inbox.is_ended { Answer::Dry } else { Answer::Lost };
                self.lose();
                return Poll::Ready(Err(answer));
            };
            if !inbox.is_ended {
                self.alarm.as_mut().reset(Instant::now() + self.silence);
            }
            let answer = match message.status {
                None | Some(StatusCode::OK) => {
                    self.owed = self.owed.saturating_sub(1);
                    self.is_waiting &= self.owed > 0;
                    return Poll::Ready(Ok(message));
                }
                Some(StatusCode::IDLE_HEARTBEAT) => continue,
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Answer::Dry,
                Some(StatusCode::REQUEST_TERMINATED) => {
                    termination(message.description.as_deref().unwrap_or_default())
                }
                Some(_) => Answer::Lost,
            };
            if answer == Answer::Dry {
                self.owed = self.owed.saturating_sub(undelivered(&message));
                self.is_waiting &= self.owed > 0;
            } else {
                self.lose();
            }
            return Poll::Ready(Err(answer));
        }
        self.alarm.as_mut().poll(context).map(|()| Err(self.lose()))
    }

    /// Returns whether the connection is down, so that no open request will be answered.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.client.connection_state() != State::Connected
    }

    /// Gives all open requests up. The next one gets a new subscription, so that a late answer to
    /// these is not taken for one to those that follow.
    pub(crate) fn lose(&mut self) -> Answer {
        self.inbox = None;
        self.owed = 0;
        self.is_waiting = false;
        Answer::Lost
    }
}

/// Returns how many messages of a request that ended were not delivered.
fn undelivered(status: &Message) -> usize {
    let header = status.headers.as_ref().and_then(|headers| headers.get(PENDING));
    match header.and_then(|value| value.as_str().parse().ok()) {
        Some(pending) => pending,
        None => status.subject.rsplit('.').next().and_then(|size| size.parse().ok()).unwrap_or(0),
    }
}

/// Interprets the description of status 409.
fn termination(description: &str) -> Answer {
    let text = description.to_ascii_lowercase();
    // Other processes hold what the consumer may hand out.
    if text.contains("maxackpending") {
        return Answer::Dry;
    }
    // A limit of the consumer on single requests.
    let is_limit = ["maxrequest", "maxbytes", "push based", "priority", "pinned"]
        .iter()
        .any(|limit| text.contains(limit));
    if is_limit { Answer::Refused(description.to_owned()) } else { Answer::Lost }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    #[test]
    fn only_lasting_reasons_refuse_a_request() {
        assert_eq!(termination("Exceeded MaxAckPending"), Answer::Dry);
        for passing in
            ["Exceeded MaxWaiting", "Consumer Deleted", "Leadership Change", "Server Shutdown", ""]
        {
            assert_eq!(termination(passing), Answer::Lost, "{passing}");
        }
        for lasting in ["Exceeded MaxRequestBatch of 10", "Consumer is push based"] {
            assert_eq!(termination(lasting), Answer::Refused(lasting.into()));
        }
    }

    #[test]
    fn a_status_says_how_much_was_not_delivered() {
        let mut status = Message {
            subject: "_INBOX.abc.500".into(),
            reply: None,
            payload: "".into(),
            headers: None,
            status: Some(StatusCode::NOT_FOUND),
            description: None,
            length: 0,
        };
        assert_eq!(undelivered(&status), 500);
        let mut headers = HeaderMap::new();
        headers.insert(PENDING, "2");
        status.headers = Some(headers);
        assert_eq!(undelivered(&status), 2);
    }
}
