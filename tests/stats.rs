//! Statistics: the levels, as numbers and as a table.

mod common;

use std::time::Duration;

use conveyor_buffer::{Outcome, SourceStats, StageStats, Stats};

use common::*;

fn stage<'a>(stats: &'a Stats, id: &str) -> &'a StageStats {
    stats.stages.iter().find(|stage| stage.id == id).unwrap()
}

fn source<'a>(stats: &'a Stats, id: &str) -> &'a SourceStats {
    stats.sources.iter().find(|source| source.id == id).unwrap()
}

#[test]
fn every_record_is_counted_where_it_is() {
    let manager = Manager::builder(caps(100, 50, 60)).dead_letter_capacity(2).build().unwrap();
    let (first, next) = (manager.stage("first").unwrap(), manager.stage("next").unwrap());
    let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
    a.try_send_batch(&first, rows("a", 0..30)).unwrap();
    b.try_send_batch(&next, rows("b", 0..5)).unwrap();
    // Three letters, of which one is parked; four records that are not due; two in flight.
    take(&first, 3).settle(|_| Outcome::DeadLetter);
    take(&first, 4).return_after(Duration::from_secs(3_600));
    let batch = take(&first, 2);
    take(&first, 1).try_forward(&next).unwrap();
    take(&first, 6).ack();
    let permit = b.try_reserve(&first, 7).unwrap();

    let stats = manager.stats();
    let ids: Vec<&str> = stats.stages.iter().map(|stage| stage.id.as_str()).collect();
    assert_eq!(ids, ["first", "next"]);
    let StageStats { queued, delayed, in_flight, reserved, parked, capacity, .. } =
        *stage(&stats, "first");
    assert_eq!((queued, delayed, in_flight), (14, 4, 2));
    assert_eq!((reserved, parked, capacity), (7, 1, 50));
    assert_eq!(stage(&stats, "first").held(), 28);
    assert_eq!((stage(&stats, "next").queued, stage(&stats, "next").held()), (6, 6));
    let SourceStats { held, reserved, parked, capacity, .. } = *source(&stats, "a");
    assert_eq!((held, reserved, parked, capacity), (22, 0, 1, 60));
    assert_eq!((source(&stats, "b").held, source(&stats, "b").reserved), (12, 7));
    assert_eq!((stats.held, stats.capacity, stats.dead_letters, stats.parked), (34, 100, 2, 1));
    // The sums agree.
    let by_stage: usize = stats.stages.iter().map(StageStats::held).sum();
    let by_source: usize = stats.sources.iter().map(|source| source.held).sum();
    assert_eq!((by_stage, by_source), (stats.held, stats.held));
    assert_eq!((manager.len(), a.len(), b.len()), (34, 22, 12));
    assert_eq!((manager.capacity(), manager.utilization()), (100, 0.34));

    drop(permit);
    batch.ack();
    assert_eq!((stage(&manager.stats(), "first").reserved, b.len()), (0, 5));
    manager.remove_source("nobody").unwrap_err();
}

#[test]
fn an_empty_buffer_has_empty_statistics() {
    let manager = Manager::new(caps(7, 5, 3));
    let stats = manager.stats();
    assert_eq!((stats.held, stats.capacity), (0, 7));
    assert!(stats.stages.is_empty() && stats.sources.is_empty());
    assert!(manager.is_empty() && manager.source("a").unwrap().is_empty());
    assert_eq!(manager.stats().sources[0].capacity, 3);
}

#[test]
fn the_table_has_a_line_for_each_name_and_columns_that_line_up() {
    let manager = Manager::new(caps(100_000, 50_000, 40_000));
    let long = "a stage with a näme that is long";
    let (stage, source) = (manager.stage(long).unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..12_345)).unwrap();
    manager.stage("b").unwrap();
    let table = manager.stats().to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 6);
    let ends =
        |line: &str, cell: &str| line.find(cell).map(|at| line[..at + cell.len()].chars().count());
    assert_eq!(ends(lines[1], "held"), ends(lines[2], "12345"));
    assert_eq!(ends(lines[1], "  of"), ends(lines[3], "50000"));
    let wide = |lines: &[&str]| {
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        widths.iter().all(|width| *width == widths[0])
    };
    assert!(wide(&lines[1..4]) && wide(&lines[4..6]), "{table}");
}
