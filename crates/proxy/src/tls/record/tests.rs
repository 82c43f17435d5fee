use proptest::collection::vec;
use proptest::prelude::*;
use rustls::crypto::cipher::{AeadKey, Iv};

use super::*;

/// Keys of both ends of one direction, by a number that says which cipher and version.
fn both(shape: u8, sequence: u64) -> (Keys, Keys) {
    let secrets = || {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::copy(&[9; 12]));
        match shape & 1 {
            0 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            _ => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        }
    };
    let keys = || Keys::new(shape & 2 == 0, sequence, &secrets()).unwrap();
    (keys(), keys())
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(
        shape in 0..4u8,
        sequence in 0..u64::MAX - 10,
        records in vec((20..=23u8, vec(any::<u8>(), 0..300)), 1..4),
    ) {
        let (mut sending, mut receiving) = both(shape, sequence);
        let (_, mut receiving_elsewhere) = both(shape, sequence);
        let mut wire = Vec::new();
        for (kind, plain) in &records {
            sending.seal(*kind, plain, &mut wire).unwrap();
        }
        let mut rest = wire.as_mut_slice();
        for (kind, plain) in &records {
            // Not before it is whole.
            prop_assert_eq!(length(&rest[..HEADER - 1]), Ok(None));
            let (record, more) = rest.split_at_mut(length(rest).unwrap().unwrap());
            let mut out = vec![0; record.len() - HEADER - TAG];
            let (opened, length) = receiving_elsewhere.open_into(record, &mut out).unwrap();
            prop_assert_eq!((opened, &out[..length]), (*kind, plain.as_slice()));
            let (opened, range) = receiving.open(record).unwrap();
            prop_assert_eq!((opened, &record[range]), (*kind, plain.as_slice()));
            rest = more;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn what_was_changed_is_refused(shape in 0..4u8, plain in vec(any::<u8>(), 0..100), at in any::<usize>(), bit in 0..8u8) {
        let (mut sending, mut receiving) = both(shape, 5);
        let mut wire = Vec::new();
        sending.seal(DATA, &plain, &mut wire).unwrap();
        // Of the header, TLS 1.2 protects the kind and the length; the version is the same for all.
        let at = match at % (wire.len() - 2) {
            0 => 0,
            other => other + 2,
        };
        wire[at] ^= 1 << bit;
        if let Ok(Some(length)) = length(&wire)
            && let Some(record) = wire.get_mut(..length)
        {
            let (_, mut receiving_elsewhere) = both(shape, 5);
            prop_assert!(receiving_elsewhere.open_into(record, &mut vec![0; record.len()]).is_err());
            prop_assert!(receiving.open(record).is_err());
        }
    }

    #[test]
    fn whatever_comes_is_borne(shape in 0..4u8, mut bytes in vec(any::<u8>(), 0..200)) {
        let (_, mut receiving) = both(shape, 0);
        let _ = length(&bytes);
        prop_assert!(receiving.open_into(&bytes, &mut vec![0; bytes.len()]).is_err());
        prop_assert!(receiving.open(&mut bytes).is_err());
    }
}

#[test]
fn records_come_once_and_in_order() {
    for shape in 0..4 {
        let (mut sending, mut receiving) = both(shape, 0);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        sending.seal(DATA, b"first", &mut first).unwrap();
        sending.seal(DATA, b"second", &mut second).unwrap();
        let again = first.clone();
        receiving.open(&mut first).unwrap();
        // With an explicit nonce the number is in what is authenticated all the same.
        assert_eq!(receiving.open(&mut again.clone()), Err(RecordError::Forged), "{shape}");
        let (_, mut receiving) = both(shape, 0);
        assert_eq!(receiving.open(&mut second), Err(RecordError::Forged), "{shape}");
    }
}

#[test]
fn records_have_their_limits() {
    for shape in 0..4 {
        let (mut sending, mut receiving) = both(shape, 0);
        let mut wire = Vec::new();
        sending.seal(DATA, &vec![1; MAX_PLAIN], &mut wire).unwrap();
        assert!(wire.len() <= MAX_PLAIN + OVERHEAD);
        let (_, range) = receiving.open(&mut wire).unwrap();
        assert_eq!(range.len(), MAX_PLAIN);
        assert_eq!(receiving.open(&mut vec![DATA; HEADER + MAX_SEALED + 1]), Err(RecordError::Malformed));
    }
    assert_eq!(length(&[DATA, 3, 3, 0x48, 0]), Ok(Some(HEADER + MAX_SEALED)));
    assert_eq!(length(&[DATA, 3, 3, 0x48, 1]), Err(RecordError::Malformed));
    assert_eq!(length(&[19, 3, 3, 0, 1]), Err(RecordError::Malformed));
    assert_eq!(length(&[DATA, 2, 3, 0, 1]), Err(RecordError::Malformed));
}

#[test]
fn padding_is_taken_off_and_must_not_be_all() {
    let (mut sending, mut receiving) = both(0, 0);
    // The kind is the last byte that is not zero: sealed as "data and a few zeros, of kind 0".
    let mut wire = Vec::new();
    sending.seal(0, &[b'x', DATA, 0, 0, 0], &mut wire).unwrap();
    let (kind, range) = receiving.open(&mut wire).unwrap();
    assert_eq!((kind, &wire[range]), (DATA, &b"x"[..]));
    let mut wire = Vec::new();
    sending.seal(0, &[0; 20], &mut wire).unwrap();
    assert_eq!(receiving.open(&mut wire), Err(RecordError::Malformed));
}
