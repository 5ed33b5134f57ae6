//! A `nats-server` of our own: on loopback, on a free port, with a directory of its own.
//!
//! The tests of the package use this file too.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

/// How long a server may take to listen.
const STARTED_WITHIN: Duration = Duration::from_secs(20);

/// A running server. It is killed, and its directory removed, when this is dropped.
pub struct Server {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Server {
    /// Starts a server with JetStream.
    ///
    /// # Errors
    ///
    /// If the program is not installed, the error says how to get it.
    pub fn start() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("conveyor-nats-{}-{count}", process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        // Another program may take the port before the server does: try another one then.
        let mut attempts = 0;
        loop {
            let port = free_port()?;
            match spawn(port, &directory) {
                Ok(child) => return Ok(Self { child, port, directory }),
                Err(error) if error.kind() == ErrorKind::AddrInUse && attempts < 5 => attempts += 1,
                Err(error) => {
                    let _ = fs::remove_dir_all(&directory);
                    return Err(error);
                }
            }
        }
    }

    /// Returns the address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the server as a crash would.
    #[allow(dead_code, reason = "for the tests")]
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts the server again after a [`kill`](Self::kill), with its port and its data.
    #[allow(dead_code, reason = "for the tests")]
    pub fn start_again(&mut self) -> io::Result<()> {
        self.child = spawn(self.port, &self.directory)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn spawn(port: u16, directory: &Path) -> io::Result<Child> {
    let started = Command::new(program())
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(directory)
        .arg("-l")
        .arg(directory.join("log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match started {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                "nats-server is not installed: on Debian and Ubuntu `apt-get install nats-server`, \
                 elsewhere see https://docs.nats.io/running-a-nats-service/introduction/installation; \
                 or use a server that runs, with --url",
            ));
        }
        started => started?,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + STARTED_WITHIN;
    while !greets(&address) {
        if let Some(status) = child.try_wait()? {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            let text = format!("nats-server ended at once ({status}): {}", log.trim());
            let is_taken = log.contains("address already in use");
            return Err(io::Error::new(
                if is_taken { ErrorKind::AddrInUse } else { ErrorKind::Other },
                text,
            ));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::new(ErrorKind::TimedOut, "nats-server does not listen"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Another server may listen on the port.
    if let Some(status) = child.try_wait()? {
        return Err(io::Error::new(ErrorKind::AddrInUse, format!("the port was taken ({status})")));
    }
    Ok(child)
}

/// Returns whether a server answers as NATS does.
fn greets(address: &SocketAddr) -> bool {
    let patience = Duration::from_millis(500);
    let greeting = TcpStream::connect_timeout(address, patience).and_then(|mut stream| {
        stream.set_read_timeout(Some(patience))?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).map(|()| greeting)
    });
    greeting.is_ok_and(|greeting| greeting == *b"INFO ")
}

/// Debian installs the server where a user's `PATH` need not lead.
fn program() -> &'static str {
    const DEBIAN: &str = "/usr/sbin/nats-server";
    if Path::new(DEBIAN).exists() { DEBIAN } else { "nats-server" }
}
