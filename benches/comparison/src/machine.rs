//! The machine that the figures were measured on.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use sysinfo::{CpuRefreshKind, RefreshKind, System};

pub struct Machine {
    pub cores: usize,
    /// Properties and their values.
    pub lines: Vec<(&'static str, String)>,
}

impl Machine {
    pub fn look() -> Self {
        let cpus = RefreshKind::nothing().with_cpu(CpuRefreshKind::everything());
        let processor = System::new_with_specifics(cpus)
            .ok()
            .and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()))
            .unwrap_or_else(|| "unknown".to_owned());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let os =
            [System::name(), System::kernel_version()].map(Result::unwrap_or_default).join(" ");
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            cores,
            lines: vec![
                ("Processor", processor),
                ("Cores", cores.to_string()),
                ("System", format!("{os}, {}", std::env::consts::ARCH)),
                ("Compiler", output("rustc", &["--version"])),
                ("Commit", commit()),
                ("Date", date[..10].to_owned()),
            ],
        }
    }
}

/// The commit that was measured, and whether the files differed from it.
fn commit() -> String {
    let hash = output("git", &["rev-parse", "--short", "HEAD"]);
    let changes = output("git", &["status", "--porcelain", "--", "src", "Cargo.toml", "benches"]);
    if changes.is_empty() { hash } else { format!("{hash}, with changes") }
}

/// Returns what a command prints that is run in the repository, or nothing if it cannot be run.
fn output(command: &str, arguments: &[&str]) -> String {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(command)
        .args(arguments)
        .current_dir(repository)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// Returns the version of a package that this program was built with.
pub fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let name = format!("name = \"{package}\"\n");
    // The last of several versions is the newest, which this package depends on.
    let (_, entry) = lock.rsplit_once(&name).unwrap_or_default();
    entry
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .unwrap_or("?")
}
