use super::*;

fn told(source: &str, destination: &str) -> Option<Told> {
    Some(Told { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

#[test]
fn lines() {
    for (line, expected) in [
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\nGET", Header::Whole(36, told("1.2.3.4:1000", "5.6.7.8:80"))),
        ("PROXY TCP6 1::2 3::4 65535 443\r\n", Header::Whole(32, told("[1::2]:65535", "[3::4]:443"))),
        ("PROXY UNKNOWN\r\n", Header::Whole(15, None)),
        ("PROXY UNKNOWN what ever\r\n", Header::Whole(25, None)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n", Header::Bad),
        ("PROXY TCP4 1::2 3::4 1 2\r\n", Header::Bad),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 66000 80\r\n", Header::Bad),
        ("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", Header::Bad),
        ("PROXY TCP4 1.2.3", Header::NeedMore),
        ("PRO", Header::NeedMore),
        ("", Header::NeedMore),
        ("GET / HTTP/1.1\r\n", Header::Absent),
        ("PROXX", Header::Absent),
    ] {
        assert_eq!(read(line.as_bytes()), expected, "{line}");
    }
    assert_eq!(read(&[b"PROXY ".as_slice(), &[b'x'; 101]].concat()), Header::Bad);
}

#[test]
fn binary() {
    let v4 = told("1.2.3.4:1000", "5.6.7.8:80").unwrap();
    let mut whole = write(Version::V2, v4);
    assert_eq!(read(&whole), Header::Whole(28, Some(v4)));
    // What follows the addresses (TLVs) is skipped.
    whole[15] += 3;
    assert_eq!(read(&whole), Header::NeedMore);
    whole.extend(b"abcrest");
    assert_eq!(read(&whole), Header::Whole(31, Some(v4)));
    whole[12] = 0x20;
    assert_eq!(read(&whole), Header::Whole(31, None));
    whole[12] = 0x31;
    assert_eq!(read(&whole), Header::Bad);
    whole[12] = 0x21;
    whole[13] = 0x13;
    assert_eq!(read(&whole), Header::Bad);
}

proptest::proptest! {
    #[test]
    fn what_is_written_is_read(v6 in proptest::bool::ANY, two in proptest::bool::ANY, ips: [u128; 2], ports: [u16; 2]) {
        let ip = |bits: u128| if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
        let told = Told {
            source: SocketAddr::new(ip(ips[0] | 1 << 100), ports[0]),
            destination: SocketAddr::new(ip(ips[1] | 1 << 100), ports[1]),
        };
        let version = if two { Version::V2 } else { Version::V1 };
        let bytes = write(version, told);
        proptest::prop_assert_eq!(read(&bytes), Header::Whole(bytes.len(), Some(told)));
        for cut in 0..bytes.len() {
            proptest::prop_assert_eq!(read(&bytes[..cut]), Header::NeedMore);
        }
    }

    #[test]
    fn nothing_panics(bytes: Vec<u8>, signed in proptest::bool::ANY) {
        let bytes = if signed { [SIGNATURE.as_slice(), &bytes].concat() } else { bytes };
        if let Header::Whole(length, _) = read(&bytes) {
            proptest::prop_assert!(length <= bytes.len());
        }
    }
}
