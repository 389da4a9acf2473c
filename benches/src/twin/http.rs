//! A client of the administration listener.
//!
//! Owns one connection that is kept open, and opened again where the broker closed it between two requests. It knows no TLS.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// See the module.
#[derive(Debug)]
pub(super) struct Http {
    target: SocketAddr,
    stream: Option<TcpStream>,
    bytes: Vec<u8>,
}

impl Http {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self { target, stream: None, bytes: Vec::new() }
    }

    /// Asks, and expects to be answered with 200; the answer's body.
    ///
    /// # Errors
    /// When the listener cannot be reached, or answers otherwise.
    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<&[u8]> {
        let mut request = Vec::with_capacity(256 + body.len());
        write!(request, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n")?;
        if !body.is_empty() {
            write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())?;
        }
        request.extend(b"\r\n");
        request.extend(body);
        let is_kept = self.stream.is_some();
        let head = match self.exchange(&request).await {
            // The broker ends each connection after a while, between two requests.
            Err(_) if is_kept && self.bytes.is_empty() => self.exchange(&request).await?,
            other => other?,
        };
        if head.closes {
            self.stream = None;
        }
        let answer = &self.bytes[head.bytes..];
        ensure!(head.status == 200, "{method} {path}: {} {}", head.status, String::from_utf8_lossy(answer));
        Ok(answer)
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Head> {
        self.bytes.clear();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.target).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        let head = loop {
            if let Some(head) = Head::read(&self.bytes)?
                && self.bytes.len() >= head.bytes + head.body_bytes
            {
                break head;
            }
            if stream.read_buf(&mut self.bytes).await? == 0 {
                bail!("the listener closed the connection");
            }
        };
        self.stream = Some(stream);
        Ok(head)
    }
}

/// What is before the body of an answer.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
    closes: bool,
}

impl Head {
    /// `None` asks for more.
    fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end])?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
        let mut head = Self { status, bytes: end + 4, body_bytes: 0, closes: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.body_bytes = value.parse()?,
                "connection" => head.closes = value.eq_ignore_ascii_case("close"),
                "transfer-encoding" => bail!("{value} is not understood"),
                _ => {}
            }
        }
        Ok(Some(head))
    }
}

/// A text as part of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        assert_eq!(Head::read(&text[..30]).unwrap(), None);
        let expected = Head { status: 200, bytes: text.len() - 3, body_bytes: 3, closes: true };
        assert_eq!(Head::read(text).unwrap(), Some(expected));
        assert!(Head::read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn what_has_a_meaning_in_a_query_is_encoded() {
        assert_eq!(encoded("reported.soc < 20"), "reported.soc%20%3C%2020");
    }
}
