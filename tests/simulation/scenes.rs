//! The plans that seeds lead to, one kind for each scene.

use std::time::Duration;

use crate::plan::{Plan, Push, Role, Scene, Settle, Take};
use crate::random::Random;

const SCENES: [Scene; 9] = [
    Scene::Mixed,
    Scene::Large,
    Scene::Abandoned,
    Scene::Letters,
    Scene::Panics,
    Scene::Crowd,
    Scene::Lane,
    Scene::Circle,
    Scene::Closing,
];

const SECOND: u64 = 1_000_000;

/// From a microsecond to a minute. Threads mostly keep pace with each other.
fn any_pace(random: &mut Random, threaded: bool) -> Duration {
    let longest = if threaded && !random.one_in(4) { 500 } else { 60 * SECOND };
    Duration::from_micros(random.magnitude(1, longest))
}

const ANY_PUSH: [Push; 8] = [
    Push::Try,
    Push::TryBatch,
    Push::ByName,
    Push::ByNameBatch,
    Push::Send,
    Push::SendBatch,
    Push::Reserve,
    Push::Blocking,
];
const ANY_TAKE: [Take; 7] = [
    Take::Wait,
    Take::Wait,
    Take::Linger,
    Take::Try,
    Take::NoTime,
    Take::Blocking,
    Take::BlockingLinger,
];
const ANY_SETTLE: [Settle; 15] = [
    Settle::Ack,
    Settle::Ack,
    Settle::Ack,
    Settle::Return,
    Settle::ReturnAfter,
    Settle::Requeue,
    Settle::IntoRecords,
    Settle::ByNameReturn,
    Settle::Mixed,
    Settle::Split,
    Settle::Partition,
    Settle::TryForward,
    Settle::Forward,
    Settle::WorkerPanics,
    Settle::Abandon,
];

/// Some of them, at least one.
fn some<T: Copy>(random: &mut Random, from: &[T]) -> Vec<T> {
    let mut chosen: Vec<T> = from.iter().filter(|_| random.one_in(2)).copied().collect();
    if chosen.is_empty() {
        chosen.push(random.pick(from));
    }
    chosen
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(random: &mut Random, threaded: bool) -> Self {
        let scenes: &[Scene] = if threaded {
            &[
                Scene::Mixed,
                Scene::Letters,
                Scene::Letters,
                Scene::Lane,
                Scene::Circle,
                Scene::Closing,
            ]
        } else {
            &SCENES
        };
        let scene = random.pick(scenes);
        let mut plan = Self::empty(random, scene, threaded);
        match scene {
            Scene::Mixed => plan.mixed(random),
            Scene::Large => plan.large(random),
            Scene::Abandoned => plan.abandoned(random),
            Scene::Letters => plan.dead_letters(random),
            Scene::Panics => {
                plan.mixed(random);
                plan.panics = random.between(20, 300);
            }
            Scene::Crowd => plan.crowd(random),
            Scene::Lane => plan.lane(random),
            Scene::Circle => plan.circle(random),
            Scene::Closing => plan.closing(random),
        }
        let scenes = [Scene::Mixed, Scene::Panics, Scene::Letters, Scene::Circle];
        plan.drops = !threaded && scenes.contains(&scene) && random.one_in(5);
        plan.guarantees = vec![0; plan.sources];
        if random.one_in(3) {
            plan.guarantee(random);
        }
        // Two callers at once, now and then three.
        for _ in 0..random.between(1, 3) {
            plan.roles.push(Role::Closer { after: None });
        }
        plan
    }

    fn empty(random: &mut Random, scene: Scene, threaded: bool) -> Self {
        Self {
            scene,
            threaded,
            total: random.magnitude(1, 64) as usize,
            per_stage: random.magnitude(1, 32) as usize,
            per_source: random.magnitude(1, 32) as usize,
            letters: random.between(1, 4),
            retries: random.pick(&[None, Some(0), Some(1), Some(3)]),
            backoff: random.one_in(4).then(|| {
                let first = any_pace(random, threaded);
                (first, first * random.between(1, 6) as u32)
            }),
            guarantees: Vec::new(),
            stages: 1,
            sources: 1,
            panics: 0,
            late: if threaded { 0 } else { random.pick(&[0, 0, 3, 20]) },
            drops: false,
            roles: Vec::new(),
        }
    }

    /// Guarantees one or two sources some of what the largest request leaves.
    fn guarantee(&mut self, random: &mut Random) {
        let largest = self.roles.iter().map(|role| match role {
            Role::Producer { size, .. } => *size.end(),
            Role::Idler { size, .. } | Role::Crowd { size, .. } => *size,
            _ => 0,
        });
        let mut left = self.total.saturating_sub(largest.max().unwrap_or(0));
        for _ in 0..random.between(1, 2) {
            let source = random.below(self.sources);
            let most = left.min(self.per_source - self.guarantees[source]);
            if most > 0 {
                // Now and then all that the source may hold, so that nothing but its own cap refuses it.
                let more = if random.one_in(3) { most } else { random.between(1, most) };
                self.guarantees[source] += more;
                left -= more;
            }
        }
    }

    fn add_worker(&mut self, random: &mut Random, stage: usize, settle: &[Settle]) {
        let forward_to = (0..self.stages).filter(|&next| next != stage).collect();
        self.roles.push(Role::Worker {
            stage,
            how: if !self.threaded && random.one_in(6) {
                // On threads nobody could tell whether they are handed out yet.
                vec![Take::ByName]
            } else {
                some(random, &ANY_TAKE)
            },
            max: random.magnitude(1, 2 * self.per_stage as u64) as usize,
            pace: any_pace(random, self.threaded),
            settle: if settle.is_empty() { Vec::new() } else { some(random, settle) },
            forward_to,
            pause: None,
        });
        // One of them settles for good, or nothing would ever end.
        if let Some(Role::Worker { settle, .. }) = self.roles.last_mut() {
            settle.push(Settle::Ack);
        }
    }

    fn add_producer(&mut self, random: &mut Random, source: usize, quota: usize) {
        let most = self.most().min(16);
        let role = Role::Producer {
            source,
            stages: some(random, &(0..self.stages).collect::<Vec<_>>()),
            how: some(random, &ANY_PUSH),
            size: 1..=random.between(1, most),
            pace: any_pace(random, self.threaded),
            quota,
            patience: random.one_in(3).then(|| any_pace(random, self.threaded)),
        };
        self.roles.push(role);
    }

    fn mixed(&mut self, random: &mut Random) {
        let threaded = self.threaded;
        (self.stages, self.sources) = (random.between(1, 3), random.between(1, 4));
        let quota = if threaded { random.magnitude(2, 12) } else { random.magnitude(10, 500) };
        for source in 0..if threaded { self.sources.min(2) } else { self.sources } {
            self.add_producer(random, source, quota as usize);
        }
        for stage in 0..self.stages {
            for _ in 0..if threaded { 1 } else { random.between(1, 2) } {
                self.add_worker(random, stage, &ANY_SETTLE);
            }
        }
        let few = if threaded { 2 } else { random.between(1, 40) };
        let pace = any_pace(random, self.threaded);
        let (source, stage) = (random.below(self.sources), random.below(self.stages));
        let others = [
            Role::Reader { pace, quota: few },
            Role::Drainer { pace, quota: few },
            Role::Remover { pace, quota: few },
            Role::Follower { source, quota: few },
            Role::Idler { source, stage, pace, quota: few.min(6), size: self.most().min(4) },
        ];
        let chosen = if threaded { vec![random.pick(&others)] } else { others.to_vec() };
        self.roles.extend(chosen.into_iter().filter(|_| random.one_in(2)));
        if random.one_in(4) {
            self.roles.push(Role::Closer { after: Some(any_pace(random, self.threaded)) });
        }
    }

    /// A push of nearly all, small ones beside it that always wait or try, and records that are settled a few at
    /// a time.
    fn large(&mut self, random: &mut Random) {
        let cap = random.between(4, 24);
        (self.total, self.per_stage, self.per_source) = (4 * cap, 4 * cap, 4 * cap);
        // The cap that is short.
        let short = random.below(3);
        *[&mut self.total, &mut self.per_stage, &mut self.per_source][short] = cap;
        self.sources = if short == 2 { 1 } else { random.between(2, 4) };
        self.late = 0;
        let pace = Duration::from_micros(random.magnitude(10, 60 * SECOND));
        let size = random.between(cap / 2 + 1, cap);
        self.roles.push(Role::Producer {
            source: 0,
            stages: vec![0],
            how: vec![Push::SendBatch],
            size: size..=size,
            pace,
            quota: 3 * size,
            patience: None,
        });
        let others = random.between(1, 4);
        for other in 0..others {
            let tries = random.one_in(2);
            self.roles.push(Role::Producer {
                source: if self.sources == 1 { 0 } else { 1 + other % (self.sources - 1) },
                stages: vec![0],
                how: if tries { vec![Push::Try] } else { vec![Push::Send] },
                size: 1..=1,
                pace: if tries { pace / 3 } else { Duration::from_micros(1) },
                quota: 6_000 / others,
                patience: None,
            });
        }
        self.roles.push(Role::Worker {
            stage: 0,
            how: vec![Take::Wait],
            max: random.between(1, 2),
            pace,
            settle: vec![Settle::Ack],
            forward_to: Vec::new(),
            pause: None,
        });
    }

    /// The same, with large requests that are never polled again, and a time in which nothing is settled.
    fn abandoned(&mut self, random: &mut Random) {
        self.large(random);
        let size = random.between(self.most() / 2 + 1, self.most());
        self.roles[0] = Role::Idler {
            source: 0,
            stage: 0,
            pace: Duration::from_micros(random.magnitude(10, SECOND)),
            quota: random.between(1, 3),
            size,
        };
        for role in &mut self.roles {
            match role {
                Role::Worker { pause, .. } => {
                    *pause = Some((random.between(1, 60), Duration::from_secs(3_600)));
                }
                Role::Producer { quota, .. } => *quota = 1_000,
                _ => {}
            }
        }
    }

    /// Records that die, more than there is room for, while others are in the hands of workers that take their
    /// time.
    fn dead_letters(&mut self, random: &mut Random) {
        let threaded = self.threaded;
        self.stages = random.between(1, 2);
        self.sources = random.between(1, 2);
        self.retries = Some(random.below(2) as u32);
        self.letters = random.between(1, 2);
        let quota = if threaded { random.between(3, 10) } else { random.between(20, 400) };
        (0..self.sources).for_each(|source| self.add_producer(random, source, quota));
        let pace = Duration::from_micros(random.magnitude(1, 1_000));
        if threaded {
            // Enough of them die, and at the same time.
            (self.total, self.per_stage, self.per_source) = (24, 24, 24);
            for role in &mut self.roles {
                if let Role::Producer { how, pace, .. } = role {
                    (*how, *pace) = (vec![Push::TryBatch, Push::Send], Duration::from_micros(1));
                }
            }
        }
        for stage in 0..self.stages {
            self.add_worker(random, stage, &[]);
            if let Some(Role::Worker { settle, pace: own, .. }) = self.roles.last_mut() {
                let kills = [Settle::DeadLetter, Settle::Return, Settle::Mixed];
                (*settle, *own) = (some(random, &kills), pace);
            }
            self.add_worker(random, stage, &[Settle::Ack, Settle::Forward]);
            if let Some(Role::Worker { how, max, pace: own, .. }) = self.roles.last_mut() {
                (*how, *max, *own) = (vec![Take::Wait], random.between(1, 2), pace * 8);
            }
        }
        for _ in 0..random.between(1, 2) {
            let quota = random.pick(&[0, 6, quota, quota]);
            self.roles.push(Role::Reader { pace: pace * random.between(1, 3) as u32, quota });
        }
        let quota = if threaded { random.between(8, 24) } else { 40 };
        self.roles.push(Role::Drainer { pace, quota });
        if random.one_in(3) {
            let (stage, after) = (random.below(self.stages), any_pace(random, threaded));
            self.roles.push(Role::StageCloser { stage, after });
        } else if random.one_in(2) {
            self.roles.push(Role::Closer { after: Some(pace * 8) });
        }
    }

    fn crowd(&mut self, random: &mut Random) {
        let senders = random.magnitude(10, 20_000) as usize;
        self.sources = random.between(1, 4);
        (self.total, self.per_stage, self.per_source) = (1 << 17, 1 << 17, 1 << 17);
        let short = random.below(3);
        *[&mut self.total, &mut self.per_stage, &mut self.per_source][short] =
            random.magnitude(1, 64) as usize;
        self.late = 0;
        for source in 0..self.sources {
            let (senders, cancels) = (senders / self.sources, random.pick(&[0, 2, 10]));
            let size = random.between(1, self.most().min(4));
            self.roles.push(Role::Crowd { source, stage: 0, senders, size, cancels });
        }
        self.add_worker(random, 0, &[Settle::Ack]);
    }

    fn lane(&mut self, random: &mut Random) {
        let threaded = self.threaded;
        let records =
            if threaded { random.between(8, 40) } else { random.magnitude(10, 20_000) as usize };
        (self.total, self.per_stage, self.per_source) = (records, records, records);
        self.retries = None;
        self.roles.push(Role::Producer {
            source: 0,
            stages: vec![0],
            how: vec![Push::TryBatch, Push::Try],
            size: records.div_ceil(8)..=records.div_ceil(2),
            pace: Duration::from_micros(1),
            quota: records,
            patience: None,
        });
        for _ in 0..random.between(2, 3) {
            self.add_worker(
                random,
                0,
                &[Settle::Ack, Settle::Return, Settle::ReturnAfter, Settle::Split],
            );
            if let Some(Role::Worker { how, max, pace, settle, .. }) = self.roles.last_mut() {
                *how = vec![Take::Try, Take::NoTime, Take::Wait];
                *max = random.between(1, 4);
                *pace = Duration::from_micros(random.magnitude(1, 50));
                settle.push(Settle::Ack);
            }
        }
    }

    fn circle(&mut self, random: &mut Random) {
        let threaded = self.threaded;
        self.stages = random.between(2, 3);
        self.sources = random.between(1, 2);
        let quota = if threaded { random.between(4, 16) } else { random.between(20, 600) };
        (0..self.sources).for_each(|source| self.add_producer(random, source, quota));
        for stage in 0..self.stages {
            self.add_worker(random, stage, &[Settle::Forward, Settle::TryForward]);
        }
        let pace = any_pace(random, self.threaded);
        self.roles.push(Role::Drainer { pace, quota: if threaded { 3 } else { 20 } });
    }

    fn closing(&mut self, random: &mut Random) {
        let threaded = self.threaded;
        self.stages = random.between(1, 2);
        self.sources = random.between(2, if threaded { 12 } else { 60 });
        let pace = Duration::from_micros(random.magnitude(1, 100));
        for source in 0..self.sources.min(if threaded { 2 } else { 6 }) {
            // The accounts are walked in the order in which they were opened: the last are closed last.
            self.add_producer(random, self.sources - 1 - source, if threaded { 8 } else { 200 });
            if let Some(Role::Producer { pace: own, .. }) = self.roles.last_mut() {
                *own = pace;
            }
        }
        (0..self.stages)
            .for_each(|stage| self.add_worker(random, stage, &[Settle::Ack, Settle::Forward]));
        let after = pace * random.below(8) as u32;
        for _ in 0..random.between(1, 3) {
            self.roles.push(Role::Closer { after: Some(after) });
        }
        for _ in 0..random.between(1, 2) {
            self.roles.push(Role::Remover { pace, quota: if threaded { 3 } else { 60 } });
        }
        self.roles.push(Role::Drainer { pace, quota: 3 });
    }
}
