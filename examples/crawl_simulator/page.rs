//! What downloads bring: made up, but as the crawler would store it.

use std::io::Write;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use starfeed::change::Timestamp;

use super::row::{Row, binary, row, time};

/// Hosts have so many different pages: whatever is stored twice is stored once.
const VARIANTS: usize = 6;

/// What became of a download.
pub(crate) enum Outcome {
    Response { status: u16, is_success: bool, content_type: &'static str, body: Vec<u8> },
    Exception(&'static str),
}

/// A URL that was downloaded.
pub(crate) struct Download {
    pub(crate) url: String,
    pub(crate) cost: f64,
    pub(crate) duration: f64,
    pub(crate) outcome: Outcome,
}

const EXCEPTIONS: [&str; 3] = [
    "Traceback (most recent call last):\n  File \"/starbelly/starbelly/downloader.py\", line 236, in _download\n    \
     async with session.get(url, timeout=self._timeout) as response:\nasyncio.exceptions.TimeoutError\n",
    "Traceback (most recent call last):\n  File \"/starbelly/starbelly/downloader.py\", line 236, in _download\n    \
     async with session.get(url, timeout=self._timeout) as response:\naiohttp.client_exceptions.ClientConnectorError: \
     Cannot connect to host: Name or service not known\n",
    "Traceback (most recent call last):\n  File \"/starbelly/starbelly/downloader.py\", line 251, in _download\n    \
     body = await response.read()\naiohttp.client_exceptions.ServerDisconnectedError: Server disconnected\n",
];

const SECTIONS: [&str; 8] = ["news", "archive", "topics", "people", "places", "reports", "notices", "letters"];
const WORDS: [&str; 12] = [
    "harbour", "bridge", "council", "orchard", "railway", "library", "market", "weather", "museum", "river",
    "festival", "school",
];

/// A page that a page of `host` links to.
pub(crate) fn link(origin: &str, random: &mut fastrand::Rng) -> String {
    let section = SECTIONS[random.usize(..SECTIONS.len())];
    let (first, second) = (WORDS[random.usize(..WORDS.len())], WORDS[random.usize(..WORDS.len())]);
    format!("{origin}/{section}/{first}-{second}-{}", random.u32(1000..10_000))
}

/// The scheme and host of a URL.
pub(crate) fn origin(url: &str) -> &str {
    let host_at = url.find("://").map_or(0, |at| at + "://".len());
    url[host_at..].find(['/', '?', '#']).map_or(url, |end| &url[..host_at + end])
}

/// Downloads a URL: nine in ten times it is there.
pub(crate) fn download(url: String, cost: f64, random: &mut fastrand::Rng) -> Download {
    let status = match random.u32(..1000) {
        0..40 => None,
        40..90 => Some(404),
        90..105 => Some(403),
        105..120 => Some(500),
        120..130 => Some(503),
        _ => Some(200),
    };
    let duration = f64::from(random.u32(40..1500)) / 1000.0;
    let outcome = match status {
        None => Outcome::Exception(EXCEPTIONS[random.usize(..EXCEPTIONS.len())]),
        Some(200) if random.usize(..12) == 0 => response(200, "application/rss+xml", feed(origin(&url))),
        Some(200) => response(200, "text/html; charset=utf-8", html(origin(&url), random.usize(..VARIANTS))),
        Some(status) => response(status, "text/html", format!("<html><body><h1>{status}</h1></body></html>\n")),
    };
    Download { url, cost, duration, outcome }
}

fn response(status: u16, content_type: &'static str, body: String) -> Outcome {
    Outcome::Response { status, is_success: status == 200, content_type, body: body.into_bytes() }
}

fn html(origin: &str, variant: usize) -> String {
    let (title, word) = (WORDS[variant * 2 % WORDS.len()], WORDS[(variant * 2 + 1) % WORDS.len()]);
    let paragraph = format!("<p>More about the {title} and the {word}: what was said, and what was done.</p>\n");
    let paragraphs = paragraph.repeat(4 + variant * 5);
    format!(
        "<!DOCTYPE html>\n<html>\n<head><title>The {title} and the {word}</title></head>\n<body>\n\
         <h1>The {title} and the {word}</h1>\n{paragraphs}<a href=\"{origin}/\">All pages</a>\n</body>\n</html>\n"
    )
}

fn feed(origin: &str) -> String {
    let items: String = SECTIONS
        .iter()
        .map(|section| format!("<item><title>{section}</title><link>{origin}/{section}/</link></item>\n"))
        .collect();
    format!("<?xml version=\"1.0\"?>\n<rss version=\"2.0\"><channel><title>{origin}</title>\n{items}</channel></rss>\n")
}

/// A body as it is stored.
pub(crate) struct StoredBody {
    pub(crate) id: [u8; 16],
    pub(crate) row: Row,
}

impl Download {
    /// Its row, the `sequence`th of all, and that of its body.
    pub(crate) fn rows(&self, job_id: &str, sequence: u64, now: Timestamp) -> (Row, Option<StoredBody>) {
        let started_at = Timestamp(now.0.saturating_sub((self.duration * 1000.0) as u64));
        let mut response = row(json!({
            "sequence": sequence,
            "job_id": job_id,
            "url": self.url,
            "canonical_url": self.url,
            "started_at": time(started_at),
            "completed_at": time(now),
            "duration": self.duration,
            "cost": self.cost,
            "is_success": false,
        }));
        match &self.outcome {
            Outcome::Exception(traceback) => {
                response.insert("exception".to_owned(), (*traceback).into());
                (response, None)
            }
            Outcome::Response { status, is_success, content_type, body } => {
                let stored = StoredBody::new(body);
                let headers =
                    ["CONTENT-TYPE", content_type, "CONTENT-LENGTH", &body.len().to_string(), "SERVER", "nginx"]
                        .map(Value::from);
                let more = row(json!({
                    "is_success": is_success,
                    "status_code": status,
                    "content_type": content_type,
                    "headers": headers,
                    "body_id": binary(&stored.id),
                }));
                response.extend(more);
                (response, Some(stored))
            }
        }
    }
}

impl StoredBody {
    fn new(body: &[u8]) -> Self {
        let id = Blake2b::<U16>::digest(body).into();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let compressed = gzip.write_all(body).and_then(|()| gzip.finish()).expect("memory takes what is written");
        Self { id, row: row(json!({"id": binary(&id), "body": binary(&compressed), "is_compressed": true})) }
    }
}
