//! The departures of New York's airports in January 2013, through NATS JetStream into SQLite, by
//! two worker processes of which one is killed in the middle.
//!
//! `cargo run --release -p conveyor-buffer-nats --example flights_nats -- --help` lists the
//! options.
//!
//! `worker` is what one would write for a real program. `run` is the stage for it: it starts a
//! server, publishes the flights, starts and kills workers, and counts.

mod database;
mod flight;
mod run;
mod server;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// What can go wrong: there is nothing to be done about it but to say so.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Loads flights from NATS JetStream into SQLite by two processes, and kills one in the middle.
///
/// Without --url it starts a nats-server of its own on loopback, with a temporary directory.
#[derive(Debug, Parser)]
#[command(name = "flights_nats", version, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Args)]
struct Run {
    /// A server with JetStream to use, such as nats://localhost:4222. The program adds a stream of
    /// its own, which it deletes at the end.
    #[arg(long)]
    url: Option<String>,

    /// CSV file of flights with a header.
    #[arg(long, value_name = "FILE", default_value = concat!(
        env!("CARGO_MANIFEST_DIR"), "/../examples/flights/data/flights-2013-01.csv"
    ))]
    flights: PathBuf,

    /// Takes only this many flights from the beginning of the file.
    #[arg(long, value_name = "NUMBER")]
    first: Option<usize>,

    /// SQLite file to write. One of this program that exists is replaced.
    #[arg(long, short, value_name = "FILE", default_value = concat!(
        env!("CARGO_MANIFEST_DIR"), "/../target/flights-nats.db"
    ))]
    output: PathBuf,

    /// Prints only the report.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// A worker process, which the program starts itself.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.role {
        Some(Role::Worker(options)) => worker::work(options).await,
        None => run::run(&options.run).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flights_nats: {error}");
            ExitCode::FAILURE
        }
    }
}
