//! SCRAM-SHA-256 (RFC 5802, RFC 7677): proving to know a password without sending it.
//!
//! Owns the messages and the arithmetic of both ends. Salts, nonces and the secret that hides which users exist come from the
//! caller; nothing here draws a random number. Channel binding (the PLUS variant) is not offered.
//!
//! Each step is a type, so that no message can be taken out of order:
//!
//! ```text
//! client                               server
//! ClientFirst::new       -- first -->  Opening::parse
//! ClientFirst::answer    <- first ---  Opening::challenge
//!                        -- final -->  Challenge::verify
//! ClientFinal::verify    <- final ---
//! ```
//!
//! Names and passwords are not normalised (SASLprep, RFC 4013, leaves ASCII as it is anyway): those with control characters are
//! refused, and others are compared byte by byte, so a client has to send the form that was stored.

mod client;
mod keys;
mod message;
mod server;

pub use client::{ClientFinal, ClientFirst};
pub use keys::{Keys, KeysError};
pub use server::{Challenge, Opening};

use thiserror::Error;

/// The name of the mechanism, as an MQTT 5 Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// The fewest iterations that RFC 7677 allows.
pub const ITERATIONS_MIN: u32 = 4096;

/// The most iterations that a client computes: a server could otherwise keep it busy for hours.
pub const ITERATIONS_MAX: u32 = 10_000_000;

/// Bytes of the longest message either end reads.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScramError {
    /// The message does not follow the grammar of RFC 5802, for this reason.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The message asks for what is not offered.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The peer does not know the password, or there is no such user.
    #[error("wrong user name or password")]
    WrongProof,
}

/// The text, if it is fit to be a user name or password.
fn prepare(text: &str) -> Result<&str, ScramError> {
    match text {
        "" => Err(ScramError::Malformed("an empty name or password")),
        text if text.chars().any(char::is_control) => {
            Err(ScramError::Malformed("a control character in a name or password"))
        }
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7677, section 3.
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    fn keys() -> Keys {
        let salt = [91, 109, 153, 104, 157, 18, 53, 142, 236, 160, 75, 20, 18, 54, 250, 129];
        Keys::derive("pencil", &salt, 4096).unwrap()
    }

    #[test]
    fn server_speaks_the_vector_of_rfc_7677() {
        let opening = Opening::parse(CLIENT_FIRST.as_bytes()).unwrap();
        assert_eq!(opening.user(), "user");
        let (challenge, first) = opening.challenge(&keys(), SERVER_NONCE);
        assert_eq!(first, SERVER_FIRST.as_bytes());
        assert_eq!(challenge.verify(CLIENT_FINAL.as_bytes()), Ok(SERVER_FINAL.as_bytes().to_vec()));
    }

    #[test]
    fn client_speaks_the_vector_of_rfc_7677() {
        let first = ClientFirst::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(first.message(), CLIENT_FIRST.as_bytes());
        let last = first.answer(SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(last.message(), CLIENT_FINAL.as_bytes());
        assert_eq!(last.verify(SERVER_FINAL.as_bytes()), Ok(()));
        assert_eq!(last.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), Err(ScramError::WrongProof));
    }

    fn exchange(user: &str, password: &str, keys: &Keys) -> Result<(), ScramError> {
        let client = ClientFirst::new(user, password, "client-nonce")?;
        let opening = Opening::parse(client.message())?;
        assert_eq!(opening.user(), user);
        let (challenge, first) = opening.challenge(keys, "server-nonce");
        let client = client.answer(&first)?;
        let last = challenge.verify(client.message())?;
        client.verify(&last)
    }

    #[test]
    fn both_ends_agree() {
        for user in ["alice", "a,b", "a=b", "=2C", "Zoë"] {
            let keys = Keys::derive("secret, = secret", b"some salt", ITERATIONS_MIN).unwrap();
            assert_eq!(exchange(user, "secret, = secret", &keys), Ok(()), "{user}");
            assert_eq!(exchange(user, "secret", &keys), Err(ScramError::WrongProof), "{user}");
        }
    }

    #[test]
    fn an_unknown_user_looks_like_a_known_one() {
        let mimic = Keys::mimic(b"server secret", "nobody", ITERATIONS_MIN);
        assert_eq!(mimic, Keys::mimic(b"server secret", "nobody", ITERATIONS_MIN), "the same at each attempt");
        assert_ne!(mimic.salt(), Keys::mimic(b"server secret", "somebody", ITERATIONS_MIN).salt());
        assert_ne!(mimic.salt(), Keys::mimic(b"another secret", "nobody", ITERATIONS_MIN).salt());
        assert_eq!(exchange("nobody", "pencil", &mimic), Err(ScramError::WrongProof));
    }

    #[test]
    fn bad_client_first_messages_are_refused() {
        use ScramError::*;
        let rows: [(&[u8], ScramError); 14] = [
            (b"", Malformed("")),
            (b"n,,", Malformed("")),
            (b"n,,r=abc", Malformed("")),
            (b"n,,n=,r=abc", Malformed("")),
            (b"n,,n=user", Malformed("")),
            (b"n,,n=user,r=", Malformed("")),
            (b"n,,n=user,r=a\x7f", Malformed("")),
            (b"n,,n=us=er,r=abc", Malformed("")),
            (b"n,,n=us\ner,r=abc", Malformed("")),
            (b"x,,n=user,r=abc", Malformed("")),
            (b"n,,n=\xff,r=abc", Malformed("")),
            (b"p=tls-unique,,n=user,r=abc", Unsupported("")),
            (b"n,,m=1,n=user,r=abc", Unsupported("")),
            (b"n,a=admin,n=user,r=abc", Unsupported("")),
        ];
        for (message, expected) in rows {
            let error = Opening::parse(message).err();
            let shown = String::from_utf8_lossy(message).into_owned();
            assert_eq!(error.as_ref().map(std::mem::discriminant), Some(std::mem::discriminant(&expected)), "{shown}");
        }
        assert!(Opening::parse(&vec![b'a'; MESSAGE_BYTES_MAX + 1]).is_err());
        for message in [&b"y,,n=user,r=abc"[..], b"n,a=user,n=user,r=abc", b"n,,n=user,r=abc,x=extension"] {
            assert!(Opening::parse(message).is_ok());
        }
    }

    #[test]
    fn bad_client_final_messages_are_refused() {
        let good = CLIENT_FINAL;
        let rows = [
            String::new(),
            good.replace("c=biws", "c=eSws"),
            good.replace("rOprNG", "rOprNH"),
            good.replace(",p=", ",q="),
            good.replace("p=dHzb", "p=dHz"),
            good.replace("p=dHzb", "p=eHzb"),
            good.replace("c=biws,", ""),
        ];
        for message in rows {
            let (challenge, _) = Opening::parse(CLIENT_FIRST.as_bytes()).unwrap().challenge(&keys(), SERVER_NONCE);
            assert!(challenge.verify(message.as_bytes()).is_err(), "{message}");
        }
    }

    #[test]
    fn a_client_refuses_bad_challenges() {
        let rows = [
            "",
            "r=other-nonce,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=999999999",
            "r=rOprNGfwEbeRWgbNEkqOx,s=?,i=4096",
            "m=1,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        ];
        for message in rows {
            let client = ClientFirst::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO").unwrap();
            assert!(client.answer(message.as_bytes()).is_err(), "{message}");
        }
    }
}
