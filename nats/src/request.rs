//! One pull request: what the server answers, and how it ends.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a request for what is there may be silent before it counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// How long messages on the wire are waited for after a request was given up.
const DRAIN: Duration = Duration::from_secs(2);

/// A pull request with a subscription of its own, so that each message is known to answer it.
pub(crate) struct Request {
    subscriber: Subscriber,
    wanted: usize,
    received: usize,
    /// When it was sent: no message was delivered to it before.
    sent: Instant,
    silence: Duration,
    alarm: Pin<Box<Sleep>>,
    is_given_up: bool,
}

/// What a request brings next.
enum Answer {
    Message(Message),
    End(End),
}

/// How a request ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All messages were received.
    Full,
    /// There are no more messages now, or the time is up.
    Dry,
    /// The server did not answer in time, has no responder, or says that something passing is in
    /// the way. The consumer may be gone.
    Lost,
    /// The server refuses the request for a reason that does not pass.
    Refused(String),
}

impl Request {
    /// Asks for up to `wanted` messages that are there.
    pub(crate) async fn for_what_is_there(
        client: &Client,
        consumer: &PullConsumer,
        wanted: usize,
    ) -> Result<Self, async_nats::Error> {
        let config = BatchConfig { batch: wanted, no_wait: true, ..BatchConfig::default() };
        Self::send(client, consumer, config, SILENCE).await
    }

    /// Asks for one message and waits for it.
    pub(crate) async fn for_the_next(
        client: &Client,
        consumer: &PullConsumer,
        wait: Duration,
    ) -> Result<Self, async_nats::Error> {
        // The server sends heartbeats, so that a lost request is noticed. It refuses heartbeats
        // that are not shorter than half of the wait.
        let heartbeat = (wait / 3).min(Duration::from_secs(5));
        let config = BatchConfig {
            batch: 1,
            expires: Some(wait),
            idle_heartbeat: heartbeat,
            ..BatchConfig::default()
        };
        let silence = heartbeat * 2 + Duration::from_secs(1);
        Self::send(client, consumer, config, silence).await
    }

    async fn send(
        client: &Client,
        consumer: &PullConsumer,
        config: BatchConfig,
        silence: Duration,
    ) -> Result<Self, async_nats::Error> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await?;
        let wanted = config.batch;
        let sent = Instant::now();
        consumer.request_batch(config, inbox.into()).await?;
        let alarm = Box::pin(sleep_until(sent + silence));
        Ok(Self { subscriber, wanted, received: 0, sent, silence, alarm, is_given_up: false })
    }

    pub(crate) fn sent(&self) -> Instant {
        self.sent
    }

    /// Tells the server to deliver nothing more to this request. What is on the wire still comes.
    pub(crate) async fn give_up(&mut self) {
        self.is_given_up = true;
        self.alarm.as_mut().reset(Instant::now() + DRAIN);
        // If the client is closed, the subscription ends by itself.
        let _ = self.subscriber.drain().await;
    }

    /// Waits for messages and takes all that are there. Returns how the request ended, if it did.
    ///
    /// After the end it must not be called again. The future may be dropped: what it has taken is
    /// in `messages`.
    pub(crate) async fn receive(&mut self, messages: &mut Vec<Message>) -> Option<End> {
        poll_fn(|context| {
            let before = messages.len();
            loop {
                match self.poll_next(context) {
                    Poll::Ready(Answer::Message(message)) => messages.push(message),
                    Poll::Ready(Answer::End(end)) => return Poll::Ready(Some(end)),
                    Poll::Pending if messages.len() > before => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn poll_next(&mut self, context: &mut TaskContext<'_>) -> Poll<Answer> {
        if self.received == self.wanted {
            return Poll::Ready(Answer::End(End::Full));
        }
        while let Poll::Ready(next) = Pin::new(&mut self.subscriber).poll_next(context) {
            let Some(message) = next else {
                let end = if self.is_given_up { End::Dry } else { End::Lost };
                return Poll::Ready(Answer::End(end));
            };
            if !self.is_given_up {
                self.alarm.as_mut().reset(Instant::now() + self.silence);
            }
            if let Some(answer) = self.classify(message) {
                return Poll::Ready(answer);
            }
        }
        self.alarm.as_mut().poll(context).map(|()| Answer::End(End::Lost))
    }

    /// Returns what a message means, or `None` for a heartbeat.
    fn classify(&mut self, message: Message) -> Option<Answer> {
        let description = message.description.as_deref().unwrap_or_default();
        let end = match message.status {
            None | Some(StatusCode::OK) => {
                self.received += 1;
                return Some(Answer::Message(message));
            }
            Some(StatusCode::IDLE_HEARTBEAT) => return None,
            Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => End::Dry,
            Some(StatusCode::REQUEST_TERMINATED) => termination(description),
            Some(_) => End::Lost,
        };
        Some(Answer::End(end))
    }
}

/// Interprets the description of status 409.
fn termination(description: &str) -> End {
    let text = description.to_ascii_lowercase();
    // Other processes hold what the consumer may hand out, or as many requests wait as may.
    if text.contains("maxackpending") {
        return End::Dry;
    }
    // A limit of the consumer on single requests.
    let is_limit = ["maxrequest", "maxbytes", "push based", "priority", "pinned"]
        .iter()
        .any(|limit| text.contains(limit));
    if is_limit { End::Refused(description.to_owned()) } else { End::Lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lasting_reasons_refuse_a_request() {
        assert_eq!(termination("Exceeded MaxAckPending"), End::Dry);
        for passing in
            ["Exceeded MaxWaiting", "Consumer Deleted", "Leadership Change", "Server Shutdown", ""]
        {
            assert_eq!(termination(passing), End::Lost, "{passing}");
        }
        for lasting in ["Exceeded MaxRequestBatch of 10", "Consumer is push based"] {
            assert_eq!(termination(lasting), End::Refused(lasting.into()));
        }
    }
}
