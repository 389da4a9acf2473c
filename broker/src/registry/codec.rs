//! How the registry's entries are written.
//!
//! Owns keys and values, byte for byte, and their version. It never decides what may stand in them.
//!
//! A key begins with a letter for its kind. A value begins with the version of its kind; numbers are little-endian, a text is its length in
//! two bytes and then its UTF-8, a time is milliseconds since 1970. See `docs/storage-format.md`.

use causeway_fleet::Vin;

/// The first byte of every value.
const VERSION: u8 = 1;
/// The entry that says which format the file has.
pub(super) const FORMAT_KEY: &[u8] = b"!format";
/// Its value.
pub(super) const FORMAT: &[u8] = b"causeway registry 1";

/// Kinds of entries, by the first letter of their keys.
pub(super) mod kind {
    pub(in crate::registry) const BAN: u8 = b'b';
    pub(in crate::registry) const CREDENTIAL: u8 = b'c';
    pub(in crate::registry) const GROUP: u8 = b'g';
    pub(in crate::registry) const MEMBER: u8 = b'm';
    pub(in crate::registry) const HOLDER: u8 = b'p';
    pub(in crate::registry) const TOKEN: u8 = b't';
    pub(in crate::registry) const VEHICLE: u8 = b'v';
}

/// The key of something that has a name.
pub(super) fn key(kind: u8, name: &str) -> Vec<u8> {
    [&[kind], name.as_bytes()].concat()
}

/// The key that says that `second` belongs to `first`.
pub(super) fn pair_key(kind: u8, first: &str, second: &str) -> Vec<u8> {
    [&[kind], first.as_bytes(), &[0], second.as_bytes()].concat()
}

/// What stands behind the kind, and behind the zero of a pair.
pub(super) fn name_of<'a>(key: &'a [u8], first: Option<&str>) -> Option<&'a str> {
    let name = key.get(1 + first.map_or(0, |first| first.len() + 1)..)?;
    std::str::from_utf8(name).ok()
}

/// Writes a value.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Writer {
        Writer(vec![VERSION])
    }

    pub(super) fn byte(mut self, byte: u8) -> Writer {
        self.0.push(byte);
        self
    }

    pub(super) fn number(mut self, number: u64) -> Writer {
        self.0.extend(number.to_le_bytes());
        self
    }

    /// Texts are bounded before they get here; a longer one is cut, so that what is written can be read.
    pub(super) fn text(mut self, text: &str) -> Writer {
        let length = text.floor_char_boundary(usize::from(u16::MAX));
        self.0.extend((length as u16).to_le_bytes());
        self.0.extend(&text.as_bytes()[..length]);
        self
    }

    pub(super) fn texts<'a>(self, texts: impl Iterator<Item = &'a str>) -> Writer {
        let texts: Vec<_> = texts.take(usize::from(u8::MAX)).collect();
        let count = texts.len() as u8;
        texts.into_iter().fold(self.byte(count), Writer::text)
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Writer {
        self.0.extend(bytes);
        self
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a value. What is not as it was written is an error that says so.
pub(super) struct Reader<'a>(&'a [u8]);

pub(super) type Read<T> = Result<T, &'static str>;

impl<'a> Reader<'a> {
    pub(super) fn new(value: &'a [u8]) -> Read<Reader<'a>> {
        match value.split_first() {
            Some((&VERSION, rest)) => Ok(Reader(rest)),
            Some(_) => Err("it was written by a newer version of Causeway"),
            None => Err("it is empty"),
        }
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it breaks off")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "it breaks off")
    }

    pub(super) fn number(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn text(&mut self) -> Read<&'a str> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| "a text in it is not UTF-8")
    }

    pub(super) fn texts(&mut self) -> Read<Vec<&'a str>> {
        let count = self.byte()?;
        (0..count).map(|_| self.text()).collect()
    }

    pub(super) fn end(self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err("it goes on behind its end") }
    }
}

/// A VIN where one has to be.
pub(super) fn vin(text: &str) -> Read<Vin> {
    text.parse().map_err(|_| "it has no VIN where one should be")
}
