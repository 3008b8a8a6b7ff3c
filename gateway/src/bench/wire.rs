//! A connection of the load client: HTTP/1.1, one request at a time, as little work as possible.
//!
//! Client, node and database share the cores, so what the client spends is missing from what it measures.
//! It sends bytes that were built before and looks at no more of an answer than its status, its length and
//! its body. Not a client for anything else: no TLS, no chunks, no redirects.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Fields that the head of an answer may have.
const FIELDS_MAX: usize = 64;
/// Most answers fit.
const BUFFER: usize = 4 * 1024;
/// Larger ones are not read by the load client: the metrics of a node have 100 kB.
const BUFFER_MAX: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed or was closed.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// Not the HTTP that this client knows.
    #[error("the answer is not understood: {0}")]
    Strange(&'static str),
}

/// An answer; its body lies in the buffer of the connection.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    authority: String,
    stream: TcpStream,
    buffer: Vec<u8>,
    is_open: bool,
}

/// What matters of the head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// In bytes, with the empty line.
    length: usize,
    body: usize,
    is_last: bool,
}

impl Connection {
    /// Connects. `authority`: host and port.
    pub async fn open(authority: &str) -> io::Result<Self> {
        let stream = connect(authority).await?;
        Ok(Self { authority: authority.to_owned(), stream, buffer: vec![0; BUFFER], is_open: true })
    }

    /// Sends a request and reads the answer to its end. Connects anew where the last one broke.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, WireError> {
        if !self.is_open {
            self.stream = connect(&self.authority).await?;
        }
        // Until the answer is read, whatever happens leaves the connection of no use.
        self.is_open = false;
        self.stream.write_all(request).await?;
        let head = self.read().await?;
        self.is_open = !head.is_last;
        Ok(Answer { status: head.status, body: &self.buffer[head.length..head.length + head.body] })
    }

    async fn read(&mut self) -> Result<Head, WireError> {
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                if filled >= BUFFER_MAX {
                    return Err(WireError::Strange("it is too long"));
                }
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            filled += read;
            let Some(head) = head(&self.buffer[..filled])? else { continue };
            let end = head.length + head.body;
            if filled > end {
                return Err(WireError::Strange("something follows it"));
            }
            self.buffer.resize(self.buffer.len().max(end), 0);
            self.stream.read_exact(&mut self.buffer[filled..end]).await?;
            return Ok(head);
        }
    }
}

async fn connect(authority: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `None`: its end has not come yet.
fn head(bytes: &[u8]) -> Result<Option<Head>, WireError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(WireError::Strange("it is not HTTP/1.1")),
    };
    let status = response.code.ok_or(WireError::Strange("it has no status"))?;
    let field = |name: &str| {
        let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    let is_last = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let body = match field("content-length").map(str::parse) {
        Some(Ok(body)) => body,
        Some(Err(_)) | None if status == 204 || status == 304 => 0,
        Some(Err(_)) | None => return Err(WireError::Strange("it does not say how long it is")),
    };
    Ok(Some(Head { status, length, body, is_last }))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_is_understood_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: close\r\n\r\nhello";
        for cut in 0..text.len() - 5 {
            assert_eq!(head(&text[..cut]).expect("no error"), None, "{cut}");
        }
        let whole = Head { status: 200, length: text.len() - 5, body: 5, is_last: true };
        assert_eq!(head(text).expect("no error"), Some(whole));
        let empty = head(b"HTTP/1.1 204 No Content\r\n\r\n").expect("no error").expect("whole");
        assert_eq!((empty.body, empty.is_last), (0, false));
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(head(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn answers_in_pieces_are_put_together_and_a_closed_connection_is_opened_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let authority = listener.local_addr().expect("an address").to_string();
        let server = tokio::spawn(async move {
            for turn in 0..2 {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 4];
                stream.read_exact(&mut request).await.expect("a request");
                let body = "x".repeat(10_000);
                let head =
                    format!("HTTP/1.1 20{turn} Fine\r\nContent-Length: 10000\r\nConnection: close\r\n\r\n");
                for piece in (head + &body).as_bytes().chunks(3_000) {
                    stream.write_all(piece).await.expect("sent");
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut connection = Connection::open(&authority).await.expect("connects");
        for turn in 0..2 {
            let answer = connection.exchange(b"ping").await.expect("an answer");
            assert_eq!((answer.status, answer.body.len()), (200 + turn, 10_000));
            assert!(answer.body.iter().all(|byte| *byte == b'x'));
        }
        server.await.expect("ends");
        assert!(matches!(connection.exchange(b"ping").await, Err(WireError::Broken(_))));
    }
}
