//! The load: keep-alive connections, each sending its next request when the last was answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The service under load.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub key: String,
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A believable request of about 350 bytes, each for another subscriber.
pub fn request_json(number: u64) -> String {
    format!(
        r#"{{"workflow_id":"parcel-dispatched","external_id":"order-{number}","channels":["email"],"subscriber":{{"id":"cust-{number}","email":"lena{number}@customer.example","locale":"de"}},"payload":{{"order":{number},"tracking":"1Z999AA10123456784","items":3,"carrier":"northwind"}},"category":"transactional","metadata":{{"region":"eu-1","shard":"7"}}}}"#
    )
}

impl Target {
    /// One command a request.
    pub async fn single(&self, connections: u64, duration: Duration) -> Result<Measured> {
        let make = |number| request_json(number);
        self.run(connections, duration, "/v1/notifications", 201, 1, make).await
    }

    /// Many commands a request.
    pub async fn bulk(&self, connections: u64, commands: u64, duration: Duration) -> Result<Measured> {
        let make = move |number: u64| {
            let items: Vec<String> = (0..commands)
                .map(|item| {
                    let request = request_json(number * commands + item);
                    format!(r#"{{"type":"request",{}"#, &request[1..])
                })
                .collect();
            format!(r#"{{"commands":[{}]}}"#, items.join(","))
        };
        self.run(connections, duration, "/v1/commands", 200, commands, make).await
    }

    async fn run(
        &self,
        connections: u64,
        duration: Duration,
        path: &'static str,
        status: u16,
        weight: u64,
        make: impl Fn(u64) -> String + Clone + Send + Sync + 'static,
    ) -> Result<Measured> {
        let base = uuid::Uuid::new_v4().as_u64_pair().0 >> 20;
        let started = Instant::now();
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..connections {
            let (target, make) = (self.clone(), make.clone());
            workers.spawn(async move {
                let mut connection = Connection::open(&target).await?;
                let mut histogram = Histogram::<u64>::new(3)?;
                let mut number = base + worker * 1_000_000;
                while started.elapsed() < duration {
                    number += 1;
                    let body = make(number);
                    let sent = Instant::now();
                    let answered = connection.post(path, &body).await?;
                    if answered != status {
                        bail!("{path} answered {answered}");
                    }
                    histogram.record(u64::try_from(sent.elapsed().as_micros())?)?;
                }
                Ok(histogram)
            });
        }
        let mut all = Histogram::<u64>::new(3)?;
        while let Some(worker) = workers.join_next().await {
            all.add(worker??)?;
        }
        let elapsed = started.elapsed().as_secs_f64();
        Ok(Measured {
            per_second: (all.len() * weight) as f64 / elapsed,
            p50_ms: all.value_at_quantile(0.50) as f64 / 1000.0,
            p99_ms: all.value_at_quantile(0.99) as f64 / 1000.0,
        })
    }
}

/// A keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

/// An answer: its status, its head as it came, and its body.
pub struct Answer<'a> {
    pub status: u16,
    head: &'a str,
    pub body: &'a [u8],
}

impl Answer<'_> {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }

    /// The body, if it was answered so.
    pub fn ok(&self, status: u16) -> Result<&[u8]> {
        if self.status != status {
            bail!("answered {}: {}", self.status, String::from_utf8_lossy(self.body));
        }
        Ok(self.body)
    }
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            head: format!(
                "Host: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
                target.address, target.key
            ),
            buffer: Vec::with_capacity(64 * 1024),
        })
    }

    /// Sends one request, reads the whole answer, and returns its status.
    async fn post(&mut self, path: &str, body: &str) -> Result<u16> {
        Ok(self.call("POST", path, "", body).await?.status)
    }

    /// Sends one request and reads the whole answer. `headers` are whole lines.
    pub async fn call(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Result<Answer<'_>> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{}{headers}Content-Length: {}\r\n\r\n{body}",
            self.head,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed");
            }
            let Some((status, head, length)) = complete(&self.buffer)? else {
                continue;
            };
            if self.buffer.len() > length {
                bail!("more than one answer");
            }
            if self.buffer.len() == length {
                return Ok(Answer {
                    status,
                    head: std::str::from_utf8(&self.buffer[..head])?,
                    body: &self.buffer[head + 4..],
                });
            }
        }
    }
}

/// Status, length of the head and length of the whole of an answer whose head has arrived.
fn complete(buffer: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..end])?;
    let status = head.get(9..12).context("status line")?.parse()?;
    let length: usize = header(head, "content-length").context("no content-length")?.parse()?;
    Ok(Some((status, end, end + 4 + length)))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
