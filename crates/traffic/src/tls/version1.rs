//! Certificates of version 1 (X.509 of 1988), which have no extensions: what `openssl x509 -req` makes when it is not told
//! of any. Libraries that read version 3 alone do not read them.

use std::borrow::Cow;

/// Numbers of DER (X.690 section 8.1.2) for what a certificate consists of.
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
/// `version [0] EXPLICIT INTEGER`, 2 being version 3 (RFC 5280 section 4.1).
const VERSION_3: [u8; 5] = [0xa0, 3, INTEGER, 1, 2];
/// What a `tbsCertificate` of version 1 consists of: its number, the signature's algorithm, the issuer, the dates, the
/// subject, and the key. A version is not written, and nothing comes after it.
const PARTS: [u8; 6] = [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE];

/// A certificate of version 1, and the one of version 3 without extensions that says the same. The issuer's signature is
/// good for the first alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version1<'a> {
    /// What the issuer signed (`tbsCertificate`), in DER.
    pub signed: &'a [u8],
    /// The certificate as it would be in version 3, in DER.
    pub as_version3: Vec<u8>,
    /// What would have been signed then.
    pub signed_as_version3: Vec<u8>,
}

/// A certificate in DER for whoever reads version 3 alone: as it is, if it is of any other version than 1.
pub fn as_version3(der: &[u8]) -> Cow<'_, [u8]> {
    Version1::read(der).map_or(Cow::Borrowed(der), |old| Cow::Owned(old.as_version3))
}

impl<'a> Version1<'a> {
    /// Reads a certificate in DER; `None` if it is of another version or malformed.
    pub fn read(der: &'a [u8]) -> Option<Version1<'a>> {
        let certificate = Element::first(der).filter(|it| it.tag == SEQUENCE && it.rest.is_empty())?;
        let tbs = Element::first(certificate.content).filter(|it| it.tag == SEQUENCE)?;
        let mut left = tbs.content;
        for tag in PARTS {
            left = Element::first(left).filter(|part| part.tag == tag)?.rest;
        }
        if !left.is_empty() {
            return None;
        }
        let signed = certificate.content.strip_suffix(tbs.rest)?;
        let signed_as_version3 = sequence(&[&VERSION_3, tbs.content])?;
        let as_version3 = sequence(&[&signed_as_version3, tbs.rest])?;
        Some(Version1 { signed, as_version3, signed_as_version3 })
    }
}

/// One element of DER, and what comes after it.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Element<'a> {
    /// The first one; `None` if it is cut off, longer than 64 KiB, or its length is not written as DER has it.
    fn first(der: &'a [u8]) -> Option<Element<'a>> {
        let (length, after) = match *der.get(1..)? {
            [length @ 0..=0x7f, ref after @ ..] => (usize::from(length), after),
            [0x81, length @ 0x80..=0xff, ref after @ ..] => (usize::from(length), after),
            [0x82, high @ 1..=0xff, low, ref after @ ..] => (usize::from(u16::from_be_bytes([high, low])), after),
            _ => return None,
        };
        let (content, rest) = after.split_at_checked(length)?;
        Some(Element { tag: *der.first()?, content, rest })
    }
}

/// A sequence of these; `None` if it is longer than 64 KiB.
fn sequence(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).ok()?.to_be_bytes();
    let mut der = match (high, low) {
        (0, 0..=0x7f) => vec![SEQUENCE, low],
        (0, _) => vec![SEQUENCE, 0x81, low],
        _ => vec![SEQUENCE, 0x82, high, low],
    };
    der.extend(content);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate whose `tbsCertificate` has these parts, each of so many bytes.
    fn of(parts: &[(u8, usize)]) -> Vec<u8> {
        let parts: Vec<Vec<u8>> = parts
            .iter()
            .map(|(tag, length)| {
                let mut der = sequence(&[&vec![7; *length]]).unwrap();
                der[0] = *tag;
                der
            })
            .collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        sequence(&[&sequence(&parts).unwrap(), &[SEQUENCE, 0], &[3, 1, 0]]).unwrap()
    }

    const ALL: [(u8, usize); 6] =
        [(INTEGER, 1), (SEQUENCE, 10), (SEQUENCE, 0), (SEQUENCE, 30), (SEQUENCE, 127), (SEQUENCE, 300)];

    #[test]
    fn the_version_is_put_in_front_and_nothing_else_changes() {
        for key in [1, 40, 70, 120, 256, 40_000] {
            let mut parts = ALL;
            parts[5].1 = key;
            let der = of(&parts);
            let read = Version1::read(&der).unwrap();
            let tbs = Element::first(Element::first(&der).unwrap().content).unwrap();
            assert!(read.signed.ends_with(tbs.content) && read.signed[0] == SEQUENCE);
            let new = Element::first(&read.as_version3).unwrap();
            assert!(new.rest.is_empty() && new.content.starts_with(&read.signed_as_version3));
            let inner = Element::first(new.content).unwrap();
            assert_eq!(inner.content, [&VERSION_3, tbs.content].concat());
            assert_eq!(inner.rest, tbs.rest);
            assert_eq!(Version1::read(&read.as_version3), None, "of version 3 now");
        }
    }

    #[test]
    fn what_is_anything_else_is_left_alone() {
        let good = of(&ALL);
        let with = |part: (u8, usize)| of(&[&ALL[..], &[part]].concat());
        // Names of version 2, and extensions, which belong to version 3.
        for more in [0x81, 0x82, 0xa3] {
            assert_eq!(Version1::read(&with((more, 3))), None);
        }
        assert_eq!(Version1::read(&of(&[&[(0xa0, 3)], &ALL[..]].concat())), None, "a version is written");
        assert_eq!(Version1::read(&of(&ALL[..5])), None, "no key");
        assert_eq!(Version1::read(&[&good[..], &[0]].concat()), None, "something after it");
        for cut in 0..good.len() {
            assert_eq!(Version1::read(&good[..cut]), None);
        }
        // The same length in more bytes than it takes.
        let long = |length: u8| [vec![SEQUENCE, 0x81, length], good[4..].to_vec()].concat();
        assert_eq!(Version1::read(&long(5)), None);
        assert_eq!(Version1::read(&[SEQUENCE, 0x80, 0, 0]), None);
        assert_eq!(Version1::read(&[SEQUENCE, 0x83, 0, 0, 1, 0]), None);
    }
}
