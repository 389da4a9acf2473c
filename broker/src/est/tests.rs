//! What the enrolment listener answers, over loopback.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use base64::prelude::{BASE64_STANDARD, Engine};
use causeway_fleet::Vin;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::pki::{self, Access, Issued, Overwrite, Reason, State, Subject};

const VIN: &str = "1M8GDM9AXKP042788";
const OTHER_VIN: &str = "5GZCZ43D13S812715";
const TOKEN: &str = "1M8GDM9AXKP042788.secret";
const ENROL: &str = "simpleenroll";
const RENEW: &str = "simplereenroll";

/// Vehicles and tokens of a test.
#[derive(Default)]
struct Book {
    tokens: Mutex<HashMap<String, Vin>>,
    barred: Mutex<Vec<Vin>>,
    issued: Mutex<Vec<(Vin, String)>>,
}

impl Book {
    fn may(&self, vin: &Vin) -> Result<(), Denied> {
        match self.barred.lock().unwrap().contains(vin) {
            true => Err(Denied::No(format!("{vin} is suspended"))),
            false => Ok(()),
        }
    }
}

impl Enrolments for Book {
    fn check_token(&self, token: &str, _: u64) -> Result<Vin, Denied> {
        self.tokens.lock().unwrap().get(token).copied().ok_or_else(|| Denied::No("of no use".to_owned()))
    }

    fn redeem(&self, token: &str, _: u64) -> Result<Vin, Denied> {
        self.tokens.lock().unwrap().remove(token).ok_or_else(|| Denied::No("of no use".to_owned()))
    }

    fn vehicle_may_enrol(&self, vin: &Vin) -> Result<(), Denied> {
        self.may(vin)
    }

    fn vehicle_may_renew(&self, vin: &Vin, credential: &str) -> Result<(), Denied> {
        assert!(credential.starts_with("x509:"), "{credential}");
        self.may(vin)
    }

    fn issued(&self, vin: &Vin, credential: &str, not_after_ms: u64, now_ms: u64) -> Result<(), Denied> {
        assert!(not_after_ms > now_ms);
        self.issued.lock().unwrap().push((*vin, credential.to_owned()));
        Ok(())
    }
}

/// A broker's enrolment, and a TLS client beside it.
struct World {
    folder: tempfile::TempDir,
    book: Arc<Book>,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// A certificate and its key, as a client shows them.
type Shown<'a> = Option<(&'a Issued, &'a KeyPair)>;

impl World {
    async fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(folder.path(), "Test fleet", 3650, 30, pki::now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = Subject::server(&["localhost".to_owned()]).unwrap();
        let issued = authority.issue(&server, &key, 90, pki::now()).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            pki::write(&path, text.as_bytes(), Access::Owner, Overwrite::Never).unwrap();
            path
        };
        let settings = Enrolment {
            bind: Some("127.0.0.1:0".parse().unwrap()),
            certificate_file: Some(file("server.crt", &issued.pem)),
            key_file: Some(file("server.key", &key.serialize_pem())),
            authority_directory: Some(folder.path().to_owned()),
            ..Enrolment::default()
        };
        let book = Arc::new(Book::default());
        book.tokens.lock().unwrap().insert(TOKEN.to_owned(), VIN.parse().unwrap());
        let server = EnrolmentServer::bind(&settings, book.clone(), Audit::default()).await.unwrap().unwrap();
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        World { folder, book, address, _stop: stop }
    }

    fn authority(&self) -> Authority {
        Authority::open(self.folder.path()).unwrap()
    }

    fn issue(&self, subject: &Subject) -> (Issued, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (self.authority().issue(subject, &key, 90, pki::now()).unwrap(), key)
    }

    async fn ask(&self, request: &str, shown: Shown<'_>) -> Answer {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority().certificate().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            Some((issued, key)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
                builder.with_client_auth_cert(vec![issued.certificate.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET /.well-known/est/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), None)
            .await
    }

    async fn post(&self, path: &str, headers: &str, body: &str, shown: Shown<'_>) -> Answer {
        let length = body.len();
        let request = format!(
            "POST /.well-known/est/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/pkcs10\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        self.ask(&request, shown).await
    }
}

fn basic(user: &str, token: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{user}:{token}")))
}

fn request(name: &str, key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // What is not granted.
    params.subject_alt_names = vec![rcgen::SanType::URI(format!("urn:vin:{OTHER_VIN}").try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    BASE64_STANDARD.encode(params.serialize_request(key).unwrap().der())
}

fn new_request(name: &str) -> String {
    request(name, &KeyPair::generate().unwrap())
}

/// The certificate in the envelope, which the answer says it is.
fn certificate(answer: &Answer) -> CertificateDer<'static> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("content-type: application/pkcs7-mime; smime-type=certs-only"), "{}", answer.head);
    assert!(answer.head.contains("content-transfer-encoding: base64"), "{}", answer.head);
    let der = BASE64_STANDARD.decode(answer.body.lines().collect::<String>()).unwrap();
    // It stands behind the head of the envelope, which is as long for each of these sizes.
    let start =
        (30..60).find(|&start| x509_parser::certificate::X509Certificate::from_der(&der[start..]).is_ok()).unwrap();
    let (rest, _) = x509_parser::certificate::X509Certificate::from_der(&der[start..]).unwrap();
    assert_eq!(rest, [0x31, 0x00]);
    CertificateDer::from(der[start..der.len() - 2].to_vec())
}

fn check_vehicle(certificate: &CertificateDer<'_>, key: &KeyPair) {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    assert_eq!(parsed.subject().to_string(), format!("CN={VIN}"));
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), [format!("URI(urn:vin:{VIN})")]);
    assert!(!parsed.extended_key_usage().unwrap().unwrap().value.server_auth);
    assert_eq!(parsed.public_key().subject_public_key.data, key.public_key_raw());
}

#[tokio::test]
async fn authorities_are_told_to_everybody() {
    let world = World::new().await;
    let answer = world.get("cacerts").await;
    assert_eq!(&certificate(&answer), world.authority().certificate());
    let answer = world.get("csrattrs").await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(world.get("fullcmc").await.status, 404);
    assert_eq!(world.get(ENROL).await.status, 405);
}

#[tokio::test]
async fn a_token_gets_one_certificate_and_that_gets_the_next() {
    let world = World::new().await;
    let key = KeyPair::generate().unwrap();
    let answer = world.post(ENROL, &basic(VIN, TOKEN), &request(VIN, &key), None).await;
    let first = certificate(&answer);
    check_vehicle(&first, &key);
    let index = world.authority().index().unwrap();
    let entry = index.entries().last().unwrap();
    assert_eq!(entry.subject, format!("vehicle:{VIN}"));
    let credential = world.authority().credential(&entry.serial);
    assert_eq!(*world.book.issued.lock().unwrap(), [(VIN.parse().unwrap(), credential)]);

    let answer = world.post(ENROL, &basic(VIN, TOKEN), &request(VIN, &key), None).await;
    assert_eq!(answer.status, 401, "the token is used");
    assert!(answer.head.contains("www-authenticate: basic"), "{}", answer.head);

    let issued =
        Issued { serial: entry.serial.clone(), certificate: first, pem: String::new(), not_after: entry.not_after };
    let next_key = KeyPair::generate().unwrap();
    let answer = world.post(RENEW, "", &request(VIN, &next_key), Some((&issued, &key))).await;
    check_vehicle(&certificate(&answer), &next_key);
    let answer = world.post(RENEW, "", &new_request(OTHER_VIN), Some((&issued, &key))).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(world.book.issued.lock().unwrap().len(), 2);

    world.authority().revoke_serial(&issued.serial, Reason::KeyCompromise, 30, pki::now()).unwrap();
    let answer = world.post(RENEW, "", &request(VIN, &next_key), Some((&issued, &key))).await;
    assert_eq!(answer.status, 401, "{}", answer.body);
    assert!(answer.body.contains("is revoked"), "{}", answer.body);
}

#[tokio::test]
async fn a_refusal_costs_no_token() {
    let world = World::new().await;
    let good = new_request(VIN);
    let wrong_signature = {
        let mut der = BASE64_STANDARD.decode(&good).unwrap();
        let last = der.len() - 1;
        der[last] ^= 1;
        BASE64_STANDARD.encode(der)
    };
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let rows = [
        ("", &good, 401),
        ("Authorization: Negotiate abc\r\n", &good, 401),
        ("Authorization: Basic ?\r\n", &good, 401),
        ("Authorization: Bearer 1M8GDM9AXKP042788.guess\r\n", &good, 401),
        (&basic(OTHER_VIN, TOKEN), &good, 401),
        (&bearer, &new_request(OTHER_VIN), 403),
        (&bearer, &new_request("causewayd"), 403),
        (&bearer, &wrong_signature, 400),
        (&bearer, &"?".to_owned(), 400),
        (&bearer, &String::new(), 400),
        (&bearer, &"A".repeat(crate::pki::REQUEST_BYTES_MAX + 1), 400),
        ("Content-Type: text/plain\r\nAuthorization: Bearer x\r\n", &good, 401),
    ];
    for (headers, body, status) in rows {
        let answer = world.post(ENROL, headers, body, None).await;
        assert_eq!(answer.status, status, "{headers} {body}: {}", answer.body);
    }
    assert!(world.book.issued.lock().unwrap().is_empty());
    assert_eq!(world.authority().index().unwrap().entries().len(), 1, "the server's only");
    let answer = world.post(ENROL, &bearer, &good, None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = world.post(RENEW, &bearer, &good, None).await;
    assert_eq!(answer.status, 401, "a token renews nothing");
}

#[tokio::test]
async fn a_claim_certificate_enrols_vehicles_that_may() {
    let world = World::new().await;
    let (claim, claim_key) = world.issue(&Subject::claim("plant-7").unwrap());
    let shown = Some((&claim, &claim_key));
    let key = KeyPair::generate().unwrap();
    check_vehicle(&certificate(&world.post(ENROL, "", &request(VIN, &key), shown).await), &key);

    assert_eq!(world.post(ENROL, "", &new_request("no-vehicle"), shown).await.status, 403);
    assert_eq!(world.post(RENEW, "", &new_request(VIN), shown).await.status, 403, "it is no vehicle");
    world.book.barred.lock().unwrap().push(VIN.parse().unwrap());
    let answer = world.post(ENROL, "", &new_request(VIN), shown).await;
    assert_eq!((answer.status, answer.body.as_str()), (403, "1M8GDM9AXKP042788 is suspended\n"));

    for subject in
        [Subject::vehicle(OTHER_VIN).unwrap(), Subject::service("ota").unwrap(), Subject::operator("al").unwrap()]
    {
        let (other, other_key) = world.issue(&subject);
        let answer = world.post(ENROL, "", &new_request(OTHER_VIN), Some((&other, &other_key))).await;
        assert_eq!(answer.status, 403, "{subject}");
    }
    let (vehicle, vehicle_key) = world.issue(&Subject::vehicle(VIN).unwrap());
    let answer = world.post(RENEW, "", &new_request(VIN), Some((&vehicle, &vehicle_key))).await;
    assert_eq!(answer.status, 403, "a suspended vehicle renews nothing");

    world
        .authority()
        .revoke_subject(&Subject::claim("plant-7").unwrap(), Reason::KeyCompromise, 30, pki::now())
        .unwrap();
    assert_eq!(world.post(ENROL, "", &new_request(OTHER_VIN), shown).await.status, 401);
    let index = world.authority().index().unwrap();
    assert!(matches!(index.get(&claim.serial).unwrap().state(pki::now()), State::Revoked(_)));
}

#[tokio::test]
async fn who_fails_all_the_time_has_to_wait() {
    let world = World::new().await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(world.post(ENROL, "Authorization: Bearer guess\r\n", "", None).await.status);
        if statuses.last() == Some(&429) {
            break;
        }
    }
    assert_eq!(statuses.iter().filter(|&&status| status == 401).count(), 30);
    let answer = world.post(ENROL, &basic(VIN, TOKEN), &new_request(VIN), None).await;
    assert_eq!(answer.status, 429);
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    assert_eq!(world.get("cacerts").await.status, 200);
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let bind = Some("127.0.0.1:0".parse().unwrap());
    let enrolments = || Arc::new(Book::default());
    let none = EnrolmentServer::bind(&Enrolment::default(), enrolments(), Audit::default()).await.unwrap();
    assert!(none.is_none());
    let failure =
        async |settings: Enrolment| match EnrolmentServer::bind(&settings, enrolments(), Audit::default()).await {
            Ok(_) => panic!("bound"),
            Err(error) => error.to_string(),
        };
    let error = failure(Enrolment { bind, ..Enrolment::default() }).await;
    assert_eq!(error, "enrolment.bind needs enrolment.authority_directory, too");
    let error =
        failure(Enrolment { bind, authority_directory: Some(Path::new("missing").into()), ..Enrolment::default() })
            .await;
    assert!(error.contains("make one with: causewayd pki init missing"), "{error}");
}
