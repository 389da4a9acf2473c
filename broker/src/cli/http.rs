//! Requests to the administration listener of a broker that runs.
//!
//! Owns one request on one connection, over TCP or TLS, and streams of events. It knows no more of HTTP than the broker's own answers need.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A broker that does not even take the question.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream says at least every 15 seconds that it lives.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
/// The most that is read of a broker's answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// The most that is read of what stands before a stream.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What a broker is shown.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Credentials {
    /// The file of the token to show, as `causewayd admin-token` printed it
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// PEM file: the authority of the listener's certificate, for https
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// PEM file: an operator's certificate to show
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) certificate: Option<PathBuf>,
    /// PEM file: the key of the certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(super) key: Option<PathBuf>,
}

/// A listener, and how to speak with it.
pub(super) struct Client {
    url: String,
    /// Name and port.
    host: String,
    token: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) method: &'a str,
    /// The path, and the query.
    pub(super) target: &'a str,
    /// Beside those that every request has: names and values.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) bytes: Vec<u8>,
}

impl Reply {
    /// The body as text.
    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// What is answered.
    ///
    /// # Errors
    /// What does not go, and why.
    pub(super) fn json(&self) -> anyhow::Result<serde_json::Value> {
        match self.status {
            200..=299 => Ok(serde_json::from_slice(&self.bytes).unwrap_or_default()),
            _ => Err(self.refusal()),
        }
    }

    /// What does not go, and why.
    pub(super) fn refusal(&self) -> anyhow::Error {
        match self.status {
            401 => anyhow!("the broker wants to know who asks: {} (--token-file or --certificate)", self.detail()),
            _ => anyhow!("{}", self.detail()),
        }
    }

    /// What the broker says about what did not go.
    pub(super) fn detail(&self) -> String {
        let problem: Option<serde_json::Value> = serde_json::from_slice(&self.bytes).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        detail.map_or_else(|| self.body().trim().to_owned(), str::to_owned)
    }
}

/// A connection, encrypted or not.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

impl Client {
    /// For the listener at a URL.
    ///
    /// # Errors
    /// The URL is none, or a file is none.
    pub(super) fn new(url: &str, credentials: &Credentials) -> anyhow::Result<Client> {
        let no_url = || format!("{url} is no URL of an administration listener, such as http://127.0.0.1:9883");
        let (is_https, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, url),
        };
        let host = rest.trim_end_matches('/');
        if host.is_empty() || host.contains('/') {
            bail!(no_url());
        }
        let host = match (host.rsplit_once(':'), is_https) {
            (Some((_, port)), _) if port.parse::<u16>().is_ok() => host.to_owned(),
            (_, true) => format!("{host}:443"),
            (_, false) => format!("{host}:80"),
        };
        let token = credentials.token_file.as_deref().map(read_token).transpose()?;
        let tls = if is_https { Some(tls_config(credentials)?) } else { None };
        Ok(Client { url: url.to_owned(), host, token, tls })
    }

    /// Asks with JSON, and waits for the answer for as long as it takes.
    ///
    /// # Errors
    /// There is no answer. One that says no is none of them.
    pub(super) fn ask(&self, method: &str, target: &str, body: Option<&str>) -> anyhow::Result<Reply> {
        let headers = &[("Content-Type", "application/json")];
        self.send(&Question { method, target, headers, body: body.unwrap_or_default().as_bytes() })
    }

    /// Asks whatever is to be asked, likewise.
    ///
    /// # Errors
    /// As above.
    pub(super) fn send(&self, question: &Question<'_>) -> anyhow::Result<Reply> {
        let (stream, _) = self.connect()?;
        let answer = exchange(stream, &self.request("HTTP/1.1", question)).with_context(|| self.url.clone())?;
        read_reply(&answer).with_context(|| self.no_http())
    }

    /// A stream of events; or what is answered instead.
    ///
    /// # Errors
    /// As above.
    pub(super) fn follow(&self, target: &str) -> anyhow::Result<Result<Box<dyn BufRead>, Reply>> {
        let (mut stream, socket) = self.connect()?;
        socket.set_read_timeout(Some(STREAM_TIMEOUT))?;
        let headers = &[("Accept", "text/event-stream")];
        // In this version, the body is what comes until the end.
        let request = self.request("HTTP/1.0", &Question { method: "GET", target, headers, body: &[] });
        stream.write_all(&request).and_then(|()| stream.flush()).with_context(|| self.url.clone())?;
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
            let read = reader.by_ref().take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut head);
            if read.with_context(|| self.url.clone())? == 0 {
                break;
            }
        }
        if head.split(|byte| *byte == b' ').nth(1) == Some(b"200") {
            return Ok(Ok(Box::new(reader)));
        }
        reader.take(ANSWER_BYTES_MAX).read_to_end(&mut head).with_context(|| self.url.clone())?;
        read_reply(&head).with_context(|| self.no_http()).map(Err)
    }

    fn no_http(&self) -> String {
        format!("{} does not speak HTTP", self.url)
    }

    /// A connection, and its socket.
    fn connect(&self) -> anyhow::Result<(Box<dyn Stream>, TcpStream)> {
        let resolved = self.host.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = resolved.with_context(|| format!("{} is no URL of an administration listener", self.url))?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).with_context(|| self.url.clone())?;
        let socket = stream.try_clone()?;
        let Some(config) = &self.tls else { return Ok((Box::new(stream), socket)) };
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).context("the URL's host")?;
        let session = ClientConnection::new(config.clone(), name)?;
        Ok((Box::new(StreamOwned::new(session, stream)), socket))
    }

    fn request(&self, version: &str, question: &Question<'_>) -> Vec<u8> {
        let Question { method, target, headers, body } = question;
        let (host, length) = (&self.host, body.len());
        let mut head = format!("{method} {target} {version}\r\nHost: {host}\r\nContent-Length: {length}\r\n");
        let token = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let token = token.as_deref().map(|token| ("Authorization", token));
        for (name, value) in headers.iter().copied().chain(token).chain([("Connection", "close")]) {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        [head.as_bytes(), body].concat()
    }
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let token = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let token = token.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        bail!("{} has to hold one token and nothing else", path.display());
    }
    Ok(token.to_owned())
}

fn tls_config(credentials: &Credentials) -> anyhow::Result<Arc<ClientConfig>> {
    let authorities =
        credentials.ca.as_deref().context("https needs --ca: the authority of the listener's certificate")?;
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(authorities)? {
        roots.add(certificate).with_context(|| authorities.display().to_string())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&credentials.certificate, &credentials.key) {
        (Some(certificate), Some(key)) => {
            let key_der = PrivateKeyDer::from_pem_file(key);
            let key = key_der.with_context(|| format!("{} holds no private key in PEM form", key.display()))?;
            builder.with_client_auth_cert(read_certificates(certificate)?, key)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn read_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let none = || format!("{} holds no certificate in PEM form", path.display());
    let certificates = CertificateDer::pem_file_iter(path).with_context(none)?.collect::<Result<Vec<_>, _>>();
    let certificates = certificates.with_context(none)?;
    if certificates.is_empty() { bail!(none()) } else { Ok(certificates) }
}

/// Everything that is answered, up to the end of the connection or of what its head promises.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 8192]);
    while !is_complete(&answer) && (answer.len() as u64) < ANSWER_BYTES_MAX {
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(answer)
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]))
}

fn is_complete(answer: &[u8]) -> bool {
    let Some((head, body)) = split(answer) else { return false };
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

fn read_reply(answer: &[u8]) -> anyhow::Result<Reply> {
    let (head, body) = split(answer).context("the answer breaks off")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("there is no status")?;
    Ok(Reply { status, head: head.to_owned(), bytes: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_what_they_are() {
        let host = |url: &str| Client::new(url, &Credentials::default()).map(|client| client.host);
        assert_eq!(host("http://127.0.0.1:9883/").unwrap(), "127.0.0.1:9883");
        assert_eq!(host("localhost:9883").unwrap(), "localhost:9883");
        assert_eq!(host("http://[::1]:9883").unwrap(), "[::1]:9883");
        assert_eq!(host("http://broker").unwrap(), "broker:80");
        assert!(host("http://broker/metrics").is_err() && host("").is_err());
        assert!(host("https://broker").unwrap_err().to_string().contains("--ca"));
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let answer = b"HTTP/1.1 409 Conflict\r\ncontent-length: 14\r\n\r\n{\"detail\":\"a\"}";
        assert!(is_complete(answer) && !is_complete(&answer[..answer.len() - 1]));
        let reply = read_reply(answer).unwrap();
        assert_eq!((reply.status, reply.detail().as_str()), (409, "a"));
        assert_eq!((reply.header("Content-Length"), reply.header("ETag")), (Some("14"), None));
        assert!(read_reply(b"SSH-2.0").is_err());
    }
}
