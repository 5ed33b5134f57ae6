//! The credit ledger: who holds how many records, and who may hold one more.
//!
//! Every source has an account, and all accounts draw on one pool. An account is one word that packs
//! the credits it has leased from the pool with those in use, so that a push is one compare-and-swap
//! while it stays within the lease. The pool's word, which all threads share, is written only to
//! lease more credits or to give some back.
//!
//! # Two ways to lease
//!
//! An account leases either *exactly* what it uses or some credits *ahead* of need. Ahead is fast,
//! and strands idle credits in accounts; exact strands none, and costs a write to the pool for each
//! push and each release. Accounts start exact. They lease ahead while the pool is far from its cap,
//! as many credits as keep the idle ones of all accounts together within about 1 % of the cap; with
//! a small cap or very many sources that share is less than one credit, and all stay exact.
//!
//! # Honest and cheap refusals
//!
//! When the pool runs out, a sweep makes every account exact and so brings all idle credits home.
//! Only then is a push refused. The pool's word remembers that the sweep was complete, so that the
//! next refusal costs two loads, until an account leases ahead again. Why that memory can be trusted:
//!
//! - An account that turns from exact to ahead announces it in the pool's word, *after* the turn, by
//!   counting up an epoch.
//! - A sweep reads the epoch before its walk and marks the pool as swept only if the epoch still
//!   stands after it. So either the walk came by after the turn and undid it, or the announcement
//!   came after the mark and took it off, or it came in between and kept the mark from being set.
//!
//! # Order
//!
//! Credits move pool first on the way in, account first on the way out. In between they are in
//! transit and count as leased, so that the accounts' leases never sum to more than the pool's.

use std::sync::Weak;

use crate::account::{Account, Balance, Lease, MAX_LEASE};
use crate::backpressure::{BackpressureController, Marks};
use crate::sync::{
    Arena, AtomicBool, AtomicSetting, AtomicU32, AtomicU64, CachePadded, Event, Mutex, SeqCst,
};
use crate::waiting::{Freed, Gate, WaitingRoom};

/// The pool of credits and the accounts that draw on it.
pub(crate) struct Ledger {
    pool: CachePadded<AtomicU64>,
    marks: Marks,
    /// Credits that may lie idle over all accounts.
    idle_budget: u32,
    /// Credits that an account leases ahead of need; 0 keeps all accounts exact.
    ahead: AtomicSetting,
    accounts: Arena<Account>,
    register: Mutex<Register>,
    /// No push is accepted any more. Set before the accounts are closed.
    closed: AtomicBool,
    /// Every account is closed, so that the pool's level can only fall.
    sealed: AtomicBool,
    /// Credits of parked dead letters. They count against the cap, and are not in the pool's word.
    parked: AtomicU32,
    controller: BackpressureController,
    /// How many want to be told when something is given back: those in the waiting room, those who
    /// wait for all records to be settled, and a buffer that is closed.
    attention: AtomicU32,
    room: Mutex<WaitingRoom>,
    /// Every stage that draws on these credits, to wake its workers when all is drained.
    gates: Mutex<Vec<Weak<dyn Gate>>>,
    /// Rings when every record is settled and somebody listens.
    settled: Event,
}

/// Which accounts are in use. Only opening and closing an account takes this lock.
struct Register {
    open: u32,
    /// Among how many accounts the idle budget is divided: a power of two, at least `open`.
    shares: u32,
    vacant: Vec<u32>,
}

/// The pool's word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 63 | every account is exact or closed |
/// | 62..32 | epoch: how often an account has turned from exact to ahead, or a letter was parked |
/// | 31..0 | credits leased, without those of parked dead letters |
#[derive(Clone, Copy)]
struct Pool(u64);

const SWEPT: u64 = 1 << 63;
const EPOCH_ONE: u64 = 1 << 32;
const EPOCH_MASK: u64 = SWEPT - EPOCH_ONE;

impl Pool {
    fn leased(self) -> u32 {
        self.0 as u32
    }

    fn swept(self) -> bool {
        self.0 & SWEPT != 0
    }

    fn epoch(self) -> u64 {
        self.0 & EPOCH_MASK
    }

    fn with_swept(self) -> Self {
        Self(self.0 | SWEPT)
    }

    fn with_next_epoch(self) -> Self {
        Self(self.0 & !SWEPT & !EPOCH_MASK | self.0.wrapping_add(EPOCH_ONE) & EPOCH_MASK)
    }

    /// One credit fewer, and the next epoch.
    fn with_one_parked(self) -> Self {
        Self(self.0 & SWEPT | self.with_next_epoch().0 - 1)
    }
}

/// The outcome of asking for credits: as many as the caps allowed.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Credits granted, at most as many as were wanted.
    pub(crate) credits: u32,
    /// Why there are not more, where there are not.
    pub(crate) shortage: Option<Shortage>,
    /// Whether the pool's level was moved.
    pool_moved: bool,
    /// Whether credits that were on their way, and so to be found nowhere, lie where others may have
    /// them now: in the pool, or idle in the account.
    left_some: bool,
}

/// The limit that a push ran into, with what was held under it, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    Source { held: u32, capacity: u32 },
    Global { held: u32, capacity: u32 },
    Closed,
}

impl Ledger {
    /// A ledger of `capacity` credits, of which about `idle_budget` may lie idle in accounts.
    pub(crate) fn new(capacity: u32, idle_budget: u32, controller: BackpressureController) -> Self {
        Self {
            pool: CachePadded::new(AtomicU64::new(Pool(0).with_swept().0)),
            marks: controller.watermarks().of(capacity),
            idle_budget,
            ahead: AtomicSetting::new(idle_budget / 2),
            accounts: Arena::new(),
            register: Mutex::new(Register { open: 0, shares: 1, vacant: Vec::new() }),
            closed: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            parked: AtomicU32::new(0),
            controller,
            attention: AtomicU32::new(0),
            room: Mutex::new(WaitingRoom::default()),
            gates: Mutex::new(Vec::new()),
            settled: Event::new(),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.marks.capacity
    }

    pub(crate) fn controller(&self) -> &BackpressureController {
        &self.controller
    }

    /// The account of that index, which [`open_account`](Self::open_account) gave.
    #[inline]
    pub(crate) fn account(&self, index: u32) -> &Account {
        self.accounts.get(index as usize).expect("an account is opened before it is named")
    }

    /// Opens an account of at most `capacity` credits, and gives its index.
    pub(crate) fn open_account(&self, capacity: u32) -> u32 {
        let mut register = self.register.lock();
        let index =
            register.vacant.pop().unwrap_or_else(|| self.accounts.push(Account::new()) as u32);
        let account = self.account(index);
        account.open(self.controller.watermarks().of(capacity));
        register.open += 1;
        if self.share_idle_budget(&mut register) {
            drop(register);
            self.note_pool();
            self.attend(Freed::default());
        }
        index
    }

    /// Closes an account that holds nothing. Its index stays taken until [`vacate`](Self::vacate).
    ///
    /// # Errors
    ///
    /// The number of records that it holds.
    pub(crate) fn close_account(&self, index: u32) -> Result<(), u32> {
        let account = self.account(index);
        let mut balance = account.balance();
        loop {
            if balance.used > 0 {
                return Err(balance.used);
            }
            if balance.lease == Lease::Closed {
                return Ok(());
            }
            match account.replace(balance, Balance { lease: Lease::Closed, used: 0 }) {
                Ok(()) => break,
                Err(actual) => balance = actual,
            }
        }
        self.give_back(balance.idle());
        self.note_pool();
        self.discount();
        Ok(())
    }

    /// Closes an account whatever it holds: it gets no further credit, and what is in use stays so
    /// until it is released.
    pub(crate) fn shut_account(&self, index: u32) {
        if let Some(idle) = self.account(index).end_lease(Lease::Closed) {
            self.give_back(idle);
            self.note_pool();
            self.discount();
        }
        self.turn_away(index);
    }

    /// Counts an account as closed.
    fn discount(&self) {
        let mut register = self.register.lock();
        register.open -= 1;
        // A larger share for each moves nothing.
        self.share_idle_budget(&mut register);
    }

    /// Tells everybody who waits for credits of a closed account.
    pub(crate) fn turn_away(&self, index: u32) {
        self.with_room(|room, ledger| {
            room.close(ledger, |request| request.account == Some(index));
        });
        self.attend(Freed::default());
    }

    /// Frees the index of a closed account, when nobody can name it any more.
    pub(crate) fn vacate(&self, index: u32) {
        let closed = Balance { lease: Lease::Closed, used: 0 };
        if self.account(index).balance() == closed {
            self.register.lock().vacant.push(index);
        }
    }

    /// Divides the idle budget among the open accounts. Each may keep twice what it leases ahead. The
    /// share shrinks when `open` passes a power of two, and grows when no more than a quarter of the
    /// shares are in use: so that the walks which trim the accounts to a smaller share stay linear in
    /// the number of accounts that are opened.
    ///
    /// The signal does not follow yet. Tells whether the pool's level was moved.
    fn share_idle_budget(&self, register: &mut Register) -> bool {
        let Register { open, shares, .. } = *register;
        register.shares = if open > shares {
            open.next_power_of_two()
        } else if open <= shares / 4 {
            (shares / 2).max(1)
        } else {
            shares
        };
        let ahead = self.idle_budget / register.shares / 2;
        let shrinks = ahead < self.ahead.swap(ahead, SeqCst);
        if shrinks {
            for (_, account) in self.accounts.iter() {
                self.trim(account);
            }
        }
        shrinks
    }

    /// Gives back the idle credits that an account has above twice its share, down to its share. When
    /// the share has shrunk to nothing, all accounts turn exact, and stay so.
    ///
    /// The signal does not follow yet. Tells whether the pool's level was moved.
    fn trim(&self, account: &Account) -> bool {
        let ahead = self.ahead.load(SeqCst);
        if ahead == 0 {
            return self.sweep();
        }
        let mut balance = account.balance();
        while balance.idle() > ahead.saturating_mul(2) {
            let lease = Lease::Ahead(balance.used + ahead);
            match account.replace(balance, Balance { lease, ..balance }) {
                Ok(()) => {
                    self.give_back(balance.idle() - ahead);
                    return true;
                }
                Err(actual) => balance = actual,
            }
        }
        false
    }

    /// Takes up to `wanted` credits for records of that account: all of them, or as many as the caps
    /// allow together with the limit that allowed no more.
    ///
    /// The signals do not follow yet: the caller may have to give some back, and calls
    /// [`note`](Self::note) when it knows.
    pub(crate) fn acquire(&self, account: &Account, wanted: u32) -> Grant {
        // Credits leased from the pool that are not in the account yet.
        let mut in_hand = 0_u32;
        let mut leased_ahead = false;
        let mut swept = false;
        let mut exhausted = false;
        let mut balance = account.balance();
        loop {
            if balance.lease == Lease::Closed {
                self.give_back(in_hand);
                return Grant::refused(Shortage::Closed, in_hand > 0 || swept);
            }
            let capacity = account.capacity();
            let room = capacity - balance.used;
            let want = wanted.min(room);
            // Saturating: the balance may be outdated, and the swap below will tell.
            let have = balance.idle().saturating_add(in_hand);
            if want > have && !exhausted {
                let missing = want - have;
                // Nobody leases ahead of need while others wait.
                let ahead =
                    if self.is_calm() { self.ahead.load(SeqCst).min(room - want) } else { 0 };
                let leased = self.lease(missing, ahead);
                in_hand += leased;
                leased_ahead |= leased > missing;
                if leased < missing {
                    // Once is enough: if others take what the sweep brought home, it was not idle.
                    if !swept && self.sweep() {
                        swept = true;
                    } else {
                        exhausted = true;
                    }
                    balance = account.balance();
                }
                continue;
            }
            let credits = want.min(have);
            if credits == 0 && in_hand == 0 {
                let shortage = self.shortage(balance.used, capacity, want);
                return Grant::refused(shortage, swept);
            }
            let used = balance.used + credits;
            // Idle credits that stay with the account, at most twice its share; an exact one keeps none
            // by accident.
            let keep = match balance.lease {
                Lease::Exact if !leased_ahead => 0,
                _ => (have - credits)
                    .min(room - credits)
                    .min(self.ahead.load(SeqCst).saturating_mul(2))
                    .min(MAX_LEASE.saturating_sub(used)),
            };
            let lease = match balance.lease {
                Lease::Exact if keep == 0 => Lease::Exact,
                _ if used > MAX_LEASE => Lease::Exact,
                _ => Lease::Ahead(used + keep),
            };
            match account.replace(balance, Balance { lease, used }) {
                Ok(()) => {
                    let surplus = have - credits - keep;
                    self.give_back(surplus);
                    if balance.lease == Lease::Exact && lease != Lease::Exact {
                        self.announce();
                        // A drain that this did not see looks for idle credits after the announcement.
                        swept |= !self.is_calm() && self.sweep();
                    }
                    let shortage =
                        (credits < wanted).then(|| self.shortage(used, capacity, want - credits));
                    return Grant {
                        credits,
                        shortage,
                        pool_moved: in_hand > 0 || surplus > 0 || swept,
                        left_some: leased_ahead && keep > 0 || surplus > 0 || swept,
                    };
                }
                Err(actual) => balance = actual,
            }
        }
    }

    /// Takes `wanted` credits from the pool if all accounts lease exactly and so many are to be had at
    /// the first attempt: the usual case there. Tells how many are in use then; the signals do not
    /// follow yet.
    #[inline]
    pub(crate) fn acquire_exactly(&self, account: &Account, wanted: u32) -> Option<u32> {
        let balance = account.balance();
        if balance.lease != Lease::Exact
            || account.capacity() - balance.used < wanted
            || self.ahead.load(SeqCst) > 0
        {
            return None;
        }
        let leased = self.lease(wanted, 0);
        let used = balance.used + wanted;
        if leased == wanted && account.replace(balance, Balance { used, ..balance }).is_ok() {
            return Some(used);
        }
        if leased > 0 {
            self.give_back(leased);
            self.attend(Freed::default());
        }
        None
    }

    /// Which limit a push ran into that could use `unmet` more credits under its own cap.
    fn shortage(&self, used: u32, capacity: u32, unmet: u32) -> Shortage {
        if unmet == 0 {
            Shortage::Source { held: used, capacity }
        } else {
            // A lease that fails has found every credit leased.
            Shortage::Global { held: self.capacity(), capacity: self.capacity() }
        }
    }

    /// Lets the signals follow a push that is done, whether or not it was accepted, and serves those
    /// who wait with what it has left.
    #[inline]
    pub(crate) fn note(&self, account: &Account, grant: &Grant) {
        account.note(account.used());
        if grant.pool_moved {
            self.note_pool();
        }
        if grant.left_some {
            self.attend(Freed::default());
        }
    }

    /// Gives `credits` back for records of that account that are gone.
    #[inline]
    pub(crate) fn release(&self, account: &Account, credits: u32) {
        let before = account.take_out(credits);
        // The pool comes last: a pool that is empty means that all else is settled.
        account.note(before.used - credits);
        if self.return_lease(account, before, credits) {
            self.note_pool();
        }
    }

    /// The same, but the signals do not follow yet.
    pub(crate) fn release_quietly(&self, account: &Account, credits: u32) {
        let before = account.take_out(credits);
        self.return_lease(account, before, credits);
    }

    /// Gives credits back to the pool that were taken out of use, as far as the account does not keep
    /// them idle. Tells whether the pool's level was moved.
    #[inline]
    fn return_lease(&self, account: &Account, before: Balance, credits: u32) -> bool {
        debug_assert!(before.used >= credits, "more credits given back than were in use");
        match before.lease {
            Lease::Exact | Lease::Closed => {
                self.give_back(credits);
                true
            }
            Lease::Ahead(leased) => {
                let idle = leased - (before.used - credits);
                idle > self.ahead.load(SeqCst).saturating_mul(2) && self.trim(account)
            }
        }
    }

    /// Leases `missing` credits from the pool, `ahead` more while it is far from its cap, and what
    /// there is where there are fewer.
    fn lease(&self, missing: u32, ahead: u32) -> u32 {
        let plenty = self.capacity() - self.capacity() / 8;
        let mut pool = Pool(self.pool.load(SeqCst));
        loop {
            // After the pool's word: whoever parks a letter counts it here first and then changes that
            // word, so that the swap below fails if this is outdated.
            let capacity = self.capacity() - self.parked.load(SeqCst);
            let plenty = plenty.min(capacity);
            let generous = missing.saturating_add(ahead);
            let credits = if pool.leased().saturating_add(generous) <= plenty {
                generous
            } else {
                missing.min(capacity.saturating_sub(pool.leased()))
            };
            if credits == 0 {
                return 0;
            }
            let new = pool.0 + u64::from(credits);
            match self.pool.compare_exchange(pool.0, new, SeqCst, SeqCst) {
                Ok(_) => return credits,
                Err(actual) => pool = Pool(actual),
            }
        }
    }

    /// Puts credits back into the pool. The signal does not follow yet.
    fn give_back(&self, credits: u32) {
        if credits > 0 {
            self.pool.fetch_sub(u64::from(credits), SeqCst);
        }
    }

    /// Lets the whole buffer's signal follow its level.
    #[inline]
    pub(crate) fn note_pool(&self) {
        self.controller.cell().follow(self.marks.zone(self.leased()), || {
            self.touch_pool();
            self.marks.zone(self.leased())
        });
    }

    /// Tells sweeps that an account has turned from exact to ahead.
    fn announce(&self) {
        self.update_pool(|pool| Some(pool.with_next_epoch()));
    }

    /// Makes every account exact and brings the idle credits home. `false` if there was nothing to
    /// do, because all accounts are exact already.
    fn sweep(&self) -> bool {
        let before = Pool(self.pool.load(SeqCst));
        if before.swept() {
            return false;
        }
        for (_, account) in self.accounts.iter() {
            self.give_back(account.end_lease(Lease::Exact).unwrap_or(0));
        }
        self.update_pool(|pool| (pool.epoch() == before.epoch()).then(|| pool.with_swept()));
        true
    }

    /// Makes every account exact, so that what is leased is what is in use.
    pub(crate) fn bring_home(&self) {
        if self.sweep() {
            self.note_pool();
            self.attend(Freed::default());
        }
    }

    fn update_pool(&self, change: impl Fn(Pool) -> Option<Pool>) {
        let mut pool = Pool(self.pool.load(SeqCst));
        while let Some(new) = change(pool) {
            match self.pool.compare_exchange(pool.0, new.0, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(actual) => pool = Pool(actual),
            }
        }
    }

    /// Closes the buffer for everybody at the moment at which it says so, and then every account. What
    /// is in use stays so until it is released. The caller sees to it that no account is opened
    /// meanwhile or later. Each of several callers does all of it, so that none returns early.
    pub(crate) fn close(&self) {
        if !self.closed.swap(true, SeqCst) {
            // From now on every release looks whether it was the last.
            self.attention.fetch_add(1, SeqCst);
        }
        for (_, account) in self.accounts.iter() {
            self.give_back(account.end_lease(Lease::Closed).unwrap_or(0));
        }
        self.sealed.store(true, SeqCst);
        self.note_pool();
        self.with_room(|room, ledger| room.close(ledger, |request| request.account.is_some()));
        self.touch_pool();
        self.attend(Freed::default());
        // Those who linger with records in hand stop doing so.
        self.wake_all_workers();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Counts a credit as parked: its record leaves the stages for good, and keeps it. Until
    /// [`end_parking`](Self::end_parking) it counts twice.
    pub(crate) fn begin_parking(&self) {
        self.parked.fetch_add(1, SeqCst);
    }

    /// Takes a credit that was counted as parked out of the pool's word.
    pub(crate) fn end_parking(&self) {
        self.update_pool(|pool| Some(pool.with_one_parked()));
        self.attend(Freed::default());
    }

    /// Gives the credit of a parked letter back.
    pub(crate) fn release_parked(&self, account: &Account) {
        account.note(account.take_out_leased());
        self.parked.fetch_sub(1, SeqCst);
        // Whoever waits for credits has written to this word before it looked for the last time.
        self.touch_pool();
        self.note_pool();
    }

    /// Whether it is closed and no record is left that could come to a stage.
    ///
    /// A push that is under way has its credits before it is accepted, and none is accepted that has
    /// no credits when its account is closed: once this is true, it stays true.
    pub(crate) fn is_drained(&self) -> bool {
        self.sealed.load(SeqCst) && self.is_settled()
    }

    /// Serves those who wait, if anybody does. Whoever has given credits or places back calls this.
    #[inline]
    pub(crate) fn attend(&self, freed: Freed) {
        if self.attention.load(SeqCst) > 0 {
            self.serve(freed);
        }
    }

    #[cold]
    fn serve(&self, freed: Freed) {
        self.with_room(|room, ledger| room.serve(ledger, freed));
        self.tell_the_end();
    }

    /// Tells those who wait for it if that was the last record.
    fn tell_the_end(&self) {
        if self.is_drained() {
            self.wake_all_workers();
        }
        if self.settled.is_listened_to() && self.is_settled() {
            self.settled.notify_all();
        }
    }

    fn wake_all_workers(&self) {
        let gates: Vec<_> = self.gates.lock().iter().filter_map(Weak::upgrade).collect();
        gates.iter().for_each(|gate| gate.wake_workers());
    }

    /// Works on the waiting room, and then does what the work has led to.
    pub(crate) fn with_room<T>(&self, work: impl FnOnce(&mut WaitingRoom, &Self) -> T) -> T {
        let mut room = self.room.lock();
        let done = work(&mut room, self);
        let aftermath = room.take_aftermath();
        drop(room);
        for index in aftermath.to_note {
            let account = self.account(index);
            account.note(account.used());
            self.note_pool();
        }
        drop(aftermath.to_drop);
        for gate in aftermath.emptied {
            gate.wake_workers();
        }
        for waker in aftermath.to_wake {
            waker.wake();
        }
        if aftermath.gave_back {
            self.tell_the_end();
        }
        done
    }

    /// Whether nobody waits for anything to be given back.
    pub(crate) fn is_calm(&self) -> bool {
        self.attention.load(SeqCst) == 0
    }

    /// Counts one more who wants to be told when something is given back.
    pub(crate) fn raise_attention(&self) {
        self.attention.fetch_add(1, SeqCst);
    }

    pub(crate) fn lower_attention(&self) {
        self.attention.fetch_sub(1, SeqCst);
    }

    /// Writes to the words that could let a request of that account in, and changes nothing.
    pub(crate) fn touch(&self, index: u32) {
        self.account(index).touch();
        self.touch_pool();
    }

    /// Writes to the pool's word, and changes nothing.
    pub(crate) fn touch_pool(&self) {
        self.pool.fetch_add(0, SeqCst);
    }

    /// Makes a stage known that draws on these credits.
    pub(crate) fn add_gate(&self, gate: Weak<dyn Gate>) {
        let mut gates = self.gates.lock();
        gates.retain(|gate| gate.strong_count() > 0);
        gates.push(gate);
    }

    /// Whether no record is left that has not been settled: acknowledged, handed out or given up. Where
    /// an account leases ahead its idle credits count as such: see [`bring_home`](Self::bring_home).
    ///
    /// This is one load: records, permits and parked letters that come and go meanwhile cannot make it
    /// true while one is left.
    pub(crate) fn is_settled(&self) -> bool {
        Pool(self.pool.load(SeqCst)).leased() == 0
    }

    /// Rings when every record is settled, as long as somebody has raised the attention.
    pub(crate) fn settled(&self) -> &Event {
        &self.settled
    }

    /// Credits leased, idle ones, those in transit and those of parked letters included. A letter that
    /// is being parked may count twice.
    pub(crate) fn leased(&self) -> u32 {
        self.with_parked(Pool(self.pool.load(SeqCst)))
    }

    fn with_parked(&self, pool: Pool) -> u32 {
        pool.leased().saturating_add(self.parked.load(SeqCst)).min(self.capacity())
    }

    /// Credits in use, exactly where no other thread is running. Where no account leases ahead that
    /// is one load; otherwise a walk over the accounts, which are at most one for 200 credits of the
    /// global cap then.
    pub(crate) fn used(&self) -> u32 {
        let pool = Pool(self.pool.load(SeqCst));
        if pool.swept() {
            return self.with_parked(pool);
        }
        let sum: u64 = self.accounts.iter().map(|(_, account)| u64::from(account.used())).sum();
        // While others are running, a record's credit may be seen in two accounts.
        sum.min(u64::from(self.capacity())) as u32
    }

    /// How many more credits an account could have now: idle ones of other accounts count, for they
    /// would be brought home.
    pub(crate) fn available(&self, account: &Account) -> u32 {
        let balance = account.balance();
        if balance.lease == Lease::Closed {
            return 0;
        }
        // The two words are read one after the other, so that their sum may be too much.
        let own = (account.capacity() - balance.used).min(self.capacity());
        let free = self.capacity() - self.leased();
        // Without a walk: what is certainly there covers what the account may have.
        if free.saturating_add(balance.idle()) >= own { own } else { self.free().min(own) }
    }

    /// Credits that nobody uses.
    pub(crate) fn free(&self) -> u32 {
        self.capacity() - self.used()
    }
}

impl Grant {
    /// None. `moved` tells whether credits went to the pool meanwhile.
    fn refused(shortage: Shortage, moved: bool) -> Self {
        Self { credits: 0, shortage: Some(shortage), pool_moved: moved, left_some: moved }
    }
}
