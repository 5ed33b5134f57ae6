//! The promises of the package, against a real `nats-server`.
//!
//! Each test starts a server of its own on loopback, with a directory of its own.

#[path = "../../examples/flights_nats/server.rs"]
mod server;

mod common;
mod dead_letters;
mod kill;
mod progress;
mod publish;
mod pull;
mod restart;
mod settle;
mod shut_down;
mod start;
