//! The clients of a server, which ask while it restarts.
//!
//! New connections come in an open loop, at times drawn before: what is slow does not keep the next ones from coming,
//! and each answer's time counts from when its request was due. Next to them, some clients keep their connections,
//! and some connect and send only after a while.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use test_support::wait;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, sleep_until};

use crate::account::{self, Account};
use crate::exchange::{Connection, Lost, ask_dns};
use crate::protocol::{Answer, Protocol};
use crate::record::{Loss, Sample, Told};

/// Of DNS, one in this many asks over TCP.
const DNS_OVER_TCP: u64 = 4;
/// How long a slow client waits at most before it sends.
const SLOW: Duration = Duration::from_millis(400);
/// Between two requests of a client that keeps its connection.
const THINKS: Duration = Duration::from_millis(40);
/// How many requests it sends over one.
const REQUESTS: usize = 200;
/// Later than this, the generator was late.
const LATE: Duration = Duration::from_millis(10);
/// By more than this, it leaves out what was due.
const BEHIND: Duration = Duration::from_millis(50);

/// Which clients there are.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Whom they ask.
    pub server: SocketAddr,
    /// What they say.
    pub protocol: Protocol,
    /// New connections a second.
    pub rate: f64,
    /// Clients that keep their connections.
    pub keeping: usize,
    /// Clients that connect and wait before they send.
    pub slow: usize,
}

/// What clients and their owner share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// When the newest generation began to serve, and the processes that served before.
    promoted: Mutex<Option<(u64, HashSet<u32>)>>,
    /// How often these have answered since then, over connections that are older.
    kept: AtomicU64,
}

/// Clients that ask until [`Clients::stop`].
#[derive(Debug)]
pub struct Clients {
    begun: Instant,
    /// How many keep their connections.
    keeping: u64,
    shared: Arc<Shared>,
    /// Until they are stopped.
    thread: Option<JoinHandle<Result<Told>>>,
}

impl Clients {
    /// Starts them, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn start(load: Load, account: Arc<Account>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, begun) = (Arc::clone(&shared), Instant::now());
        let thread = thread::Builder::new().name("clients".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, all(load, account, theirs, begun))
        });
        let thread = Some(thread.context("cannot start the clients")?);
        Ok(Self { begun, keeping: load.keeping as u64, shared, thread })
    }

    /// Seconds since they began.
    pub fn time(&self) -> f32 {
        self.begun.elapsed().as_secs_f32()
    }

    /// From now on, none of these processes is to answer over a new connection. Returns when clients that keep their
    /// connections have had the time to ask.
    pub fn promoted(&self, old: HashSet<u32>) {
        let before = self.shared.kept.load(Ordering::Relaxed);
        *self.shared.promoted.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((account::now(), old));
        wait::poll(25 * THINKS, || {
            let kept = self.shared.kept.load(Ordering::Relaxed) - before;
            (kept >= self.keeping).then_some(())
        });
    }

    /// Waits for all answers, and returns what became of everything.
    ///
    /// # Errors
    ///
    /// If a client failed by itself.
    pub fn stop(mut self) -> Result<Told> {
        self.end().unwrap_or_else(|| Ok(Told::default()))
    }

    fn end(&mut self) -> Option<Result<Told>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take()?.join();
        Some(ended.unwrap_or_else(|_| Err(anyhow!("the clients panicked"))))
    }
}

/// Those of a run that failed do not disturb the next one.
impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// What the tasks of all clients share.
struct Context {
    load: Load,
    account: Arc<Account>,
    shared: Arc<Shared>,
    begun: Instant,
    told: RefCell<Told>,
    failure: RefCell<Option<anyhow::Error>>,
    open: Cell<usize>,
}

async fn all(
    load: Load,
    account: Arc<Account>,
    shared: Arc<Shared>,
    begun: Instant,
) -> Result<Told> {
    let (told, failure, open) = Default::default();
    let context = Rc::new(Context { load, account, shared, begun, told, failure, open });
    for _ in 0..load.keeping {
        context.spawn(keeping);
    }
    for _ in 0..load.slow {
        context.spawn(slow);
    }
    generate(&context).await;
    while context.open.get() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    match context.failure.take() {
        Some(failure) => Err(failure),
        None => Ok(context.told.take()),
    }
}

/// New connections in an open loop, at exponentially distributed distances.
async fn generate(context: &Rc<Context>) {
    let (mut due, mut number) = (Instant::now(), 0);
    while !context.is_over() {
        sleep_until(due.into()).await;
        while due <= Instant::now() {
            let late = due.elapsed();
            {
                let told = &mut context.told.borrow_mut();
                told.late = told.late.max(late.as_secs_f32());
                told.sent_late += u64::from(late > LATE);
            }
            let (at, over_tcp) = (due, number % DNS_OVER_TCP == 0);
            context.spawn(move |context| async move {
                if context.load.protocol == Protocol::Dns && !over_tcp {
                    context.query(at).await
                } else {
                    context.once(at, Duration::ZERO).await
                }
            });
            number += 1;
            // What it has missed it does not send at once, which would be a burst that no client sent.
            if late > BEHIND {
                let missed = late.as_secs_f64() * context.load.rate;
                context.told.borrow_mut().left_out += missed as u64;
                due = Instant::now();
            }
            // 1 - [0, 1) is never 0.
            due += Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / context.load.rate);
        }
    }
}

/// Connects, waits, and sends, again and again.
async fn slow(context: Rc<Context>) -> Result<()> {
    while !context.is_over() {
        let wait = SLOW.mul_f64(fastrand::f64());
        // Its time would be that of the wait.
        context.once(Instant::now(), wait.max(Duration::from_millis(1))).await?;
    }
    Ok(())
}

/// Keeps its connection for as long as the server does.
async fn keeping(context: Rc<Context>) -> Result<()> {
    while !context.is_over() {
        let Some(mut connection) = context.connect().await? else { continue };
        for number in 1..=REQUESTS {
            let last = number == REQUESTS || context.is_over();
            let Some(answer) = context.ask(&mut connection, last).await? else { break };
            if last || answer.closes {
                break;
            }
            sleep(THINKS).await;
            if connection.has_ended() {
                context.told.borrow_mut().counts.ended += 1;
                break;
            }
        }
    }
    Ok(())
}

impl Context {
    /// Starts a client. Its own failure ends all of them.
    fn spawn<F: Future<Output = Result<()>> + 'static>(
        self: &Rc<Self>,
        client: impl FnOnce(Rc<Self>) -> F,
    ) {
        let (context, running) = (Rc::clone(self), client(Rc::clone(self)));
        context.open.set(context.open.get() + 1);
        spawn_local(async move {
            if let Err(error) = running.await {
                context.failure.borrow_mut().get_or_insert(error);
            }
            context.open.set(context.open.get() - 1);
        });
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) || self.failure.borrow().is_some()
    }

    /// One request over a new connection, which was due `at`.
    async fn once(&self, at: Instant, wait: Duration) -> Result<()> {
        let Some(mut connection) = self.connect().await? else { return Ok(()) };
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let answered = self.ask(&mut connection, true).await?.is_some();
        if answered && wait.is_zero() {
            self.took(at);
        }
        Ok(())
    }

    /// One datagram.
    async fn query(&self, at: Instant) -> Result<()> {
        self.told.borrow_mut().counts.queries += 1;
        let since = account::now();
        let answer = ask_dns(self.load.server).await?;
        if self.note(answer, since).is_some() {
            self.took(at);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Option<Connection>> {
        let since = account::now();
        self.told.borrow_mut().counts.connections += 1;
        match Connection::open(self.load.server, self.load.protocol).await? {
            Ok(connection) => Ok(Some(connection)),
            Err(lost) => {
                self.lost(lost, since);
                // Who is refused comes again, but not at once.
                sleep(THINKS).await;
                Ok(None)
            }
        }
    }

    async fn ask(&self, connection: &mut Connection, last: bool) -> Result<Option<Answer>> {
        let last = last || !self.load.protocol.keeps();
        let answer = connection.ask(last, &self.account).await?;
        let answer = self.note(answer, connection.since());
        // What is wrong may have left more to read.
        Ok(answer.map(|answer| Answer { closes: answer.closes || last || !answer.right, ..answer }))
    }

    /// Counts what became of a request over a connection that began at `since`.
    fn note(&self, answer: Result<Answer, Lost>, since: u64) -> Option<Answer> {
        let answer = answer.map_err(|lost| self.lost(lost, since)).ok()?;
        let counts = &mut self.told.borrow_mut().counts;
        let count = if answer.right { &mut counts.answered } else { &mut counts.wrong };
        *count += 1;
        let promoted = self.shared.promoted.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(pid), Some((at, old))) = (answer.pid, &*promoted)
            && old.contains(&pid)
        {
            if since < *at {
                counts.kept += 1;
                self.shared.kept.fetch_add(1, Ordering::Relaxed);
            } else {
                counts.misplaced += 1;
            }
        }
        Some(answer)
    }

    /// Counts a loss on a connection that began at `since`.
    fn lost(&self, lost: Lost, since: u64) {
        const MOST: usize = 50;

        let told = &mut self.told.borrow_mut();
        match lost {
            Lost::Servers(how) => told.counts.servers.add(how),
            Lost::Ours(how, reached) => {
                told.counts.ours.add(how);
                if told.losses.len() < MOST {
                    let after = Duration::from_nanos(account::now() - since).as_secs_f32();
                    let at = self.begun.elapsed().as_secs_f32();
                    told.losses.push(Loss { at, how, reached, after });
                }
            }
        }
    }

    fn took(&self, at: Instant) {
        let sample = Sample {
            at: at.saturating_duration_since(self.begun).as_secs_f32(),
            took: at.elapsed().as_secs_f32(),
        };
        self.told.borrow_mut().samples.push(sample);
    }
}

/// How many requests, each over a new connection, a server answers in a second: the most that some clients get that
/// ask again at once.
///
/// # Errors
///
/// If a client failed by itself.
pub fn capacity(load: Load, account: Arc<Account>, time: Duration) -> Result<f64> {
    const CLIENTS: usize = 8;

    let shared = Arc::new(Shared::default());
    let measure = move || -> Result<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let begun = Instant::now();
        let (told, failure, open) = Default::default();
        let context = Rc::new(Context { load, account, shared, begun, told, failure, open });
        LocalSet::new().block_on(&runtime, async {
            for _ in 0..CLIENTS {
                context.spawn(move |context| async move {
                    while begun.elapsed() < time && !context.is_over() {
                        context.once(Instant::now(), Duration::ZERO).await?;
                    }
                    Ok(())
                });
            }
            while context.open.get() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        });
        if let Some(failure) = context.failure.take() {
            return Err(failure);
        }
        let answered = context.told.borrow().counts.answered;
        Ok(answered as f64 / begun.elapsed().as_secs_f64())
    };
    thread::scope(|scope| scope.spawn(measure).join())
        .map_err(|_| anyhow!("the clients panicked"))?
}
