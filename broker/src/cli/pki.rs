//! `causewayd pki`: the certificates of a fleet, from an authority of its own.
//!
//! Owns the command line and where its files go. What is signed, and how, is decided in [`crate::pki`].

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rcgen::KeyPair;

use crate::pki::{
    Access, Authority, Entry, Issued, Overwrite, PkiError, Reason, Request, State, Subject, now, stamp, write,
};

/// The longest time that anything is made for: certificates cannot tell of times after the year 9999.
const DAYS_MAX: i64 = 36_500;

#[derive(Debug, Args)]
#[command(after_help = "\
The folder is the authority: whoever reads DIR/ca.key can make certificates for every vehicle. Keep a copy where nobody else gets at it.

Examples:
  causewayd pki init pki                                  a new authority
  causewayd pki server pki --name mqtt.fleet.example      a certificate and key for the broker
  causewayd pki vehicle pki 1M8GDM9AXKP042788             for a vehicle
  causewayd pki vehicle pki 1M8GDM9AXKP042788 --request tcu.csr
                                                          for a vehicle that keeps its key
  causewayd pki service pki telemetry                     for a backend application
  causewayd pki revoke pki --vehicle 1M8GDM9AXKP042788 --reason key-compromise
  causewayd pki crl pki                                   write the list of revoked ones anew

In the broker's configuration, DIR/ca.crt is client_ca_file of [listener.tls], and DIR/servers/NAME.crt and .key are its
certificate_file and key_file.")]
pub(super) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an authority: a key, its certificate, and an empty list of revoked certificates
    #[command(after_help = "\
Example:
  causewayd pki init /etc/causeway/pki --name 'ACME fleet'")]
    Init {
        /// The folder; it is made if it is missing
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// What the authority is called in its certificates
        #[arg(long, default_value = "Causeway fleet authority")]
        name: String,
        /// How long it is good for, and with it everything that it signs
        #[arg(long, default_value_t = 3650, value_parser = days())]
        days: u32,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Make a certificate for a broker
    #[command(after_help = "\
Example:
  causewayd pki server /etc/causeway/pki --name mqtt.fleet.example --name 10.0.0.1")]
    Server {
        /// The authority's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// A name or address that clients connect to; the first one names the files, too
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
        /// How long it is good for
        #[arg(long, default_value_t = 365, value_parser = days())]
        days: u32,
        #[command(flatten)]
        make: MakeOptions,
    },
    /// Make a certificate for a vehicle: common name VIN, alternative name urn:vin:VIN
    #[command(after_help = "\
A vehicle that makes its own key asks for its certificate by EST instead (section [enrolment] of the configuration), or hands over a \
request: --request.

Example:
  causewayd pki vehicle /etc/causeway/pki 1M8GDM9AXKP042788 --request tcu.csr")]
    Vehicle {
        /// The authority's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Its vehicle identification number
        vin: String,
        /// How long it is good for
        #[arg(long, default_value_t = 365, value_parser = days())]
        days: u32,
        #[command(flatten)]
        make: MakeOptions,
    },
    /// Make a certificate for a backend application: alternative name urn:causeway:service:NAME
    Service(Named<365>),
    /// Make a certificate for a person who operates the fleet: alternative name urn:causeway:operator:NAME
    Operator(Named<90>),
    /// Make a claim certificate, with which a factory enrols new vehicles: alternative name urn:causeway:claim:NAME
    #[command(after_help = "\
It opens no MQTT connection: all it can do is ask for the certificates of vehicles that are provisioned.

Example:
  causewayd pki claim /etc/causeway/pki --name plant-7 --days 14")]
    Claim {
        /// The authority's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// What it is called
        #[arg(long, default_value = "factory")]
        name: String,
        /// How long it is good for
        #[arg(long, default_value_t = 30, value_parser = days())]
        days: u32,
        #[command(flatten)]
        make: MakeOptions,
    },
    /// Revoke certificates, by serial number or all of somebody's, and list them in DIR/crl.pem
    #[command(after_help = "\
Examples:
  causewayd pki revoke /etc/causeway/pki 5f0c1d2e3a4b5c6d7e8f90a1b2c3d4e5
  causewayd pki revoke /etc/causeway/pki --vehicle 1M8GDM9AXKP042788 --reason key-compromise")]
    Revoke(Revoke),
    /// Write the list of revoked certificates, DIR/crl.pem, anew
    #[command(after_help = "\
A list says until when it is good. Write it anew before, even if nothing was revoked: from a timer, every night.

Example:
  causewayd pki crl /etc/causeway/pki --list-days 7")]
    Crl {
        /// The authority's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Print what was issued: serial number, subject, state, and until when it is good
    List {
        /// The authority's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Leave out what expired or was revoked
        #[arg(long)]
        valid: bool,
    },
}

/// A certificate for somebody with a name, good for so many days if nothing is said.
#[derive(Debug, Args)]
struct Named<const DAYS: u32> {
    /// The authority's folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The name
    name: String,
    /// How long it is good for
    #[arg(long, default_value_t = DAYS, value_parser = days())]
    days: u32,
    #[command(flatten)]
    make: MakeOptions,
}

#[derive(Debug, Args)]
struct MakeOptions {
    /// Sign the key of this request (PKCS #10, PEM) instead of making one; of its subject, only a vehicle's VIN is compared
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Replace files that are there; the certificate in them stays good until it is revoked
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct ListOptions {
    /// How long the list of revoked certificates is good for
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = days())]
    list_days: u32,
}

#[derive(Debug, Args)]
struct Revoke {
    /// The authority's folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    whose: Whose,
    /// Why
    #[arg(long, value_enum, default_value_t)]
    reason: Reason,
    #[command(flatten)]
    list: ListOptions,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// The serial number of one certificate, in hexadecimal digits
    serial: Option<String>,
    /// All certificates of this vehicle
    #[arg(long, value_name = "VIN")]
    vehicle: Option<String>,
    /// All certificates of this backend application
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// All certificates of this person
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// All claim certificates of this name
    #[arg(long, value_name = "NAME")]
    claim: Option<String>,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=DAYS_MAX)
}

pub(super) fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let now = now();
    match &options.action {
        Action::Init { folder, name, days, list } => {
            let authority = Authority::init(folder, name, *days, list.list_days, now)?;
            writeln!(out, "made the authority {name:?}, good until {}", stamp(authority.not_after()))?;
            writeln!(out, "  certificate  {}", Authority::certificate_path(folder).display())?;
            writeln!(out, "  revoked      {}", Authority::crl_path(folder).display())?;
        }
        Action::Server { folder, names, days, make } => make.run(folder, &Subject::server(names)?, *days, now, out)?,
        Action::Vehicle { folder, vin, days, make } => make.run(folder, &Subject::vehicle(vin)?, *days, now, out)?,
        Action::Service(named) => named.run(&Subject::service(&named.name)?, now, out)?,
        Action::Operator(named) => named.run(&Subject::operator(&named.name)?, now, out)?,
        Action::Claim { folder, name, days, make } => make.run(folder, &Subject::claim(name)?, *days, now, out)?,
        Action::Revoke(revoke) => revoke.run(now, out)?,
        Action::Crl { folder, list } => {
            let number = Authority::open(folder)?.write_crl(list.list_days, now)?;
            writeln!(out, "wrote list {number}: {}", Authority::crl_path(folder).display())?;
        }
        Action::List { folder, valid } => {
            for entry in Authority::open(folder)?.index()?.entries() {
                if !valid || entry.state(now) == State::Valid {
                    print(entry, now, out)?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl<const DAYS: u32> Named<DAYS> {
    fn run(&self, subject: &Subject, now: i64, out: &mut dyn Write) -> anyhow::Result<()> {
        self.make.run(&self.folder, subject, self.days, now, out)
    }
}

impl MakeOptions {
    fn run(&self, folder: &Path, subject: &Subject, days: u32, now: i64, out: &mut dyn Write) -> anyhow::Result<()> {
        let authority = Authority::open(folder)?;
        let base = folder.join(subject.folder()).join(subject.file_name());
        // A dot in the name is no extension.
        let with = |extension: &str| PathBuf::from(format!("{}.{extension}", base.display()));
        let (certificate, key) = (with("crt"), with("key"));
        let overwrite = if self.force { Overwrite::Replace } else { Overwrite::Never };
        // Before a certificate is issued in vain.
        for path in [&certificate, &key] {
            if !self.force && path.symlink_metadata().is_ok() {
                return Err(PkiError::Exists { path: path.clone() }.into());
            }
        }
        let issued = match &self.request {
            Some(file) => {
                let request = read_request(file, subject)?;
                authority.issue(subject, request.key(), days, now)?
            }
            None => {
                let pair = KeyPair::generate().context("cannot make a key")?;
                write(&key, pair.serialize_pem().as_bytes(), Access::Owner, overwrite)?;
                authority.issue(subject, &pair, days, now)?
            }
        };
        write(&certificate, issued.pem.as_bytes(), Access::Everybody, overwrite)?;
        self.tell(subject, &issued, &certificate, &key, out)?;
        Ok(())
    }

    fn tell(
        &self,
        subject: &Subject,
        issued: &Issued,
        certificate: &Path,
        key: &Path,
        out: &mut dyn Write,
    ) -> std::io::Result<()> {
        writeln!(out, "issued {subject}, serial number {}, good until {}", issued.serial, stamp(issued.not_after))?;
        writeln!(out, "  certificate  {}", certificate.display())?;
        match &self.request {
            Some(_) => Ok(()),
            None => writeln!(out, "  key          {}", key.display()),
        }
    }
}

fn read_request(file: &Path, subject: &Subject) -> anyhow::Result<Request> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let request = Request::from_text(&text).with_context(|| file.display().to_string())?;
    if let Subject::Vehicle(vin) = subject
        && request.common_name() != vin.as_str()
    {
        bail!("{} is the request of {:?}, not of {vin}", file.display(), request.common_name());
    }
    Ok(request)
}

impl Revoke {
    fn run(&self, now: i64, out: &mut dyn Write) -> anyhow::Result<()> {
        let authority = Authority::open(&self.folder)?;
        let (days, reason) = (self.list.list_days, self.reason);
        let revoked = match (&self.whose.serial, self.whose.subject()?) {
            (Some(serial), _) => authority.revoke_serial(serial, reason, days, now)?,
            (None, Some(subject)) => authority.revoke_subject(&subject, reason, days, now)?,
            (None, None) => bail!("say what to revoke: a serial number, or --vehicle VIN"),
        };
        for before in &revoked {
            match before.revoked {
                None => writeln!(out, "revoked {} of {} ({})", before.serial, before.subject, reason.word())?,
                Some(then) => {
                    writeln!(out, "{} of {} was revoked before, at {}", before.serial, before.subject, stamp(then.at))?;
                }
            }
        }
        writeln!(out, "  list  {}", Authority::crl_path(&self.folder).display())?;
        Ok(())
    }
}

impl Whose {
    fn subject(&self) -> Result<Option<Subject>, PkiError> {
        let Whose { serial: _, vehicle, service, operator, claim } = self;
        if let Some(vin) = vehicle {
            return Subject::vehicle(vin).map(Some);
        }
        if let Some(name) = service {
            return Subject::service(name).map(Some);
        }
        if let Some(name) = operator {
            return Subject::operator(name).map(Some);
        }
        claim.as_deref().map(Subject::claim).transpose()
    }
}

fn print(entry: &Entry, now: i64, out: &mut dyn Write) -> std::io::Result<()> {
    let state = match entry.state(now) {
        State::Valid => format!("valid until {}", stamp(entry.not_after)),
        State::Expired => format!("expired at {}", stamp(entry.not_after)),
        State::Revoked(revoked) => format!("revoked at {} ({})", stamp(revoked.at), revoked.reason.word()),
    };
    writeln!(out, "{}  {:<25}  {state}", entry.serial, entry.subject)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn said(folder: &Path, line: &str) -> Result<String, String> {
        let line = line.replace("DIR", folder.to_str().unwrap());
        let parsed =
            Line::try_parse_from(["pki"].into_iter().chain(line.split(' '))).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        match run(&parsed.options, &mut out) {
            Ok(_) => Ok(String::from_utf8(out).unwrap()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn a_fleet_gets_its_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        let error = said(&pki, "list DIR").unwrap_err();
        assert!(error.contains("make one with: causewayd pki init"), "{error}");

        assert!(
            said(&pki, "init DIR").unwrap().starts_with("made the authority \"Causeway fleet authority\", good until ")
        );
        let error = said(&pki, "init DIR").unwrap_err();
        assert!(error.contains("there is an authority in this folder already"), "{error}");

        assert!(said(&pki, "server DIR --name localhost --name ::1").unwrap().contains("servers/localhost.crt"));
        assert!(said(&pki, &format!("vehicle DIR {VIN}")).unwrap().contains(&format!("vehicles/{VIN}.key")));
        assert!(said(&pki, "service DIR ota.v1").unwrap().contains("services/ota.v1.crt"));
        said(&pki, "operator DIR alice --days 1").unwrap();
        said(&pki, "claim DIR").unwrap();
        for key in
            ["ca.key", "servers/localhost.key", "services/ota.v1.key", "operators/alice.key", "claims/factory.key"]
        {
            assert_eq!(fs::metadata(pki.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }

        let error = said(&pki, &format!("vehicle DIR {VIN}")).unwrap_err();
        assert!(error.contains("give --force to replace it"), "{error}");
        said(&pki, &format!("vehicle DIR {VIN} --force")).unwrap();

        let list = said(&pki, "list DIR").unwrap();
        assert_eq!(list.lines().count(), 6);
        assert_eq!(list.lines().filter(|line| line.contains(&format!("  vehicle:{VIN} "))).count(), 2);
        assert!(list.lines().all(|line| line.contains("  valid until ")));
    }

    #[test]
    fn what_is_revoked_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path();
        said(pki, "init DIR").unwrap();
        said(pki, &format!("vehicle DIR {VIN}")).unwrap();
        said(pki, "service DIR ota").unwrap();
        let list = said(pki, "list DIR").unwrap();
        let serial = list.lines().find(|line| line.contains("service:ota")).unwrap().split(' ').next().unwrap();

        let told = said(pki, &format!("revoke DIR --vehicle {VIN} --reason key-compromise")).unwrap();
        assert!(told.contains(&format!("of vehicle:{VIN} (key-compromise)")), "{told}");
        let told = said(pki, &format!("revoke DIR --vehicle {VIN}")).unwrap();
        assert!(told.contains("was revoked before"), "{told}");
        said(pki, &format!("revoke DIR {}", serial.to_uppercase())).unwrap();
        for wrong in ["revoke DIR 00", "revoke DIR --service other"] {
            let error = said(pki, wrong).unwrap_err();
            assert!(error.contains("issued nothing to revoke for"), "{error}");
        }
        for wrong in ["revoke DIR", "revoke DIR 00 --service ota", "revoke DIR --vehicle x", "crl DIR --list-days 0"] {
            assert!(said(pki, wrong).is_err(), "{wrong}");
        }
        assert_eq!(said(pki, "list DIR --valid").unwrap(), "");
        assert!(said(pki, "crl DIR").unwrap().starts_with("wrote list 5:"));
    }

    #[test]
    fn a_request_keeps_the_key_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path();
        said(pki, "init DIR").unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, VIN);
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        fs::write(pki.join("tcu.csr"), request).unwrap();

        let told = said(pki, &format!("vehicle DIR {VIN} --request DIR/tcu.csr")).unwrap();
        assert!(!told.contains(".key"), "{told}");
        assert!(!pki.join("vehicles").join(format!("{VIN}.key")).exists());
        let error = said(pki, "vehicle DIR 5GZCZ43D13S812715 --request DIR/tcu.csr").unwrap_err();
        assert!(error.contains(&format!("is the request of \"{VIN}\", not of 5GZCZ43D13S812715")), "{error}");
    }
}
