//! Messages a second through the buffer, beside plain loops on the same consumer settings.
//!
//! `cargo bench -p conveyor-buffer-nats` prints the tables of BENCHMARKS.md. `-- --test` runs
//! everything once with few messages.

#[path = "../examples/flights_nats/server.rs"]
mod server;

use std::env;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::Config as StreamConfig;
use async_nats::jetstream::{self, Context};
use conveyor_buffer::{BufferManager, BufferSettings};
use conveyor_buffer_nats::{Delivery, PullOptions, PullStats, Puller};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::server::Server;

/// The size of a request, and of a worker's batch, everywhere.
const BATCH: usize = 500;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let quick = env::args().any(|argument| argument == "--test");
    let messages = if quick { 5_000 } else { 200_000 };
    let rounds = if quick { 1 } else { 5 };

    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let context = jetstream::new(client);
    let config =
        StreamConfig { name: "in".into(), subjects: vec!["in".into()], ..StreamConfig::default() };
    context.create_stream(config).await?;
    publish(&context, messages).await?;
    let bench = Bench { context, messages };

    println!(
        "{messages} messages of 100 bytes, requests and batches of {BATCH}, one consumer each\n"
    );
    println!("| no work | messages/s, median of {rounds} | least | most |");
    println!("| --- | ---: | ---: | ---: |");
    let mut rows: Vec<(&str, Vec<f64>)> = [
        "plain loop of `fetch`",
        "plain loop of `batch`",
        "plain loop over `stream`",
        "buffer, 1 request",
        "buffer, 2 requests",
    ]
    .map(|name| (name, Vec::new()))
    .into();
    for _ in 0..rounds {
        rows[0].1.push(bench.plain(Plain::Fetch, Duration::ZERO).await?);
        rows[1].1.push(bench.plain(Plain::Batch, Duration::ZERO).await?);
        rows[2].1.push(bench.plain(Plain::Stream, Duration::ZERO).await?);
        rows[3].1.push(bench.buffered(1, 1, Duration::ZERO).await?.0);
        rows[4].1.push(bench.buffered(2, 1, Duration::ZERO).await?.0);
    }
    print_rows(rows);
    Ok(())
}

fn print_rows(rows: Vec<(&str, Vec<f64>)>) {
    for (name, mut rates) in rows {
        rates.sort_by(f64::total_cmp);
        let (least, most) = (rates[0], rates[rates.len() - 1]);
        println!("| {name} | {:.0} | {least:.0} | {most:.0} |", rates[rates.len() / 2]);
    }
}

struct Bench {
    context: Context,
    messages: usize,
}

#[derive(Clone, Copy)]
enum Plain {
    Fetch,
    Batch,
    Stream,
}

impl Bench {
    async fn consumer(&self) -> Result<PullConsumer, Failure> {
        let config = pull::Config {
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        Ok(self.context.create_consumer_on_stream(config, "in").await?)
    }

    /// Pulls, works and acknowledges in one loop.
    async fn plain(&self, kind: Plain, work: Duration) -> Result<f64, Failure> {
        let consumer = self.consumer().await?;
        let started = Instant::now();
        let mut left = self.messages;
        if let Plain::Stream = kind {
            let stream = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
            let mut chunks = stream.ready_chunks(BATCH);
            while left > 0 {
                let chunk = chunks.next().await.ok_or("the stream ended")?;
                pause(work).await;
                for message in chunk {
                    message?.ack().await?;
                    left -= 1;
                }
            }
        }
        while left > 0 {
            let messages = match kind {
                Plain::Fetch => consumer.fetch().max_messages(BATCH).messages().await?,
                _ => consumer.batch().max_messages(BATCH).messages().await?,
            };
            let batch: Vec<_> = messages.collect().await;
            pause(work).await;
            for message in batch {
                message?.ack().await?;
                left -= 1;
            }
        }
        self.finish(&consumer, started).await
    }

    /// Pulls into a buffer, from which workers take batches.
    async fn buffered(
        &self,
        requests: usize,
        workers: usize,
        work: Duration,
    ) -> Result<(f64, PullStats), Failure> {
        let consumer = self.consumer().await?;
        let settings = BufferSettings { max_per_source: 4_000, ..BufferSettings::default() };
        let manager = BufferManager::<Delivery>::new(settings);
        let (stage, source) = (manager.stage("work")?, manager.source("in")?);
        let options = PullOptions::default().max_batch(BATCH).requests(requests);
        let context = self.context.clone();
        let puller =
            Puller::new(context, consumer.clone(), source, stage.clone(), Ok, options).await?;
        let settler = puller.settler();
        let (stop, stopped) = oneshot::channel::<()>();
        let started = Instant::now();
        let pulling = tokio::spawn(puller.run(async {
            let _ = stopped.await;
        }));
        let mut tasks = Vec::new();
        for _ in 0..workers {
            let (stage, settler) = (stage.clone(), settler.clone());
            tasks.push(tokio::spawn(async move {
                while let Ok(batch) = stage.recv_batch(BATCH).await {
                    pause(work).await;
                    settler.ack(batch).await?;
                }
                Ok::<(), conveyor_buffer_nats::SettleError<Delivery>>(())
            }));
        }
        let rate = self.finish(&consumer, started).await?;
        drop(stop);
        pulling.await??;
        let stats = settler.stats();
        settler.shut_down(&manager, Duration::from_secs(10)).await;
        for task in tasks {
            task.await??;
        }
        Ok((rate, stats))
    }

    /// Waits until the server has all acknowledgements, and returns the rate.
    async fn finish(&self, consumer: &PullConsumer, started: Instant) -> Result<f64, Failure> {
        loop {
            let info = consumer.get_info().await?;
            if info.ack_floor.stream_sequence == self.messages as u64 {
                break;
            }
            sleep(Duration::from_millis(2)).await;
        }
        let rate = self.messages as f64 / started.elapsed().as_secs_f64();
        if env::var_os("CPU").is_some() {
            let stat = std::fs::read_to_string("/proc/self/stat")?;
            let f: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            let t: u64 = f[11].parse::<u64>()? + f[12].parse::<u64>()?;
            static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
            let last = LAST.swap(t, std::sync::atomic::Ordering::Relaxed);
            eprintln!(
                "cpu us/msg {:.2}  rate {rate:.0}",
                (t - last) as f64 * 10_000.0 / self.messages as f64
            );
        }
        self.context.delete_consumer_from_stream(&consumer.cached_info().name, "in").await?;
        Ok(rate)
    }
}

async fn pause(work: Duration) {
    if !work.is_zero() {
        sleep(work).await;
    }
}

async fn publish(context: &Context, messages: usize) -> Result<(), Failure> {
    let mut waiting = FuturesUnordered::new();
    for _ in 0..messages {
        waiting.push(context.publish("in", vec![b'x'; 100].into()).await?.into_future());
        if waiting.len() >= 1_000 {
            waiting.next().await.ok_or("one waits")??;
        }
    }
    while let Some(stored) = waiting.next().await {
        stored?;
    }
    Ok(())
}
