//! A worker process: from the consumer through a buffer into the database.

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use clap::Args;
use conveyor_buffer::{BufferManager, BufferSettings, Stage};
use conveyor_buffer_nats::{PullOptions, Puller, Settler};
use tokio::io::AsyncReadExt;

use crate::Failure;
use crate::database::Database;
use crate::flight::Flight;

/// The most flights that a worker process holds.
pub const CAP: usize = 1_000;

/// The flights of one transaction.
const BATCH: usize = 100;

/// How long a transaction waits to be filled.
const LINGER: Duration = Duration::from_millis(5);

/// How long the flights in the buffer may take at the end.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Options {
    #[arg(long)]
    url: String,
    #[arg(long)]
    stream: String,
    #[arg(long)]
    consumer: String,
    #[arg(long)]
    database: PathBuf,
    #[arg(long)]
    name: String,
    /// After this many flights, stop between the commit and its acknowledgement, and wait to be
    /// killed.
    #[arg(long)]
    stall_after: Option<i64>,
    #[arg(long)]
    quiet: bool,
}

/// Works until stdin ends.
pub async fn work(options: &Options) -> Result<(), Failure> {
    let context = jetstream::new(async_nats::connect(&options.url).await?);
    let consumer =
        context.get_stream(&options.stream).await?.get_consumer(&options.consumer).await?;

    let settings = BufferSettings { max_per_source: CAP, ..BufferSettings::default() };
    let manager = BufferManager::<Flight>::new(settings);
    let (load, source) = (manager.stage("load")?, manager.source("flights")?);
    let pull = PullOptions::default().processes(2);
    let puller = Puller::new(context, consumer, source, load.clone(), Flight::decode, pull).await?;
    let settler = puller.settler();

    let loading = tokio::spawn({
        let database = Database::open(&options.database)?;
        let (name, stall_after) = (options.name.clone(), options.stall_after);
        let settler = settler.clone();
        async move { load_all(load, settler, database, name, stall_after).await }
    });
    puller.run(end_of_stdin()).await?;
    let left = settler.shut_down(&manager, GRACE).await;
    if !options.quiet {
        eprintln!("{}: {}; handed back: {}", options.name, Stats(&settler), left.handed_back);
    }
    loading.await?
}

async fn load_all(
    load: Stage<Flight>,
    settler: Settler,
    mut database: Database,
    name: String,
    stall_after: Option<i64>,
) -> Result<(), Failure> {
    let mut loaded = 0;
    while let Ok(batch) = load.recv_batch_linger(BATCH, LINGER).await {
        // SQLite blocks, so it gets a thread of its own.
        let worker = name.clone();
        let (result, batch, back) = tokio::task::spawn_blocking(move || {
            let result = database.load(&worker, batch.iter());
            (result, batch, database)
        })
        .await?;
        database = back;
        if let Err(error) = result {
            eprintln!("{name}: {error}");
            batch.return_to_buffer();
            continue;
        }
        loaded += batch.len() as i64;
        if stall_after.is_some_and(|limit| loaded >= limit) {
            println!("{}", batch.len());
            pending::<()>().await;
        }
        // Only now, after the commit. If the process dies before, the flights come again, and the
        // database drops them.
        if let Err(error) = settler.ack(batch).await {
            eprintln!("{name}: {error}");
            error.batch.requeue();
        }
    }
    Ok(())
}

/// The parent closes stdin to end the worker. If the parent dies, stdin ends too.
async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    while let Ok(1..) = stdin.read(&mut [0; 16]).await {}
}

struct Stats<'a>(&'a Settler);

impl std::fmt::Display for Stats<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = self.0.stats();
        write!(
            f,
            "{} pulled in {} requests, {} of them redelivered; {} acknowledged; {} in progress",
            stats.pulled, stats.requests, stats.redelivered, stats.acked, stats.in_progress
        )
    }
}
