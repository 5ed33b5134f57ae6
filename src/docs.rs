//! The guide: what belongs to no single type.
//!
//! - [`patterns`]: programs for common tasks, from fan-in to a graceful shutdown.
//! - [`performance`]: how to choose block sizes, batch sizes, lingers and caps, and what each
//!   costs.
//! - [`limitations`]: what the buffer does not do, and what to do about it.
//! - [`coming_from_a_channel`]: the calls of other crates' channels, and their counterparts here.
//! - [`internals`]: how the buffer works inside. A user of the crate does not need it.

pub mod coming_from_a_channel;
pub mod limitations;
pub mod patterns;
pub mod performance;

pub mod internals {
    //! How the buffer works inside, for readers of its source.
    //!
    //! The page names private items and files of `src/`. Each private module points to its section
    //! here. Bit layouts are drawn at the types that pack them.
    //!
    //! | term | meaning |
    //! | --- | --- |
    //! | credit | the right to hold one record in memory |
    //! | place | the right of one record to be in a stage |
    //! | account | the credits of one source |
    //! | pool | the credits of the whole buffer; every account draws on it |
    //! | lease | the credits that an account has taken from the pool |
    //! | idle credit | a leased credit that no record uses |
    //! | unit | 64 bytes, in which the byte budgets count |
    //! | charge | the units that a record holds |
    //! | block | one entry of a stage's ring: a record, or several that were pushed together |
    //! | batch | records in the hands of a worker |
    //! | settle | acknowledge, return, forward or dead-letter a record, or hand it out of the library |
    //! | parked letter | a dead letter that found its queue full; it keeps its credit and its place |
    //!
    //! # Layers
    //!
    //! The source has five layers: count, admit, store, use, name. A file imports from its own
    //! layer and from those below it. No files import each other in a circle. `.ci/layers` checks
    //! both.
    //!
    //! | layer | folder | task |
    //! | --- | --- | --- |
    //! | count | `caps/` | how many: credits and places, in packed words. It wakes no task and knows no record type |
    //! | admit | `admission/` | who may: the admission protocol, the wait queue, close and drain. It knows no record type |
    //! | store | `store/` | which records: the ring, the returned records, batches, dead letters |
    //! | use | `handle/` | the public types and the calls that wait |
    //! | name | `manager/` | stages and sources by name, and settings |
    //!
    //! Below the layers are `sync.rs` (atomics, locks, queues, time), `event.rs` (wake-ups),
    //! `timer.rs`, `unwind.rs` (panics), `backpressure.rs` (signals) and the plain types of
    //! `error.rs`, `record.rs`, `settings.rs` and `stats.rs`.
    //!
    //! The path of a record through the files:
    //!
    //! | step | files, in the order of the calls |
    //! | --- | --- |
    //! | push, the usual case | `handle/source.rs`, `admission/admission.rs`, `caps/account.rs`, `caps/places.rs`, `store/stage_core.rs`, `store/lanes.rs`, `admission/receivers.rs` |
    //! | push that needs the pool | the same, with `admission/protocol.rs` and `caps/ledger.rs` before `caps/account.rs` |
    //! | push in a buffer with byte budgets | the same, with `handle/bytes.rs` first and `admission/bytes.rs` after `caps/ledger.rs` |
    //! | push that waits | `handle/send.rs`, `admission/acquire.rs`, `admission/wait_queue.rs`, `admission/protocol.rs` |
    //! | take | `handle/stage.rs` or `handle/recv.rs`, `store/stage_core.rs`, `store/lanes.rs`, `store/contents.rs`, `handle/batch.rs` |
    //! | acknowledge | `handle/batch.rs`, `handle/settle.rs`, `store/stage_core.rs`, `admission/admission.rs`, `caps/` |
    //! | return | `handle/batch.rs`, `handle/settle.rs`, `store/stage_core.rs`, `store/lanes.rs`, `admission/receivers.rs` |
    //! | forward | `handle/forward.rs`, `admission/admission.rs`, `caps/places.rs`, `handle/batch.rs`, `store/stage_core.rs` |
    //! | dead-letter | `handle/settle.rs`, `store/stage_core.rs`, `store/dead_letters.rs`, `admission/admission.rs` |
    //!
    //! # The ledger
    //!
    //! The ledger is credit-based flow control (Kung, Blackwell, Chapman, "Credit-based flow
    //! control for ATM networks", SIGCOMM 1994) with one receiver and many senders. A record needs
    //! a credit before it may enter. It keeps the credit until it is settled, in the stage and in
    //! the hands of a worker. `caps/ledger.rs` and `caps/account.rs` hold the code.
    //!
    //! ## Accounts and the pool
    //!
    //! An account is one word: the credits that it has leased, and the credits in use. The pool is
    //! one word: the credits that all accounts have leased, a flag and an epoch. A push moves
    //! credits from the pool into the lease of its account, and from the lease into use. Settling
    //! moves them back. Between the two words a credit is *in transit*: the pool counts it as
    //! leased, and no account has it. These hold at every instant, unless a cap was
    //! [lowered](#changing-a-cap):
    //!
    //! - `used <= leased <= cap` for each account;
    //! - the leases of all accounts and the credits in transit sum to no more than the cap of the
    //!   buffer;
    //! - that sum is what the pool counts as leased, plus the credits of parked letters. A letter
    //!   that is being parked counts twice for a moment, and so does a guaranteed credit that is
    //!   about to be used.
    //!
    //! ## Exact and ahead leases
    //!
    //! An account leases in one of two modes.
    //!
    //! - **Exact**: the lease equals the credits in use. No credit is idle. Each push and each
    //!   release writes the pool's word, which all threads share.
    //! - **Ahead**: the lease exceeds the credits in use. A push takes an idle credit by one
    //!   compare-and-swap on the account, and a release leaves the credit idle. The pool's word is
    //!   written once for many records.
    //!
    //! Accounts start exact. An account leases ahead when all of this holds: the pool stays below
    //! seven eighths of its cap; no request waits; no call of `drain` waits; the buffer is open.
    //! The *idle budget* limits the sum of the idle credits: 1 % of the cap, or half the low
    //! watermark if that is less. It is divided among the open accounts. An account leases at most
    //! half its share ahead, and keeps at most its share. If half a share is less than a credit,
    //! every account stays exact. This is so with more than about one source per 200 credits of the
    //! cap.
    //!
    //! ## Sweep and epoch
    //!
    //! Idle credits are free, but they are not in the pool. A *sweep* makes every account exact and
    //! moves the idle credits into the pool. Accounts that lease ahead are in a list, so that a
    //! sweep visits only these. A sweep takes the whole list, and then visits its accounts one by
    //! one.
    //!
    //! The flag `SWEPT` in the pool's word says that a sweep has visited every account that leased
    //! ahead, and that none has turned ahead since. The protocol:
    //!
    //! - An account that turns ahead first swaps its word, then enters the list, and then counts up
    //!   the epoch and clears `SWEPT`, both by one swap of the pool's word.
    //! - A sweep first reads the epoch, then takes the list, and then visits the accounts. At the
    //!   end it sets `SWEPT` by a swap that fails if the epoch has changed.
    //!
    //! If the announcement comes before the sweep reads the epoch, the account is in the list, and
    //! this sweep visits it, or another sweep that has taken the list. If it comes between the two
    //! reads of the epoch, the epoch has changed, and the sweep does not set the flag. If it comes
    //! after the flag was set, it clears the flag. An account that leaves the list is marked as not
    //! listed before its lease ends, so that it can enter the list again at once.
    //!
    //! Two sweeps may run at once. The first takes the list, and the second finds an empty one and
    //! may set `SWEPT` before the first has visited its last account. So a sweep that returns does
    //! not prove that all idle credits are in the pool: a sweep of another thread may still hold
    //! some in transit. Hence the rule: *a thread that has swept must notify waiters and drainers
    //! afterwards*, even if it swept for a purpose of its own.
    //!
    //! ## Why a refusal is honest and cheap
    //!
    //! A push that finds the pool exhausted sweeps once, and tries again. If the pool is still
    //! exhausted, no credit is idle, apart from those that other threads move at this moment. So
    //! with no other thread inside the library, the refusal names a limit that is reached. The
    //! refusal that follows finds `SWEPT` set: it only loads words, and visits no account, until an
    //! account leases ahead again.
    //!
    //! ## Why the caps hold at every instant
    //!
    //! Each cap is checked against one word, and the same compare-and-swap that takes the credits
    //! or places writes that word. Two threads that both see the last credit cannot both take it:
    //! the second swap fails, and its thread checks again.
    //!
    //! The order of the moves keeps the sums below the caps. On the way in a credit moves pool
    //! first and account second; on the way out account first and pool second. A credit in transit
    //! is counted by the pool. A record is dropped before its credit is released, and a forwarded
    //! record holds its new place before it gives up the old one.
    //!
    //! ## Parked letters and the limit words
    //!
    //! A parked letter keeps its credit and its place, but its record has left the pipeline:
    //! `drain` and `Closed` do not wait for it. So the pool's word and the stage's word do not
    //! count it. A separate word, the *limit*, holds the cap, less the parked letters, less the
    //! reservation of a request that waits (see [the wait queue](#the-wait-queue)), and in the pool
    //! less the [guarantees](#guarantees) that are not in use. It is below zero while a request
    //! reserves more than is left.
    //!
    //! So a cap depends on two words. Two rules keep it exact.
    //!
    //! - *A letter lowers the limit first, and leaves the word second.* A thread that takes credits
    //!   reads the word first, and the limit second. If it read the old limit, the letter has not
    //!   left the word yet, or leaves it before the swap. In the second case the swap fails. The
    //!   word cannot return to its old value: parking counts up the pool's epoch, and each place
    //!   that a stage gives counts up the stage's sequence. Between the two steps the letter counts
    //!   twice. That may refuse a push, and never admits one too many.
    //! - *A letter that is received raises the limit first, and writes the word second*, by a
    //!   read-modify-write that changes nothing. This is half of a handshake: see [H4](#requests).
    //!
    //! ## Guarantees
    //!
    //! A guarantee is a number of credits that one account uses first, and that no other account
    //! can have. The limit of the pool is lowered by the guaranteed credits that are *not* in use.
    //! Those in use count in the pool's word like all others, so `drain`, `close`, the signals and
    //! parked letters need no rule for them. An account with a guarantee never leases ahead.
    //!
    //! The swap of the account's word decides which of its credits are guaranteed: those for which
    //! the number in use stays within the guarantee.
    //!
    //! - *On the way in, the pool's word counts the guaranteed part first*, without checking the
    //!   limit: no other account can have taken it, so the pool cannot refuse it. Then the
    //!   account's word is swapped, and then the limit is raised by as much. In between, the
    //!   credits count twice. That may refuse others, and so the thread notifies waiters. When the
    //!   thread leases what it needs beyond the guarantee, it adds these credits to the limit that
    //!   it reads. A sealed pool counts nothing: the account is closed by then.
    //! - *On the way out, the account comes first, then the limit is lowered by the guaranteed
    //!   part, and then the pool's word*, with its epoch counted up. A thread that read the old
    //!   limit read the old word before, so its swap fails. The guarantee is read before the
    //!   account is written: an account that holds nothing may be closed and opened for another
    //!   source.
    //!
    //! A global cap that is lowered moves the limit alone. So it cannot refuse a guaranteed record,
    //! and the buffer holds no more than the old cap allowed.
    //!
    //! A request that waits at the global cap is blocked there with what it needs beyond its
    //! guarantee. When its source gives credits back it needs less, and is tried. Models:
    //! `loom-tests/guarantees.rs`.
    //!
    //! ## Changing a cap
    //!
    //! A cap may be changed at any time. What is held stays; once the call has returned, no push is
    //! accepted that the new cap does not allow. Several changes are made one after the other,
    //! under `Admission::limits`.
    //!
    //! - **A stage** lowers its limit, and then writes its word: it skips one number of the
    //!   sequence. A thread that read the old limit read the old word before, so its swap fails.
    //! - **The pool** does the same with its limit and its epoch. But idle credits were leased
    //!   under the old cap. So the call first raises the flag `RECLAIMS`, and after the change ends
    //!   the lease of *every* account: a sweep would not suffice, because another sweep may be
    //!   under way. A push that leased earlier may still leave credits idle in its account. While
    //!   the flag is raised, no push uses an idle credit: each one first gives those of its account
    //!   back to the pool, and leases what it needs under the limit. The first push that finds no
    //!   more leased than the limit allows lowers the flag. What is idle then is within the cap.
    //! - **An account** has no room for an epoch in its word. The call writes the cap, ends the
    //!   lease of the account, and writes the word. A push swaps the word first, and then reads the
    //!   cap once more. If the swap comes after the write of the call, the push sees the new cap,
    //!   and gives back what exceeds it. No record was stored for it.
    //!
    //! A ring has as many slots as the stage may hold under its own cap and under the largest
    //! global cap so far. So that a ring is never full for a thread that holds a place, a larger
    //! global cap first lowers the caps of stages that have smaller rings.
    //!
    //! A request that waits for more than a cap allows is rejected: when the cap is lowered, or
    //! when it is tried. Producers, which hold credits ahead, learn of a lower cap as they learn of
    //! a close: from `Protocol::events`. A higher cap is a release at that cap: it writes the word
    //! after the limit, and then notifies waiters, as H1 to H3 do. Models: `loom-tests/limits.rs`.
    //!
    //! ## Drained in one load
    //!
    //! `drain` ends when every record is settled. Two counters that are read one after the other
    //! cannot prove that: a record may move between them. The pool's word alone can. While a call
    //! of `drain` waits, and after `close`, accounts lease exactly, and parked letters are not in
    //! the pool's word. Then the pool counts as leased exactly the credits of records that are not
    //! settled, and those in transit. One load that reads zero proves that all is settled.
    //!
    //! The last step of settling a record is the write to the pool. By then its place is free and
    //! its source's account is updated.
    //!
    //! A closed buffer is *drained* when, in addition, every account is closed. The flag `SEALED`
    //! in the pool's word says so. `close` sets it after it has closed the last account, and no
    //! account opens afterwards. A sealed pool leases nothing, so what is drained stays drained:
    //! without the flag, a push that began earlier could lease a credit for a moment, until it
    //! finds its account closed. A push that leased a credit before the pool was sealed, and then
    //! finds its account closed, returns the credit. It must then notify drainers, like every
    //! thread that brings the pool to zero.
    //!
    //! The last handle that can push closes the buffer when it is dropped. Managers, sources and
    //! permits share a value, `admission/pushers.rs`, whose drop closes. Each of them is made from
    //! another one, so its count is final at zero, and no account is opened after that.
    //!
    //! # Places and sequences
    //!
    //! A stage counts its places in one word, `caps/places.rs`: the places taken, the number of
    //! places that it has ever given, and whether it is closed. One compare-and-swap checks the
    //! cap, takes places and numbers them. A record in an unsettled batch keeps its place, so a
    //! return needs no new one and cannot fail.
    //!
    //! The number of a place, modulo 2^31, is the *sequence* of its record. The records of one push
    //! have consecutive sequences. Two sequences are compared by their distance from the present
    //! count, which is right for records that are fewer than 2^31 places apart. A record that was
    //! handed out by name and comes back takes a new place. A bit in its sequence puts it before
    //! all records that never left.
    //!
    //! # Byte budgets
    //!
    //! A buffer with byte budgets has a second ledger of the same type, which counts units of 64
    //! bytes (`admission/bytes.rs`). Each source has an account of the same index in both. What
    //! this page says of leases, sweeps, epochs and reservations holds for both, and the models of
    //! the ledger cover both. The shortcuts of admission leave each push with a charge to
    //! `Protocol::acquire`. `try_acquire_fast` learns this from a flag in `Protocol::gate`, a word
    //! that it reads in any case, so buffers without budgets pay nothing on that path.
    //!
    //! - **The charge** of a record is what it measured at admission, rounded up to units.
    //!   `size_bytes` is user code: it runs before anything is taken, and under no lock. A block
    //!   holds the charges of its records in a box. Each run of a batch has records of one charge,
    //!   so splitting a batch splits its charges exactly. A worker that changes records does not
    //!   change what is given back.
    //! - **Order of the moves:** credits, units, places on the way in; places, units, credits on
    //!   the way out. So an account without credits in use has no units in use, and a thread that
    //!   closes the account or reuses its index finds both ledgers empty. The pool's word is
    //!   written last, so a drain needs to read that word alone.
    //! - **A forward or a return** measures again (`StageCore::measure_again`). The units by which
    //!   a record has shrunk are given back. Those by which it has grown are taken as far as there
    //!   is room, and not at all from a closed account. Neither call may fail for lack of bytes, or
    //!   two stages of grown records would wait for each other. If `size_bytes` panics, the record
    //!   keeps its charge, and the panic resumes when the call has done its work.
    //! - **A parked letter** keeps its units. Since no drain looks at the ledger of bytes, they
    //!   stay counted as leased, without a word of their own.
    //! - **A producer** takes the units of each record when it accepts it, and none ahead. A
    //!   **permit** holds the units that `reserve_bytes` took, and takes what its records need
    //!   beyond these.
    //!
    //! A request that waits states its units. If a byte budget denies it, it is blocked there, with
    //! its size in units. A reservation covers both ledgers. A request that the budget of the
    //! buffer denies sweeps the ledger of bytes before it looks for the last time: H1, H2 and H5
    //! hold for both. Models: `loom-tests/bytes.rs`.
    //!
    //! The signal of a source is the stronger of those of its two accounts. The controller of the
    //! buffer has a second cell, which follows the pool of bytes.
    //!
    //! # The admission protocol
    //!
    //! `admission/protocol.rs` holds the one function that admits records: for pushes that answer
    //! at once, for requests that wait, and, without credits, for forwards.
    //!
    //! 1. Take credits of the account, which leases from the pool what it lacks.
    //! 2. In a buffer with byte budgets, take the units of the records.
    //! 3. Take places of the stage.
    //! 4. Push into the ring. This cannot fail: the ring has a slot for each place.
    //!
    //! If a later step denies the request, what the earlier steps took is given back: `Credits` is
    //! a value that returns its credits and units when it is dropped. Meanwhile, others could not
    //! take these credits. So the function reports what it has moved, and its caller,
    //! `admission/admission.rs`, updates the signals and notifies waiters and drainers.
    //!
    //! Before step 1 come two shortcuts. `try_acquire_fast` takes idle credits of the account and
    //! places, in two compare-and-swaps. `try_acquire_exact` takes credits from the pool where
    //! every account is exact. Each makes one attempt, gives back what it took if a later step
    //! fails, and leaves the rest to the function.
    //!
    //! # The wait queue
    //!
    //! `admission/wait_queue.rs` is a batch semaphore, as tokio's `batch_semaphore` is: a request
    //! for many permits waits until it gets them all at once, and the thread that releases permits
    //! takes them on behalf of the request. Here a request takes permits of three semaphores: the
    //! source's account, the pool and the stage; and of two more in a buffer with byte budgets.
    //!
    //! ## Who waits where
    //!
    //! - Requests of one source for one stage stand in a **line**. Only its head is tried, so a
    //!   source sees first in, first out. Forwards to one stage share a line.
    //! - A head that is denied is **blocked** at the cap that denied it. It holds nothing
    //!   meanwhile. If it is tried again and another cap denies it, it moves there.
    //! - A release names up to five caps: those of the account, of the pool and of the stage, and
    //!   the byte budgets of the first two. At each of them `serve` grants the oldest head that
    //!   fits what is free, until none fits. If the heads that fit have more than 64 sizes, only
    //!   the 64 smallest sizes count.
    //!
    //! While any request waits, a call that waits does not try first: it enters the queue. Calls
    //! that do not wait (`try_`) do not enter it, and may overtake.
    //!
    //! ## Bypassing and reservations
    //!
    //! A large head would starve if smaller requests took each credit as it was released. Each head
    //! has a **turn**: at first its ticket. A head that has the first turn at its cap counts the
    //! releases there. After more than four (`MAX_BYPASSED`) it becomes a candidate, and the first
    //! candidate **reserves** at each of its caps what it needs. A reservation lowers the limit
    //! words for all others, `try_` calls included. Free credits stay in the pool, and nothing is
    //! held for the request: it is granted as soon as what is free suffices.
    //!
    //! One request reserves at a time. Two could each wait for what the other has reserved.
    //!
    //! ## Patience
    //!
    //! Records may be stuck, and then a reservation would hold up others in vain. A reservation
    //! ends when nothing was released for a while at the cap where its request is blocked. This
    //! time is its **patience**: 100 ms at first, and at least twice the longest time that the
    //! request has seen between two releases. A timer ends the reservation, whether or not a task
    //! polls the request. The request then goes to the end of the turns, rests for as long as its
    //! patience was, and may reserve again with twice the patience.
    //!
    //! So a request is granted after finitely many releases, whatever their pace. Only finitely
    //! many requests have earlier turns, because a new request gets a later turn. If releases are
    //! at most `g` apart, the patience exceeds `g` after `log2(g / 100 ms)` reservations in vain.
    //! The next one stands until the request is granted.
    //!
    //! ## Bounds
    //!
    //! With `n` requests in the queue:
    //!
    //! | event | cost |
    //! | --- | --- |
    //! | a release, or a push, while no request waits | one load |
    //! | enter, leave, grant, reject | `O(log n)` |
    //! | a release while requests wait | `O(log n)` for each of at most five caps, and then for each head that it grants or moves |
    //! | find the oldest head that fits | one look-up for each size that fits, at most 64 |
    //! | a check at the global cap that the pool and the own account cannot satisfy | one load for each account that leases ahead, at most one for 200 credits of the cap |
    //!
    //! The lock of the queue is held for at most 64 grants or rejections (`PORTION`), and is handed
    //! to a thread that waits for it between portions. Wakers run after the lock is released.
    //!
    //! # Lanes
    //!
    //! `store/lanes.rs` holds the records of a stage that wait to be taken, in two lanes.
    //!
    //! - The **ring** is crossbeam's `ArrayQueue`: the bounded queue of Dmitry Vyukov, for many
    //!   producers and consumers. A slot holds a block: one record, or a `Vec` of records that were
    //!   pushed together and belong to one source. Each block holds at least one record, and each
    //!   record a place. So a ring with as many slots as the stage has places is never full for a
    //!   thread that holds a place.
    //! - The **returned records** are a map under a lock, in the order of their sequences. It holds
    //!   records that came back, and the rest of each block that was larger than a batch: a *cut*
    //!   block. A worker takes from the map first. While the map is empty, pushing and taking touch
    //!   no lock. If another worker has the lock, a worker goes on to the ring, and waits for the
    //!   lock only before it would return nothing, or would linger.
    //!
    //! ## Delayed and isolated records
    //!
    //! Beside the map of returned records, under the same lock, stands a map of **delayed** records
    //! by due time (`store/returned.rs`). One timer for each stage, in the helper thread of
    //! `timer.rs`, moves those that are due into the first map, ahead of all others and in the
    //! order of their due times, and notifies a worker. A worker that finds both lanes empty looks
    //! at the clock itself before it answers `Empty`. So a take that finds records costs the same
    //! however many are delayed. Where no timer can be started, records come back at once.
    //!
    //! The two counts of delayed and of returned records change under the lock, the latter first.
    //! So a record that becomes due counts twice for a moment, rather than not at all.
    //!
    //! Records of a batch that is dropped while its thread panics are **isolated**: each is taken
    //! as a batch of its own until it is settled, so that a record that kills its worker uses up no
    //! retries but its own. A batch that is being filled ends before an isolated record, to keep
    //! the order.
    //!
    //! ## The age of records
    //!
    //! If the buffer expires records by age, measures time or has byte budgets,
    //! `StageCore::store_stamped` puts the records of a block into a box, together with their times
    //! and charges. Blocks of other buffers have no box. A buffer that needs no times does not read
    //! the clock. A batch carries the time for each run of records, so that a return or a forward
    //! keeps it.
    //!
    //! ## The surplus, and why `Empty` is honest
    //!
    //! A worker that finds both lanes empty must not answer `Empty` while records of the stage are
    //! in the hands of a thread that is about to put them into a lane. Two threads can be in that
    //! position: one that pushes, and one that cuts a block. The **surplus** word makes blocks of
    //! more than one record visible meanwhile. It counts how many more records than blocks the ring
    //! holds or is about to hold.
    //!
    //! - A push adds to the surplus before it pushes into the ring.
    //! - A worker subtracts from it after it has popped a block, and, if it cuts the block, after
    //!   the rest is in the map.
    //! - A worker that finds nothing first reads the surplus, then the returned records, then the
    //!   ring. If the surplus was zero and it still finds nothing, it answers `Empty`. Otherwise it
    //!   spins and looks again.
    //!
    //! Suppose that a record waits during the whole call, and no other worker takes it. If it is in
    //! the ring, the worker pops its block. If another worker has popped that block and cuts it,
    //! the surplus is above zero until the rest is in the map, so the worker spins. If the worker
    //! reads zero, the rest is already in the map, and the worker reads the map after the surplus.
    //! A block of one record needs no surplus: `pop` waits for a slot that a push has claimed and
    //! not filled.
    //!
    //! The number of waiting records is the sum of the ring's length, the surplus and the length of
    //! the map, read in this order. A cut moves records in the same direction, so the sum may count
    //! a record twice for a moment, and misses none.
    //!
    //! # Waking
    //!
    //! `event.rs` is a list of wakers under a short lock, as in tokio's `Notify` and in the
    //! `event-listener` crate. It is used as an *eventcount*: a waiter registers, looks once more,
    //! and only then waits. `notify_one` marks the waiter that registered first; `notify_all` marks
    //! those that are registered at that moment, 32 for each hold of the lock. A waiter that is
    //! dropped after it was marked and before it looked passes the mark on. The first waiter
    //! allocates the list, and then writes a flag. A thread that notifies writes the flag, too:
    //! either it finds the list, or the waiter sees what the thread did before.
    //!
    //! ## The handshake
    //!
    //! A waiter writes *I wait* and reads *is there anything?* A changer writes *there is
    //! something* and reads *does anyone wait?* If both reads came before the other's write, the
    //! waiter would sleep forever. This is the store-load handshake of Dekker's mutual exclusion.
    //! The library builds it from read-modify-writes of one common word:
    //!
    //! | waiter | changer |
    //! | --- | --- |
    //! | 1. raises a flag (a count of waiters, or an entry in a list) | 1. changes the word, by a read-modify-write |
    //! | 2. writes the word, by a read-modify-write that adds zero (`Packed::fence`) | 2. reads the flag |
    //! | 3. looks once more, and waits if it finds nothing | 3. notifies, if the flag is raised |
    //!
    //! One of the two writes to the word comes first. If it is the waiter's, the changer's write
    //! reads from it, so the changer then sees the flag. If it is the changer's, the waiter's write
    //! reads from it, so the waiter then sees the change. This needs only acquire and release, and
    //! loom gives `SeqCst` accesses no more than that.
    //!
    //! Where a handshake below has no common word, it says so. It then needs the total order of
    //! `SeqCst`: of two reads and two writes in the pattern above, one read comes last in that
    //! order, and sees the other thread's write. loom cannot show these; they rest on the argument.
    //!
    //! ## Requests
    //!
    //! The flag is the lower half of `Protocol::events`. The waiter is `Acquire::new` with
    //! `WaitQueue::enter`. The changer is each call that ends in `Admission::notify`.
    //!
    //! - **H1: its own source settles records.** The word is the account's. It is the only word
    //!   that is written if the account leases ahead and keeps the credits. Model:
    //!   `loom-tests/waiting.rs`, a source that waits for its own credit.
    //! - **H2: credits come back to the pool**, from a release, a sweep, a closed account, or a
    //!   push that leased in vain. The word is the pool's. Models: `loom-tests/waiting.rs`, a
    //!   source that waits for a global credit, and those that are given what a push or a drain
    //!   leaves.
    //! - **H3: a stage gives places back.** The word is the stage's. A batch that was forwarded
    //!   notifies after its records are in the next stage. Models: `loom-tests/waiting.rs`, a
    //!   source and a forward that wait for a place.
    //! - **H4: a letter is parked, or received.** A letter that is being parked counts twice. So a
    //!   request may be denied a credit or a place that is free once the letter has left the words.
    //!   The common words are the pool's and the stage's: the last step of parking writes them, and
    //!   `release_parked` writes them after the limit. Models: `loom-tests/parked.rs`.
    //! - **H5: credits become idle in the account of another source**: it settles records and keeps
    //!   the credits, or it leased more than it used. A thread that acquired more credits than it
    //!   used must notify waiters, even if it leaves the surplus idle in its account
    //!   (`Grant::left_some`). An account that turns ahead writes the pool's word, which makes this
    //!   H2. An account that leased ahead before does not. So a request that the global cap denies
    //!   sweeps before it looks for the last time: a release that comes before the sweep leaves a
    //!   credit that the sweep moves to the pool, and one that comes after it finds an exact
    //!   account, which is H2. Models: `loom-tests/waiting.rs`, a source that waits for a global
    //!   credit, and what another source is leasing ahead, or leased and did not need.
    //! - **H6: the stage, the source or the buffer is closed.** The lock of the queue takes the
    //!   place of the word. A close first closes, and then rejects requests under the lock. A
    //!   request enters under the lock and then looks whether it is closed. Model:
    //!   `loom-tests/close.rs`.
    //! - **H7: two requests in the queue.** Every change of the queue is under its lock, and so is
    //!   each attempt. A request that leaves, or whose reservation ends, marks its caps for `serve`
    //!   under the same lock. Models: `loom-tests/reservation.rs`, and `waiting.rs` for one that
    //!   gives up.
    //!
    //! ## Workers
    //!
    //! The waiter is `StageCore::wait_for_any` or `wait_for_batch`. It registers with an event,
    //! raises the count `Receivers::waiting`, and then writes three words: the length of the
    //! returned records, the stage's word and the pool's word. The changer in H8 to H10 is
    //! `Receivers::notify`. One push or return wakes one worker, however many records it brings. A
    //! worker that leaves records in the map of returned records wakes the next.
    //!
    //! - **H8: a record is pushed into the ring.** There is no common word of this crate. `push`
    //!   claims a slot by a `SeqCst` swap of the ring's tail, and then the changer loads the count.
    //!   `pop` answers *empty* only after a `SeqCst` fence and a load of the tail that follows it.
    //!   So either the changer sees the count or `pop` sees the claim; then it waits for the slot.
    //!   This needs `SeqCst`, and rests on crossbeam-queue: loom runs a locked queue in its place.
    //!   Models: `loom-tests/waiting.rs`, a worker that waits is woken by a push.
    //! - **H9: records are returned, or left by a worker that took some of them or cut a block.**
    //!   The word is the length of the returned records. Models: `loom-tests/waiting.rs`, a worker
    //!   that waits is woken by a return; `returned.rs`, workers that share a block or a batch.
    //! - **H10: enough records are there for a worker that lingers.** It sets the level
    //!   `least_wanted` before it raises the count, and both sides sum the lengths of the lanes.
    //!   Two changers may each add less than the level and together reach it. In the total order
    //!   the sum of the second comes after both additions, and sees them. This needs `SeqCst`. A
    //!   changer that reaches the level clears it before it notifies all: a worker whose level it
    //!   cleared has registered before. Models: `loom-tests/waiting.rs`, workers that linger.
    //! - **H11: a stage is closed, or a closed stage gives back its last place.** The word is the
    //!   stage's. The flag is the entry in the event's list, because this changer notifies in any
    //!   case. Models: `loom-tests/waiting.rs` and `parked.rs`, a worker of a stage that is closed.
    //! - **H12: a closed buffer is drained.** The word is the pool's. A closed buffer counts as one
    //!   drainer, so the thread that brings the pool to zero looks whether it is drained, and wakes
    //!   the workers of all stages. Models: `loom-tests/waiting.rs` and `close.rs`.
    //! - **H13: the buffer is closed while a worker lingers.** The word is the pool's: `close`
    //!   writes it after it sets the flag `CLOSED` and before it wakes all workers. Model:
    //!   `loom-tests/waiting.rs`, a worker that lingers when the buffer is closed.
    //!
    //! ## Drain and close
    //!
    //! The flag is `Protocol::drainers`. The waiter is `Admission::wait_for_settled`. The changer
    //! is each call that ends in `notify_if_drained`.
    //!
    //! - **H14: the last record is settled.** The word is the pool's. Model: `loom-tests/drain.rs`.
    //! - **H15: the last record is settled in an account that leases ahead**, so that its credits
    //!   stay idle. The drainer sweeps after it has registered. If its sweep visits the account
    //!   before the release, the release finds an exact account and writes the pool: this is H14.
    //!   Otherwise the sweep moves the idle credit. If a sweep of another thread visits the
    //!   account, that thread must notify drainers after it. Models: `loom-tests/drain.rs`, two
    //!   drains at once, and a drain beside a source that is made.
    //! - **H16: an account turns ahead, though a drainer waits**, because its push read the flag
    //!   before it was raised. The word is the pool's, which the account writes to announce its
    //!   turn. The push reads the flag once more after that, and sweeps if it is raised. If the
    //!   drainer wrote the word later, its own sweep finds the account in the list. Model:
    //!   `loom-tests/drain.rs`, a drain that begins while an account turns ahead.
    //! - **H17: a close and the release of the last credit.** The word is the pool's: `close`
    //!   writes it after it has raised the flag and set `SEALED`. If the release comes first,
    //!   `close` finds the pool empty. Model: `loom-tests/close.rs`.
    //! - **H18: two calls of close.** Each closes every account, seals and notifies, so the second
    //!   does not return before the first has taken effect. Model: `loom-tests/close.rs`.
    //!
    //! ## Signals
    //!
    //! - **H19: a signal follows a level that several threads move.** The level is the account's
    //!   word, the pool's or the stage's. The signal is the cell's word, which names the zone of
    //!   the level. A thread that moves the level reads the cell afterwards. A thread that writes
    //!   the cell reads the level again afterwards, by a read-modify-write, and repeats until the
    //!   zone contains the level. So either that read sees a later change of the level, or the
    //!   thread that makes the later change sees what was written to the cell. The last thread to
    //!   leave has left a true signal. This holds only if *every* thread that moves the level reads
    //!   the cell afterwards. A thread that raises the level only checks whether it is above the
    //!   zone. If the level is below the zone, some thread lowered it there after the last write of
    //!   the cell, and that thread checks for it. Models: `loom-tests/signals.rs`.
    //! - **H20: a receiver of signals waits for a change.** It registers with the event of the
    //!   cell, and then reads the cell. A change writes the cell, and then notifies. The lock of
    //!   the event's list takes the place of the word. A receiver of a source registers first with
    //!   the event `SourceCore::redirected` and then reads which stage the source pushed to last,
    //!   to register there; a push to another stage writes that, and then notifies. Models:
    //!   `loom-tests/signals.rs`, a receiver ends up on the latest, or hears of the stage that its
    //!   source turns to.
    //!
    //! ## Handshakes that wake no task
    //!
    //! - **H21: sweep and announcement**, over the epoch: see [the ledger](#sweep-and-epoch).
    //!   Models: `loom-tests/ledger.rs`.
    //! - **H22: a cap over two words**, limit and count: see
    //!   [parked letters](#parked-letters-and-the-limit-words). Models: `loom-tests/parked.rs`.
    //! - **H23: cut blocks and `Empty`**, over the surplus: see
    //!   [lanes](#the-surplus-and-why-empty-is-honest). Models: `loom-tests/returned.rs` and
    //!   `stage.rs`.
    //! - **H24: a letter is parked while another is received.** The thread that parks looks for a
    //!   free slot after it has parked, and the thread that receives looks for parked letters after
    //!   it has freed a slot. Both queues use `SeqCst`. If both missed each other, the letter would
    //!   only wait for the next letter to be received. Model: `loom-tests/parked.rs`.
    //!
    //! # Panics and user code
    //!
    //! The library calls code that it does not know: wakers, the methods and the destructor of a
    //! record, and the closures of `settle` and `partition`. Two rules apply.
    //!
    //! - **It runs under no lock.** A waker is cloned before a lock is taken, and woken or dropped
    //!   after the lock is released. `Deferred` collects what the work on the wait queue leaves to
    //!   be done then.
    //! - **A panic leaves exact counts.** `sync::isolate` ends the panic of a waker, so that the
    //!   next waker is still woken; the panic hook has reported it. `unwind::Panics` keeps the
    //!   first panic of several calls and resumes it when all the work is done. If the thread
    //!   already unwinds, it drops the panic: a second one would abort the process.
    //!
    //! A batch is settled in destructors: `Settling` decides the outcomes, carries them out when it
    //! is dropped, and returns the records that have none. Acknowledging drops the records first
    //! and releases their credits in a destructor. So a worker that panics with a batch in its
    //! hands, or whose record panics, loses no record and no credit.
    //!
    //! # Time
    //!
    //! `timer.rs` serves every executor. A blocking call needs no timer thread: it parks its thread
    //! until the earliest deadline of what it waits for. An async call registers its waker with one
    //! helper thread for the whole process. The first timer starts the thread, and it ends after a
    //! second without timers. All of its state is under one lock with a condition variable, and it
    //! wakes tasks after it has released that lock. If the thread cannot be started, a timer does
    //! not fire: a worker then does not linger, and the next release or refusal ends an outdated
    //! reservation.
    //!
    //! A call that would park its thread spins first, with exponential backoff, for about as long
    //! as it takes to wake a thread.
    //!
    //! # Counting
    //!
    //! Counts for [`Stats`](crate::Stats) must cost the data path little, so most are derived. The
    //! word of a stage has the number of places given so far, and the places taken: their
    //! difference is the number of places that were ever released. What is neither a push nor an
    //! acknowledgement is rarer, and has a counter: forwards, records handed out, dead letters by
    //! reason, and places that were given back without a record.
    //!
    //! - accepted = given - reserved - unused - forwarded in
    //! - acknowledged = released - unused - forwarded out - handed out - dead letters
    //!
    //! These words are not read at one instant. The result must not exceed the truth, because a
    //! count that was too high could not be lowered again. So a thread writes what is subtracted
    //! first: it counts places as reserved before it takes them, and raises the counter of what it
    //! does before it lowers that count or releases the place. A reader loads the word of the stage
    //! first, then what is reserved, then the counters. So everything that it finds in the word, it
    //! also finds in what is subtracted. If it finds more there, the result is too low for a
    //! moment, and the greatest result so far is reported instead. The models in
    //! `loom-tests/statistics.rs` show it.
    //!
    //! The number of places given has 31 bits. The thread whose places change its highest bit
    //! counts a half of the range. A reader loads the halves before the word: if the highest bit
    //! does not match their parity, a half is not counted yet.
    //!
    //! # Names and memory
    //!
    //! Names are looked up in a [`papaya`](https://docs.rs/papaya) map: a look-up takes no lock.
    //! papaya leaves the reclamation of removed entries to [`seize`](https://docs.rs/seize), which
    //! implements Hyaline-1 (Nikolaev, Ravindran, "Snapshot-free, transparent, and robust memory
    //! reclamation for lock-free data structures", PLDI 2021): a removed entry is freed when the
    //! last look-up that may hold it has ended. Accounts live in an append-only arena
    //! ([`boxcar`](https://docs.rs/boxcar)) and are never freed. An account that is closed and
    //! empty is used again for the next source.
    //!
    //! If new names may replace idle sources, each account notes when it became empty. Other
    //! buffers pay nothing for this: only such an account moves the lower end of its signal's
    //! lowest zone to one. So the thread that lowers the level to zero takes the slow path that
    //! updates the signal, and notes the time there. A new name that finds no place checks up to
    //! 1,024 accounts, beginning where the last search stopped. It removes the first source whose
    //! account has been empty for long enough and whose core only the map refers to. Handles are
    //! made under the lock of the registry, so no handle appears meanwhile. A push by name that has
    //! looked the source up finds its account closed, and registers the name again. Models:
    //! `loom-tests/idle_sources.rs`.
    //!
    //! A thread keeps the memory of the batch that it settled last for its next batch, up to 64 KiB
    //! for the records and as much for their runs.
    //!
    //! # Memory orders
    //!
    //! Every atomic access of this crate is `SeqCst`. On x86-64 this costs nothing over a weaker
    //! order: each write on a hot path is a read-modify-write. It also reduces the reasoning to one
    //! about interleavings. loom explores the same code under acquire and release. The handshakes
    //! that need more are H8, H10 and H24. The counters of [Counting](#counting) alone are
    //! `Relaxed`: the `SeqCst` write that follows one publishes it.
    //!
    //! # Techniques and their sources
    //!
    //! | technique | where | source |
    //! | --- | --- | --- |
    //! | credit-based flow control | the ledger | Kung, Blackwell, Chapman, SIGCOMM 1994 |
    //! | bounded queue for many producers and consumers | the ring | Vyukov, [1024cores](https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue); [crossbeam-queue](https://docs.rs/crossbeam-queue) |
    //! | batch semaphore | the wait queue | tokio, `sync/batch_semaphore.rs` |
    //! | eventcount | `event.rs` | Reed, Kanodia, "Synchronization with eventcounts and sequencers", CACM 1979; [event-listener](https://docs.rs/event-listener) |
    //! | list of wakers under a short lock | `event.rs` | tokio, `sync/notify.rs` |
    //! | store-load handshake | every wake-up | Dekker's algorithm, in Dijkstra, "Cooperating sequential processes", 1965 |
    //! | hysteresis between two watermarks | `backpressure.rs` | the Schmitt trigger |
    //! | memory reclamation | names | Nikolaev, Ravindran, PLDI 2021; [seize](https://docs.rs/seize) |
    //! | model checking of interleavings | `loom-tests/` | [loom](https://docs.rs/loom); Norris, Demsky, "CDSChecker", OOPSLA 2013 |
}
