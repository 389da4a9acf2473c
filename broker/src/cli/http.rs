//! Requests to the administration listener of a broker that runs.
//!
//! Owns one request on one connection, over TCP or TLS. It knows no more of HTTP than the broker's own answers need.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A broker that does not even take the question.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read of a broker's answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

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

/// What was answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Reply {
    /// What the broker says about what did not go.
    pub(super) fn detail(&self) -> String {
        let problem: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        detail.unwrap_or(self.body.trim()).to_owned()
    }
}

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

    /// Asks, and waits for the answer for as long as it takes.
    ///
    /// # Errors
    /// There is no answer. One that says no is none of them.
    pub(super) fn ask(&self, method: &str, target: &str, body: Option<&str>) -> anyhow::Result<Reply> {
        let resolved = self.host.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = resolved.with_context(|| format!("{} is no URL of an administration listener", self.url))?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).with_context(|| self.url.clone())?;
        let request = self.request(method, target, body);
        let answer = match &self.tls {
            None => exchange(stream, &request),
            Some(config) => {
                let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).context("the URL's host")?;
                let session = ClientConnection::new(config.clone(), name)?;
                exchange(StreamOwned::new(session, stream), &request)
            }
        };
        read_reply(&answer.with_context(|| self.url.clone())?)
            .with_context(|| format!("{} does not speak HTTP", self.url))
    }

    fn request(&self, method: &str, target: &str, body: Option<&str>) -> String {
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let body = body.unwrap_or_default();
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.host,
            body.len()
        )
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
fn exchange(mut stream: impl Read + Write, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
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
    Ok(Reply { status, body: String::from_utf8_lossy(body).into_owned() })
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
        assert!(read_reply(b"SSH-2.0").is_err());
    }
}
