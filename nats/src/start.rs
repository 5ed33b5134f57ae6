//! What is checked before the first pull request.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, Config};
use async_nats::jetstream::stream::RetentionPolicy;

use crate::error::StartError;
use crate::options::{DeadLetterRoute, PullOptions};

/// The shortest `ack_wait` for which *in progress* can be sent in time by a busy machine.
const SHORTEST_ACK_WAIT: Duration = Duration::from_millis(100);

/// How many *in progress* a second a full buffer may cost, if nothing is settled.
const MOST_PROGRESS: f64 = 10_000.0;

/// The `ack_wait` that the server takes where none is set.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

/// What the consumer's settings mean for the puller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Timing {
    /// The shortest time after which a message may be delivered again.
    pub(crate) ack_wait: Duration,
    /// How long a message is held before *in progress* is sent for it.
    pub(crate) progress_every: Duration,
}

/// Checks a consumer's settings against the cap of the source.
pub(crate) fn check(
    consumer: &str,
    config: &Config,
    options: &PullOptions,
    cap: usize,
) -> Result<Timing, StartError> {
    let consumer = || consumer.to_owned();
    if config.ack_policy != AckPolicy::Explicit {
        return Err(StartError::NotExplicit { consumer: consumer() });
    }
    if config.max_deliver == 1 {
        return Err(StartError::MaxDeliver { consumer: consumer() });
    }
    // 0 and -1 mean no limit.
    if let Ok(found @ 1..) = usize::try_from(config.max_ack_pending)
        && found < cap.saturating_mul(options.processes)
    {
        let processes = options.processes;
        return Err(StartError::MaxAckPending { consumer: consumer(), found, cap, processes });
    }
    let ack_wait = shortest_wait(config);
    let rate = options.rate.unwrap_or(MOST_PROGRESS);
    if rate.is_nan() || rate <= 0.0 {
        return Err(StartError::Rate { found: rate });
    }
    let needed = Duration::try_from_secs_f64(2.0 * cap as f64 / rate)
        .unwrap_or(Duration::MAX)
        .max(SHORTEST_ACK_WAIT);
    if ack_wait < needed {
        let largest_cap = (ack_wait.as_secs_f64() * rate / 2.0) as usize;
        let largest_cap = largest_cap.max(1);
        let found = ack_wait;
        return Err(StartError::AckWait { consumer: consumer(), found, needed, cap, largest_cap });
    }
    let progress_every = options.progress_every.unwrap_or(ack_wait / 2);
    if progress_every.is_zero() || progress_every >= ack_wait {
        return Err(StartError::ProgressEvery { found: progress_every, ack_wait });
    }
    Ok(Timing { ack_wait, progress_every })
}

/// Returns the shortest wait of `backoff`, which replaces `ack_wait` where it is set.
fn shortest_wait(config: &Config) -> Duration {
    match config.backoff.iter().min() {
        Some(&shortest) => shortest,
        None if config.ack_wait.is_zero() => DEFAULT_ACK_WAIT,
        None => config.ack_wait,
    }
}

/// Checks that dead letters are not deleted by accident.
pub(crate) async fn check_dead_letters(
    context: &Context,
    stream: &str,
    options: &PullOptions,
) -> Result<(), StartError> {
    if options.dead_letters != DeadLetterRoute::Keep {
        return Ok(());
    }
    let found = context.get_stream(stream).await.map_err(|error| StartError::Nats(error.into()))?;
    if found.cached_info().config.retention == RetentionPolicy::Limits {
        Ok(())
    } else {
        Err(StartError::DeadLettersDeleted { stream: stream.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 1_000,
            max_deliver: -1,
            ..Config::default()
        }
    }

    fn error(config: &Config, options: &PullOptions, cap: usize) -> String {
        check("work", config, options, cap).unwrap_err().to_string()
    }

    #[test]
    fn a_consumer_that_fits_is_accepted() {
        let timing = check("work", &config(), &PullOptions::default(), 1_000).unwrap();
        assert_eq!(timing.ack_wait, Duration::from_secs(30));
        assert_eq!(timing.progress_every, Duration::from_secs(15));
    }

    #[test]
    fn unlimited_pending_fits_any_cap() {
        for max_ack_pending in [-1, 0] {
            let config = Config { max_ack_pending, ..config() };
            assert!(check("work", &config, &PullOptions::default(), 100_000).is_ok());
        }
    }

    #[test]
    fn each_error_names_the_setting_and_its_value() {
        let options = PullOptions::default();
        for policy in [AckPolicy::None, AckPolicy::All] {
            let text = error(&Config { ack_policy: policy, ..config() }, &options, 10);
            assert!(text.contains("ack_policy of consumer work must be Explicit"), "{text}");
        }
        let text = error(&config(), &options, 1_001);
        assert!(text.contains("max_ack_pending of consumer work is 1000"), "{text}");
        assert!(text.contains("at least 1001"), "{text}");
        let text = error(&config(), &options.clone().processes(3), 500);
        assert!(text.contains("at least 1500") && text.contains("at most 333"), "{text}");

        let short = Config { ack_wait: Duration::from_millis(20), ..config() };
        let text = error(&short, &options, 10);
        assert!(text.contains("ack_wait of consumer work is 20ms"), "{text}");
        assert!(text.contains("at least 100ms"), "{text}");
        let wide = Config { max_ack_pending: -1, ..config() };
        let text = error(&wide, &options, 300_000);
        assert!(text.contains("at least 60s") && text.contains("at most 150000"), "{text}");

        let text = error(&Config { max_deliver: 1, ..config() }, &options, 10);
        assert!(text.contains("max_deliver of consumer work is 1"), "{text}");
        let text = error(&config(), &options.progress_every(Duration::from_secs(30)), 10);
        assert!(text.contains("progress_every is 30s") && text.contains("ack_wait, 30s"), "{text}");
        for rate in [0.0, -1.0, f64::NAN] {
            let text = error(&config(), &PullOptions::default().rate(rate), 10);
            assert!(text.contains("rate is") && text.contains("must be above 0"), "{text}");
        }
    }

    #[test]
    fn a_known_rate_bounds_the_cap_by_half_of_ack_wait() {
        let options = PullOptions::default().rate(20.0);
        assert!(check("work", &config(), &options, 300).is_ok());
        let text = error(&config(), &options, 301);
        assert!(text.contains("at least 30.1s") && text.contains("at most 300"), "{text}");
    }

    #[test]
    fn backoff_replaces_ack_wait() {
        let backoff = vec![Duration::from_secs(4), Duration::from_secs(2)];
        let config = Config { backoff, ..config() };
        let timing = check("work", &config, &PullOptions::default(), 1_000).unwrap();
        assert_eq!(timing.ack_wait, Duration::from_secs(2));
        assert_eq!(timing.progress_every, Duration::from_secs(1));
    }
}
