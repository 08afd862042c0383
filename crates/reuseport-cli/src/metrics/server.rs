//! Serves scrapes over HTTP/1.1, on one thread. One look at the host at a time, and at most one a second, however many
//! clients ask; what a client may make the server wait or hold is bounded.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use reuseport::Report;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::listen::Listener;
use super::{Exporter, Format, Scrape};

/// How long a look at the host is served.
const FRESH: Duration = Duration::from_secs(1);
/// The most connections at a time; others wait.
const CONNECTIONS: usize = 32;
/// How long a client may take for a request's head, also for the next one on the same connection.
const HEAD: Duration = Duration::from_secs(30);
/// How long a connection may last, and then until its last answer is read.
const LIFE: Duration = Duration::from_secs(600);
const LAST: Duration = Duration::from_secs(10);
/// How long connections may go on after the server was told to stop.
const PARTING: Duration = Duration::from_secs(2);
/// The most bytes of a request's head. hyper takes no less.
const REQUEST: usize = 8 << 10;

const ABOUT: &str = "Metrics of reuseport, for Prometheus: /metrics\n";

/// Serves until `stop` is done. It is called when the server listens, on the thread that serves.
///
/// # Errors
///
/// If the server cannot begin, or cannot be told to stop.
pub(crate) fn serve<S: Future<Output = ()>>(
    listener: Listener,
    exporter: Exporter,
    stop: impl FnOnce() -> io::Result<S>,
) -> Result<()> {
    let begin = || Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = begin().context("cannot begin to serve metrics")?;
    let cache = Arc::new(Cache { exporter, last: Mutex::default() });
    let served = runtime.block_on(async {
        let stop = stop().context("cannot wait for signals")?;
        match listener {
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener).context("cannot serve metrics")?;
                let accept = async || Ok(listener.accept().await?.0);
                run(accept, cache, stop).await;
            }
            Listener::Unix(listener, _file) => {
                let listener = UnixListener::from_std(listener).context("cannot serve metrics")?;
                let accept = async || Ok(listener.accept().await?.0);
                run(accept, cache, stop).await;
            }
        }
        Ok(())
    });
    // A look at the host may be under way.
    runtime.shutdown_background();
    served
}

async fn run<T>(
    accept: impl AsyncFn() -> io::Result<T>,
    cache: Arc<Cache>,
    stop: impl Future<Output = ()>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            _ = connections.join_next(), if connections.len() >= CONNECTIONS => continue,
            stream = accept(), if connections.len() < CONNECTIONS => stream,
        };
        match stream {
            Ok(stream) => {
                _ = connections.spawn(connection(stream, Arc::clone(&cache), stopped.clone()))
            }
            // No descriptors left, mostly: they may be there again in a moment.
            Err(error) => {
                tracing::warn!("cannot accept a connection that asks for metrics: {error}");
                sleep(FRESH).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop((stopping, stopped));
    let parted = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(PARTING, parted).await;
}

async fn connection<T>(stream: T, cache: Arc<Cache>, mut stopped: watch::Receiver<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| respond(request, Arc::clone(&cache)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(REQUEST);
    let served = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let done = tokio::select! {
        done = &mut served => Some(done),
        // The sender sends nothing: it is gone when the server stops.
        _ = stopped.changed() => None,
        () = sleep(LIFE) => None,
    };
    let done = match done {
        Some(done) => done,
        None => {
            served.as_mut().graceful_shutdown();
            timeout(LAST, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = done {
        tracing::debug!("a connection that asked for metrics ended: {error}");
    }
}

async fn respond(
    request: Request<Incoming>,
    cache: Arc<Cache>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    const TEXT: &str = "text/plain; charset=utf-8";

    let answer = |status, kind, body: Bytes| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    };
    let path = request.uri().path();
    if request.method() != Method::GET {
        let only = "only GET is served\n".into();
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, only);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(response);
    }
    if path != "/metrics" {
        let status = if path == "/" { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Ok(answer(status, TEXT, ABOUT.into()));
    }
    let format = accepted(request.headers());
    // In a task of its own: a client that goes away does not end a look at the host halfway.
    let text = tokio::spawn(async move { cache.text(format).await }).await;
    Ok(match text {
        Ok(Some(text)) => {
            let mut response = answer(StatusCode::OK, format.content_type(), text);
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            response
        }
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "failed; the log says why\n".into()),
    })
}

/// The format that a client wants: OpenMetrics only if it says so.
fn accepted(headers: &HeaderMap) -> Format {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = accept.flat_map(|value| value.split(','));
    let (mut openmetrics, mut text) = (0.0_f32, 0.0_f32);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight =
            parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok()).unwrap_or(1.0);
        match kind.as_str() {
            "application/openmetrics-text" => openmetrics = openmetrics.max(weight),
            "text/plain" => text = text.max(weight),
            _ => {}
        }
    }
    if openmetrics > 0.0 && openmetrics >= text { Format::OpenMetrics } else { Format::Prometheus }
}

/// What is served: the last look at the host, in each format.
struct Cache {
    exporter: Exporter,
    /// Locked while one looks: others wait for what it finds.
    last: Mutex<Option<Last>>,
}

struct Last {
    at: Instant,
    texts: [Option<Bytes>; 2],
    /// The error of the look, if it failed.
    failed: Option<String>,
}

impl Cache {
    /// The scrape; `None` if it cannot be written.
    async fn text(self: Arc<Self>, format: Format) -> Option<Bytes> {
        let place = Format::ALL.iter().position(|one| *one == format)?;
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|last| last.at.elapsed() >= FRESH) {
            let (this, before) = (Arc::clone(&self), last.take());
            *last = spawn_blocking(move || Some(this.look(before.and_then(|last| last.failed))))
                .await
                .ok()?;
        }
        last.as_ref()?.texts[place].clone()
    }

    /// Looks at the host. A failure is logged unless the last one was the same.
    fn look(&self, failed_before: Option<String>) -> Last {
        let scrape = self.exporter.collect();
        let failed = scrape.as_ref().err().map(|error| {
            let report = Report::new(error.as_ref());
            let text = report.causes();
            if failed_before.as_ref() != Some(&text) {
                tracing::warn!(hint = report.hint(), "{text}");
            }
            text
        });
        let scrape = Arc::new(scrape.unwrap_or_else(|_| Scrape::default()));
        let texts = Format::ALL.map(|format| {
            let text = self.exporter.text(&scrape, format);
            text.inspect_err(|error| tracing::warn!("{error:#}")).ok().map(Bytes::from)
        });
        Last { at: Instant::now(), texts, failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_asks_for() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            accepted(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                          version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(of(prometheus), Format::OpenMetrics);
        assert_eq!(of("text/plain;version=0.0.4"), Format::Prometheus);
        assert_eq!(of("text/plain, application/openmetrics-text; q=0.9"), Format::Prometheus);
        assert_eq!(of("application/openmetrics-text;q=0"), Format::Prometheus);
        assert_eq!(of("*/*"), Format::Prometheus);
        assert_eq!(accepted(&HeaderMap::new()), Format::Prometheus);
    }
}
