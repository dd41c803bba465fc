//! Calls below the level of a well-behaved client.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::Tenant;
use crate::place::Service;

/// A call whose body has not arrived yet.
#[derive(Debug)]
pub(crate) struct RawCall {
    pub(crate) stream: TcpStream,
    rest: String,
}

/// The head of `POST /v1/notifications` with a body of so many bytes.
pub(crate) fn head(tenant: &Tenant, length: usize, more: &str) -> String {
    format!(
        "POST /v1/notifications HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n",
        tenant.key
    )
}

impl RawCall {
    /// Sends the head and half of the body. Once this returns, the service is reading the body:
    /// it has said so.
    pub(crate) async fn half_way(service: &Service, tenant: &Tenant, body: &str) -> Self {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        let head = head(tenant, body.len(), "Expect: 100-continue\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = [0; CONTINUE.len()];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(said, CONTINUE);
        let (half, rest) = body.split_at(body.len() / 2);
        stream.write_all(half.as_bytes()).await.unwrap();
        Self {
            stream,
            rest: rest.to_owned(),
        }
    }

    pub(crate) async fn send_the_rest(&mut self) {
        self.stream.write_all(self.rest.as_bytes()).await.unwrap();
    }

    /// Whatever comes until the service closes the connection.
    pub(crate) async fn answer(mut self) -> String {
        let mut answer = Vec::new();
        // A connection with unread bytes is reset rather than closed; what came, came.
        let _ = self.stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}
