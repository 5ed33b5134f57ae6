//! The memory of an idle stage, measured by a program of its own, since counting allocations would
//! slow down everything that is timed here.

use std::process::Command;

use anyhow::{Context, ensure};

/// Heap bytes.
pub struct Memory {
    /// An empty stage with room for 10,000 records of 104 bytes.
    pub stage: f64,
    /// A raw ring with room for as many records.
    pub ring: f64,
    /// A raw ring of 10,000 slots, each for a record or a `Vec` of records.
    pub slots: f64,
}

pub fn measure() -> anyhow::Result<Memory> {
    eprintln!("memory: an idle stage");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--bin", "memory", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .context("cannot run cargo to build `memory`")?;
    ensure!(output.status.success(), "`memory`: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    let &[stage, ring, slots] = numbers.as_slice() else {
        anyhow::bail!("`memory` printed {text:?}");
    };
    Ok(Memory { stage, ring, slots })
}
