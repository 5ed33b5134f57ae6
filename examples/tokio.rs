//! A pipeline on tokio: two sources, two stages, retries, dead letters, backpressure, graceful
//! shutdown. `threads.rs` is the same on threads. Run it with `cargo run --example tokio`.

use std::{error::Error, iter, time::Duration};

use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, Outcome, Record};
use conveyor_buffer::{Source, Stage};
use tokio::{task::JoinSet, time};

/// Lines of each source. Every tenth fails each time, and is a dead letter after the last retry.
const LINES: usize = 1_000;
const RETRIES: u32 = 3;

type Line = Record<String>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let caps = BufferSettings { max_per_stage: 60, max_per_source: 50, ..Default::default() };
    let manager = BufferManager::builder(caps).max_retries(RETRIES).build()?;
    let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);

    tokio::spawn(parse_lines(parse.clone(), load.clone()));
    let loader = tokio::spawn(load_lines(load));
    let sources = [manager.source("north")?, manager.source("south")?];
    let readers: JoinSet<_> =
        sources.into_iter().map(|source| read_lines(source, parse.clone())).collect();
    let slowed: usize = readers.join_all().await.iter().sum();

    // From here on pushes are refused, and the workers end when all records are settled.
    manager.close();
    time::timeout(Duration::from_secs(10), manager.drain()).await?;
    let loaded = loader.await?;

    let letters: Vec<_> = iter::from_fn(|| manager.dead_letters().try_recv()).collect();
    println!("{} lines read, {slowed} of them at a reduced rate", 2 * LINES);
    println!("{loaded} loaded, {} dead letters after {RETRIES} retries", letters.len());
    assert!(slowed > 0, "the sources are faster than the loader");
    assert_eq!((loaded, letters.len()), (2 * LINES / 10 * 9, 2 * LINES / 10));
    assert!(letters.iter().all(|line| line.stage_id == "parse" && line.retry_count == RETRIES));
    Ok(())
}

/// A source: waits at a cap, and rests while its signal asks for a lower rate. Returns how often.
async fn read_lines(source: Source<Line>, parse: Stage<Line>) -> usize {
    let mut slowed = 0;
    for n in 0..LINES {
        let line = if n % 10 == 0 { "NA".to_owned() } else { n.to_string() };
        source.send(&parse, Record::new(line)).await.expect("the buffer is open");
        if source.signal() != BackpressureSignal::Resume {
            slowed += 1;
            time::sleep(Duration::from_micros(100)).await;
        }
    }
    slowed
}

/// A worker: forwards the numbers and returns the rest, which comes again before newer lines.
async fn parse_lines(parse: Stage<Line>, load: Stage<Line>) {
    while let Ok(batch) = parse.recv_batch(10).await {
        let (numbers, rest) = batch.partition(|line| line.parse::<usize>().is_ok());
        rest.return_to_buffer();
        numbers.forward(&load).await.expect("the next stage is open");
    }
}

/// A slow worker. It fails at a line that ends in 7 the first time.
async fn load_lines(load: Stage<Line>) -> usize {
    let mut loaded = 0;
    while let Ok(batch) = load.recv_batch(10).await {
        time::sleep(Duration::from_micros(200)).await;
        batch.settle(|line| {
            let failed = line.retries() == 0 && line.ends_with('7');
            loaded += usize::from(!failed);
            if failed { Outcome::Return } else { Outcome::Ack }
        });
    }
    loaded
}
