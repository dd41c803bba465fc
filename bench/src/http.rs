//! A client as thin as can be, and what it sends: the same bytes for everyone who is measured.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::generator::{self, Measured, Pace, Plan, Request, Requests};

/// The service under load.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub key: String,
}

/// People who are written to, again and again.
pub const SUBSCRIBERS: u64 = 10_000;

/// A believable request of about 350 bytes.
pub fn request_json(number: u64) -> String {
    request_to(number, number % SUBSCRIBERS)
}

fn request_to(number: u64, subscriber: u64) -> String {
    format!(
        r#"{{"workflow_id":"parcel-dispatched","external_id":"order-{number}","channels":["email"],"subscriber":{{"id":"cust-{subscriber}","email":"lena{subscriber}@customer.example","locale":"de"}},"payload":{{"order":{number},"tracking":"1Z999AA10123456784","items":3,"carrier":"northwind"}},"category":"transactional","metadata":{{"region":"eu-1","shard":"7"}}}}"#
    )
}

/// One command a request.
pub fn singles(worker: u64) -> Requests {
    one_by_one(worker, request_json)
}

/// The same, each to somebody nobody has written to before.
pub fn to_strangers(worker: u64) -> Requests {
    one_by_one(worker, |number| request_to(number, number))
}

fn one_by_one(worker: u64, body: fn(u64) -> String) -> Requests {
    let mut number = first(worker);
    Box::new(move || {
        number += 1;
        Request {
            method: "POST",
            path: "/v1/notifications".into(),
            headers: String::new(),
            body: body(number),
            status: 201,
            weight: 1,
        }
    })
}

/// So many commands a request.
pub fn bulks(worker: u64, commands: u64) -> Requests {
    let mut number = first(worker);
    Box::new(move || {
        let items: Vec<String> = (0..commands)
            .map(|item| {
                let request = request_json(number + item);
                format!(r#"{{"type":"request",{}"#, &request[1..])
            })
            .collect();
        number += commands;
        Request {
            method: "POST",
            path: "/v1/commands".into(),
            headers: String::new(),
            body: format!(r#"{{"commands":[{}]}}"#, items.join(",")),
            status: 200,
            weight: commands,
        }
    })
}

/// Whole lives, one command a request: each notification is requested, queued, sent and delivered.
pub fn lifecycles(worker: u64) -> Requests {
    let mut number = first(worker);
    let mut id = Uuid::nil();
    let mut stage = 0;
    Box::new(move || {
        let message = || {
            format!(
                r#"{{"message":{{"channel":"email","provider_id":"northmail","provider_message_id":"nm-{number}"}}}}"#
            )
        };
        let (path, body, status) = match stage {
            0 => {
                number += 1;
                id = Uuid::now_v7();
                let body = format!(r#"{{"id":"{id}",{}"#, &request_json(number)[1..]);
                ("/v1/notifications".into(), body, 201)
            }
            1 => (
                format!("/v1/notifications/{id}/queue").into(),
                r#"{"queue":"mail"}"#.into(),
                200,
            ),
            2 => (
                format!("/v1/notifications/{id}/sent").into(),
                message(),
                200,
            ),
            _ => (
                format!("/v1/notifications/{id}/delivered").into(),
                message(),
                200,
            ),
        };
        stage = (stage + 1) % 4;
        Request {
            method: "POST",
            path,
            headers: String::new(),
            body,
            status,
            weight: 1,
        }
    })
}

/// Where a connection's numbers begin: elsewhere in every run, so that no order comes twice.
fn first(worker: u64) -> u64 {
    (Uuid::new_v4().as_u64_pair().0 >> 20) + worker * 10_000_000
}

impl Target {
    /// One command a request, as fast as answers come.
    pub async fn single(&self, connections: u64, duration: Duration) -> Result<Measured> {
        self.closed(connections, duration, singles).await
    }

    /// Many commands a request, as fast as answers come.
    pub async fn bulk(
        &self,
        connections: u64,
        commands: u64,
        duration: Duration,
    ) -> Result<Measured> {
        self.closed(connections, duration, |worker| bulks(worker, commands))
            .await
    }

    async fn closed(
        &self,
        connections: u64,
        duration: Duration,
        requests: impl Fn(u64) -> Requests,
    ) -> Result<Measured> {
        let plan = Plan {
            connections,
            pace: Pace::AsAnswered,
            warm_up: Duration::ZERO,
            duration,
        };
        generator::run(std::slice::from_ref(self), plan, requests).await
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
            bail!(
                "answered {}: {}",
                self.status,
                String::from_utf8_lossy(self.body)
            );
        }
        Ok(self.body)
    }
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.address)
            .await
            .context("connect")?;
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

    /// Sends one request and reads the whole answer, which must be the right one.
    pub async fn send(&mut self, request: &Request) -> Result<()> {
        let Request {
            method,
            path,
            headers,
            body,
            status,
            ..
        } = request;
        let answer = self.call(method, path, headers, body).await?;
        answer.ok(*status).context(*method).map(drop)
    }

    /// Sends one request and reads the whole answer. `headers` are whole lines.
    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<Answer<'_>> {
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
    let length: usize = header(head, "content-length")
        .context("no content-length")?
        .parse()?;
    Ok(Some((status, end, end + 4 + length)))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
