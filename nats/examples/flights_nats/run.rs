//! The stage for the workers: a server, a stream with the flights, and the report.

use std::env;
use std::fs;
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config as StreamConfig;
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::database::Database;
use crate::flight::HEADER;
use crate::server::Server;
use crate::worker::CAP;
use crate::{Failure, Run};

const CONSUMER: &str = "load";

/// Short, so that what the killed worker held comes again soon. Long enough for a full buffer.
const ACK_WAIT: Duration = Duration::from_secs(3);

/// The interval of the progress lines.
const FRAME: Duration = Duration::from_millis(100);

/// How long nothing may change before the program gives up.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(options: &Run) -> Result<(), Failure> {
    let mut lines = read(&options.flights)?;
    lines.truncate(options.first.unwrap_or(usize::MAX));
    if lines.is_empty() {
        return Err("no flights to load".into());
    }
    let database = Database::create(&options.output)?;
    let console = Console { quiet: options.quiet, is_terminal: stderr().is_terminal() };

    // Kept until the end, when it is killed and its directory removed.
    let own = if options.url.is_none() { Some(Server::start()?) } else { None };
    let url = match (&options.url, &own) {
        (Some(url), _) => url.clone(),
        (None, Some(server)) => {
            console.say(&format!("started nats-server on {}", server.url()));
            server.url()
        }
        (None, None) => unreachable!("one of the two is there"),
    };
    let client = async_nats::connect(&url).await.map_err(|error| format!("{url}: {error}"))?;
    let context = jetstream::new(client);
    let stream = format!("conveyor-flights-{}", process::id());
    let result = async {
        let consumer = prepare(&context, &stream, &lines, &console).await?;
        let started = Instant::now();
        let deaths = work(
            &consumer,
            &url,
            &stream,
            &options.output,
            lines.len() as i64,
            &database,
            &console,
        )
        .await?;
        report(&lines, &database, &deaths, started.elapsed())
    };
    let result = result.await;
    context.delete_stream(&stream).await?;
    result
}

fn read(path: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut lines = text.lines().map(str::to_owned);
    if lines.next().as_deref() != Some(HEADER) {
        return Err(format!("{}: its header is not {HEADER}", path.display()).into());
    }
    Ok(lines.collect())
}

/// Creates the stream and its consumer, and publishes the flights.
async fn prepare(
    context: &Context,
    stream: &str,
    lines: &[String],
    console: &Console,
) -> Result<PullConsumer, Failure> {
    let subject = stream.replace('-', ".");
    let config = StreamConfig {
        name: stream.to_owned(),
        subjects: vec![format!("{subject}.>")],
        ..StreamConfig::default()
    };
    let handle = context.create_stream(config).await?;
    let consumer = handle
        .create_consumer(pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // What the two workers may hold together.
            max_ack_pending: 2 * CAP as i64,
            ..pull::Config::default()
        })
        .await?;

    let mut waiting = FuturesUnordered::new();
    for (row, line) in lines.iter().enumerate() {
        let message =
            PublishMessage::build().payload(line.clone().into()).message_id(format!("row-{row}"));
        let origin = line.split(',').nth(12).unwrap_or("unknown");
        let sent = context.send_publish(format!("{subject}.{origin}"), message).await?;
        waiting.push(sent.into_future());
        if waiting.len() >= 500
            && let Some(stored) = waiting.next().await
        {
            stored?;
        }
        if row % 1_000 == 0 {
            console.show(&format!("publishing: {row} of {} flights", lines.len()));
        }
    }
    while let Some(stored) = waiting.next().await {
        stored?;
    }
    console.say(&format!("published {} flights to stream {stream}", lines.len()));
    Ok(consumer)
}

/// What a killed worker had in its hands.
struct Death {
    worker: String,
    /// Committed, and not acknowledged.
    unacknowledged: usize,
    /// What both workers had not acknowledged, as the server counts it.
    pending: usize,
}

async fn work(
    consumer: &PullConsumer,
    url: &str,
    stream: &str,
    output: &Path,
    flights: i64,
    database: &Database,
    console: &Console,
) -> Result<Vec<Death>, Failure> {
    // The first worker is killed at the worst moment: after a commit, before its acknowledgement.
    let stall_after = flights / 4;
    let mut first = spawn("worker 1", Some(stall_after), url, stream, output, console)?;
    // With a head start, so that it is killed before the other has loaded all.
    while database.count()? == 0 && first.try_wait()?.is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    let mut second = spawn("worker 2", None, url, stream, output, console)?;
    console.say(&format!("started {} and {}", describe(&first), describe(&second)));

    let mut deaths = Vec::new();
    let mut stalled = BufReader::new(first.stdout.take().ok_or("no stdout")?).lines();
    let mut is_first_alive = true;
    let mut last = (0, Instant::now());
    loop {
        let info = consumer.get_info().await?;
        let loaded = database.count()?;
        let bar = "=".repeat(usize::try_from(40 * loaded / flights.max(1))?);
        console.show(&format!(
            "[{bar:<40}] {loaded} of {flights} loaded, {} in the workers' hands",
            info.num_ack_pending
        ));
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            break;
        }
        if loaded != last.0 {
            last = (loaded, Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            return Err(format!("nothing was loaded for {PATIENCE:?}").into());
        }
        if let Some(status) = second.try_wait()? {
            return Err(format!("worker 2 ended early: {status}").into());
        }
        tokio::select! {
            line = stalled.next_line(), if is_first_alive => {
                let unacknowledged = line?.ok_or("worker 1 ended early")?.parse()?;
                let name = describe(&first);
                first.kill().await?;
                let pending = consumer.get_info().await?.num_ack_pending;
                is_first_alive = false;
                console.say(&format!(
                    "killed {name} after the commit of {unacknowledged} flights, before their \
                     acknowledgement"
                ));
                deaths.push(Death { worker: "worker 1".into(), unacknowledged, pending });
            }
            () = sleep(FRAME) => {}
        }
    }
    console.show("");
    drop(second.stdin.take());
    let status = second.wait().await?;
    if deaths.is_empty() || !status.success() {
        return Err(format!("worker 1 was not killed, or worker 2 failed ({status})").into());
    }
    Ok(deaths)
}

/// Runs this program as a worker. It is killed when the handle is dropped.
fn spawn(
    name: &str,
    stall_after: Option<i64>,
    url: &str,
    stream: &str,
    output: &Path,
    console: &Console,
) -> Result<Child, Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["worker", "--url", url, "--stream", stream, "--consumer", CONSUMER]);
    command.args(["--name", name, "--database"]).arg(output);
    if let Some(flights) = stall_after {
        command.args(["--stall-after", &flights.to_string()]);
    }
    if console.quiet {
        command.arg("--quiet");
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    Ok(child)
}

fn describe(worker: &Child) -> String {
    match worker.id() {
        Some(id) => format!("process {id}"),
        None => "a process that has ended".into(),
    }
}

/// Compares the table with the file, row by row.
fn report(
    lines: &[String],
    database: &Database,
    deaths: &[Death],
    elapsed: Duration,
) -> Result<(), Failure> {
    let tallies = database.tallies()?;
    println!("| worker | loaded | redelivered to it | dropped as duplicates |");
    println!("| --- | ---: | ---: | ---: |");
    let (mut loaded, mut redelivered, mut duplicates) = (0, 0, 0);
    for tally in &tallies {
        let dead = deaths.iter().any(|death| death.worker == tally.worker);
        println!(
            "| {}{} | {} | {} | {} |",
            tally.worker,
            if dead { ", killed" } else { "" },
            tally.loaded,
            tally.redelivered,
            tally.duplicates
        );
        loaded += tally.loaded;
        redelivered += tally.redelivered;
        duplicates += tally.duplicates;
    }
    println!("| both | {loaded} | {redelivered} | {duplicates} |\n");
    for Death { worker, unacknowledged, pending } in deaths {
        println!(
            "{worker} was killed between the commit of {unacknowledged} flights and their \
             acknowledgement. {pending} flights of both workers were unacknowledged then: \
             acknowledgements on their way to the server are lost with the process."
        );
    }
    let found = database.lines()?;
    if found != lines {
        let missing = lines.len() as i64 - found.len() as i64;
        return Err(format!("NOT every flight arrived exactly once: {missing} are missing").into());
    }
    println!(
        "Every one of the {} flights arrived exactly once, in {:.1} s.",
        lines.len(),
        elapsed.as_secs_f64()
    );
    Ok(())
}

/// The output while the program runs, on stderr.
struct Console {
    quiet: bool,
    is_terminal: bool,
}

impl Console {
    fn say(&self, line: &str) {
        if !self.quiet {
            self.write(&format!("{}{line}\n", self.clear()));
        }
    }

    /// Shows a line that the next one replaces. Without a terminal nothing is shown.
    fn show(&self, line: &str) {
        if !self.quiet && self.is_terminal {
            self.write(&format!("{}{line}", self.clear()));
        }
    }

    fn clear(&self) -> &'static str {
        if self.is_terminal { "\r\x1b[K" } else { "" }
    }

    fn write(&self, text: &str) {
        // A closed stderr is no reason to stop.
        let _ = stderr().write_all(text.as_bytes());
    }
}
