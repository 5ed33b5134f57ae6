//! The competitors, each used as its documentation advises: by calls that never wait, and by calls
//! that wait where the workload is about these.
//!
//! Any number of threads may push: of a crate with several kinds of channel, the one for many
//! producers is used, and for one worker or many as the workload requires.

pub mod channels;
#[cfg(feature = "conveyor-etl-buffer")]
pub mod etl;
pub mod fanring;
pub mod mutex;
pub mod tokio;

/// Pushes one by one, and leaves what was refused and what is behind it.
fn push_each<R>(records: &mut Vec<R>, mut push: impl FnMut(R) -> Result<(), R>) {
    let mut rest = records.drain(..);
    let refused = rest.by_ref().find_map(|record| push(record).err());
    if let Some(refused) = refused {
        let refused = std::iter::once(refused).chain(rest).collect();
        *records = refused;
    }
}

/// Takes one by one while there are any.
fn take_each<R>(
    max: usize,
    mut take: impl FnMut() -> Option<R>,
    mut see: impl FnMut(&mut R),
) -> usize {
    let mut taken = 0;
    while taken < max
        && let Some(mut record) = take()
    {
        see(&mut record);
        taken += 1;
    }
    taken
}

/// Shows records to `see` and drops them. Their `Vec` keeps its memory.
fn see_all<R>(records: &mut Vec<R>, mut see: impl FnMut(&mut R)) -> usize {
    let taken = records.len();
    for mut record in records.drain(..) {
        see(&mut record);
    }
    taken
}

/// Neighbours of one source, and how many they are.
fn runs<R: crate::common::Sourced>(records: &[R]) -> impl Iterator<Item = (usize, usize)> {
    let runs = records.chunk_by(|one, other| one.source() == other.source());
    runs.map(|run| (run[0].source() as usize, run.len()))
}

#[cfg(test)]
mod tests {
    use crate::common::blocking::BlockingCompetitor;
    use crate::common::conveyor::Conveyor;
    use crate::common::work::{
        Competitor, Consume, Flow, GLOBAL_CAP, Produce, SOURCE_CAP, STAGE_CAP,
    };
    use crate::common::{BATCH, Medium};

    use super::channels::{
        AsyncChannel, Crossbeam, Crossfire, CrossfireSingle, Flume, Kanal, Rings,
    };
    use super::fanring::{Fanring, FanringMany};
    use super::mutex::Locked;
    use super::tokio::Tokio;

    /// A record with a mark of its own.
    fn marked(source: usize, mark: u8) -> Medium {
        let mut record = Medium::of(source as u32);
        record.payload[0] = mark;
        record
    }

    fn full(producer: &mut impl Produce<Medium>, source: usize) -> usize {
        (0..).take_while(|_| producer.push(marked(source, 0)).is_ok()).count()
    }

    /// The cap that is reached first is the one that refuses, and what is taken makes room again.
    fn holds_all_caps<C: Competitor<Medium>>() {
        let mut competitor = C::new(3, 1, 1);
        let mut producers: Vec<_> = (0..3).map(|source| competitor.producer(source, 0)).collect();
        let mut worker = competitor.consumer(0);
        assert_eq!(full(&mut producers[0], 0), SOURCE_CAP);
        assert_eq!(full(&mut producers[1], 1), STAGE_CAP - SOURCE_CAP);
        assert_eq!(full(&mut producers[2], 2), 0, "the stage is full");
        assert_eq!(worker.take(BATCH, |_| ()), BATCH);
        assert_eq!(full(&mut producers[0], 0), BATCH);
        assert_eq!(worker.take(1, |_| ()), 1);
        let mut records: Vec<_> = (0..BATCH).map(|_| marked(0, 0)).collect();
        producers[0].push_batch(&mut records);
        assert_eq!(records.len(), BATCH - 1, "one fitted");

        let (sources, stages) = (GLOBAL_CAP / SOURCE_CAP + 1, 11);
        let mut competitor = C::new(sources, stages, 1);
        let pushed: usize = (0..sources - 1)
            .map(|source| full(&mut competitor.producer(source, source / 2), source))
            .sum();
        assert_eq!(pushed, GLOBAL_CAP);
        let mut last = competitor.producer(sources - 1, stages - 1);
        assert_eq!(full(&mut last, sources - 1), 0, "all is full");
        let mut records = Vec::new();
        competitor.consumer(0).take_into(BATCH, &mut records);
        assert_eq!(records.len(), BATCH);
        assert_eq!(full(&mut last, sources - 1), BATCH);
    }

    /// Records come out once each and in order, whether they went alone or together.
    fn passes_records_on<C: Competitor<Medium>>(workers: usize) {
        let mut competitor = C::new(1, 1, workers);
        let mut producer = competitor.producer(0, 0);
        let mut worker = competitor.consumer(0);
        for mark in 0..3 {
            assert!(producer.push(marked(0, mark)).is_ok());
        }
        let mut records: Vec<_> = (3..BATCH as u8).map(|mark| marked(0, mark)).collect();
        producer.push_batch(&mut records);
        assert!(records.is_empty());

        let mut marks = Vec::new();
        assert_eq!(worker.take(1, |record| marks.push(record.payload[0])), 1);
        let rest = BATCH - 1;
        assert_eq!(worker.take(rest, |record| marks.push(record.payload[0])), rest);
        assert_eq!(worker.take(BATCH, |_| ()), 0);
        assert_eq!(marks, (0..BATCH as u8).collect::<Vec<_>>());

        records.extend((0..BATCH as u8).map(|mark| marked(0, mark)));
        producer.push_batch(&mut records);
        worker.take_into(BATCH, &mut records);
        let marks: Vec<_> = records.iter().map(|record| record.payload[0]).collect();
        assert_eq!(marks, (0..BATCH as u8).collect::<Vec<_>>());

        // What is refused stays, and in its order.
        let pushed = full(&mut producer, 0);
        producer.push_batch(&mut records);
        assert_eq!(records.len(), BATCH);
        assert!(records.iter().map(|record| record.payload[0]).eq(0..BATCH as u8));
        let mut taken = 0;
        while taken < pushed {
            taken += worker.take(BATCH, |_| ());
        }
        assert_eq!(taken, pushed);
    }

    /// Nothing is lost and everybody comes to an end, whoever waits for whom.
    fn ends<C: BlockingCompetitor<Medium>>(producers: usize, workers: usize) {
        Flow::at_one_stage(producers, workers, 1).run_blocking::<Medium, C>(30_000);
    }

    #[test]
    fn those_that_are_said_to_keep_all_caps_keep_them() {
        holds_all_caps::<Conveyor<Medium>>();
        holds_all_caps::<Locked<Medium>>();
        holds_all_caps::<Tokio<Medium>>();
    }

    #[test]
    fn every_competitor_passes_records_on_in_order() {
        passes_records_on::<Conveyor<Medium>>(1);
        passes_records_on::<Rings<Medium>>(1);
        passes_records_on::<Locked<Medium>>(1);
        passes_records_on::<Tokio<Medium>>(1);
        passes_records_on::<Tokio<Medium>>(2);
        passes_records_on::<Crossbeam<Medium>>(1);
        passes_records_on::<Flume<Medium>>(1);
        passes_records_on::<Kanal<Medium>>(1);
        passes_records_on::<AsyncChannel<Medium>>(1);
        passes_records_on::<CrossfireSingle<Medium>>(1);
        passes_records_on::<Crossfire<Medium>>(2);
        passes_records_on::<Fanring<Medium>>(1);
        passes_records_on::<FanringMany<Medium>>(2);
    }

    #[test]
    fn every_competitor_that_waits_passes_all_records_on_and_ends() {
        ends::<Conveyor<Medium>>(2, 2);
        ends::<Conveyor<Medium, true>>(2, 2);
        ends::<Locked<Medium>>(2, 2);
        ends::<Locked<Medium, true>>(2, 2);
        ends::<Tokio<Medium>>(1, 1);
        ends::<Tokio<Medium>>(2, 2);
        ends::<Crossbeam<Medium>>(2, 2);
        ends::<Flume<Medium>>(2, 2);
        ends::<Kanal<Medium>>(2, 2);
        ends::<AsyncChannel<Medium>>(2, 2);
        ends::<CrossfireSingle<Medium>>(2, 1);
        ends::<Crossfire<Medium>>(2, 2);
        ends::<Fanring<Medium>>(2, 1);
        ends::<FanringMany<Medium>>(2, 2);
    }
}
