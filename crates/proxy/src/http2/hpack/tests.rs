use bytes::BytesMut;
use proptest::prelude::*;

use super::{Decoder, Encoder, Malformed, Say, huffman};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().filter(|b| *b != b' ').map(|b| (b as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Malformed> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())))?;
    Ok(fields)
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)], say: Say) -> Vec<u8> {
    let mut out = BytesMut::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), say, &mut out);
    }
    out.to_vec()
}

fn owned(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// RFC 7541, appendices C.3 and C.4.
const REQUESTS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];
const C3: [&str; 3] = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
];
const C4: [&str; 3] = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
];

/// RFC 7541, appendices C.5 and C.6, with a table of 256 bytes.
const RESPONSES: [&[(&str, &str)]; 3] = [
    &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("location", "https://www.example.com"),
        ("content-encoding", "gzip"),
        ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ],
];
const C5: [&str; 3] = [
    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
     6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970\
     7738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e\
     3d31",
];
const C6: [&str; 3] = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f36\
     72c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
];
/// What the tables of the examples count after each block.
const REQUEST_SIZES: [usize; 3] = [57, 110, 164];
const RESPONSE_SIZES: [usize; 3] = [222, 222, 215];
/// A size update to 256.
const TO_256: &str = "3fe101";

#[test]
fn decodes_the_examples() {
    for (blocks, fields, sizes, begin) in [
        (C3, REQUESTS, REQUEST_SIZES, ""),
        (C4, REQUESTS, REQUEST_SIZES, ""),
        (C5, RESPONSES, RESPONSE_SIZES, TO_256),
        (C6, RESPONSES, RESPONSE_SIZES, TO_256),
    ] {
        let mut decoder = Decoder::new(4096);
        assert_eq!(decode(&mut decoder, &hex(begin)), Ok(vec![]));
        for ((block, fields), size) in blocks.iter().zip(fields).zip(sizes) {
            assert_eq!(decode(&mut decoder, &hex(block)), Ok(owned(fields)));
            assert_eq!(decoder.table.size, size);
        }
    }
}

#[test]
fn decodes_each_kind_of_field() {
    // RFC 7541, appendices C.2.1 to C.2.4.
    for (block, field, size) in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header"), 55),
        ("040c2f73616d706c652f70617468", (":path", "/sample/path"), 0),
        ("100870617373776f726406736563726574", ("password", "secret"), 0),
        ("82", (":method", "GET"), 0),
    ] {
        let mut decoder = Decoder::new(4096);
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(owned(&[field])));
        assert_eq!(decoder.table.size, size);
    }
}

#[test]
fn encodes_the_examples() {
    let mut encoder = Encoder::new();
    for (block, fields) in C3.iter().zip(REQUESTS) {
        assert_eq!(encode(&mut encoder, fields, Say::Again), hex(block));
    }
    let mut encoder = Encoder::new();
    encoder.resize(256);
    assert_eq!(encode(&mut encoder, &[], Say::Again), hex(TO_256));
    for ((block, fields), size) in C5.iter().zip(RESPONSES).zip(RESPONSE_SIZES) {
        assert_eq!(encode(&mut encoder, fields, Say::Again), hex(block));
        assert_eq!(encoder.table.size, size);
    }
    let mut encoder = Encoder::new();
    assert_eq!(encode(&mut encoder, &[(":path", "/sample/path")], Say::Once), hex("040c2f73616d706c652f70617468"));
    assert_eq!(encode(&mut encoder, &[("password", "secret")], Say::Secret), hex("100870617373776f726406736563726574"));
    assert_eq!(encoder.table.size, 0);
}

#[test]
fn refuses_what_is_malformed() {
    for block in [
        "80",                   // index 0
        "be",                   // nothing in the table
        "7e0161",               // nor a name
        "ff",                   // an integer that ends early
        "ff8080808001",         // index 127 + 2^28: beyond the table
        "ff808080808000",       // six bytes after the prefix
        "ffffffffffffffffff7f", // more than 64 bits
        "400a6375",             // a string that ends early
        "40",                   // no string at all
        "4001",                 // none in it
        "400161",               // a name only
        "8220",                 // a size after a field
        "3fe21f",               // 4097 bytes
        "4001618100",           // zeros for padding
        "400161811e",           // part of a symbol in eight bits: not ones
        "40016182ffff",         // more than seven bits of padding
        "40016184ffffffff",     // the end of the string inside it
        "4001618518ffffffff",   // after a symbol
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Err(Malformed), "{block}");
    }
}

#[test]
fn takes_what_is_odd_but_allowed() {
    for (block, fields) in [
        ("3fe11f", &[][..]),                         // the largest size
        ("2020202082", &[(":method", "GET")]),       // more sizes than it takes
        ("000000", &[("", "")]),                     // empty strings
        ("008080", &[("", "")]),                     // coded, too
        ("0fa780808000026f6b", &[("server", "ok")]), // an index of more bytes than it takes
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Ok(owned(fields)), "{block}");
    }
}

#[test]
fn a_field_that_is_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(4096);
    let value = [b'x'; 60];
    let mut block = hex("3f31 4001610162");
    assert_eq!(decode(&mut decoder, &block).map(|fields| fields.len()), Ok(1));
    assert_eq!(decoder.table.size, 34);
    block = hex("7e3c");
    block.extend_from_slice(&value);
    assert_eq!(decode(&mut decoder, &block), Ok(vec![(b"a".to_vec(), value.to_vec())]));
    assert_eq!(decoder.table.size, 0);
}

/// Fields of a request as they come again and again.
fn usual() -> Vec<(String, String)> {
    (0..40).map(|nth| (format!("x-usual-{nth}"), format!("value {}", nth * nth))).collect()
}

#[test]
fn what_came_before_is_a_byte_each() {
    let usual = usual();
    let fields: Vec<(&str, &str)> = usual.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    for nth in 0..3 {
        let block = encode(&mut encoder, &fields, Say::Again);
        assert_eq!(decode(&mut decoder, &block), Ok(owned(&fields)));
        assert!(nth == 0 || block.len() == fields.len(), "{block:x?}");
    }
}

#[test]
fn values_that_never_come_again_push_nothing_out() {
    let usual = usual();
    let fields: Vec<(&str, &str)> = usual.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let mut bytes = 0;
    for nth in 0..1000 {
        let id = format!("{nth:032}");
        let block = encode(&mut encoder, &fields, Say::Again);
        assert_eq!(decode(&mut decoder, &block), Ok(owned(&fields)));
        bytes += block.len();
        for name in ["x-id", "etag"] {
            let block = encode(&mut encoder, &[(name, &id)], Say::Again);
            assert_eq!(decode(&mut decoder, &block), Ok(owned(&[(name, &id)])));
        }
    }
    // Forty bytes each, and little for what is pushed out by the few that are tried.
    assert!(bytes < 45 * 1000, "{bytes}");
}

#[test]
fn a_value_that_stays_the_same_at_last_is_put_into_the_table() {
    let mut encoder = Encoder::new();
    for nth in 0..100 {
        encode(&mut encoder, &[("x-revision", &nth.to_string())], Say::Again);
    }
    let lens: Vec<_> = (0..64).map(|_| encode(&mut encoder, &[("x-revision", "100")], Say::Again).len()).collect();
    assert_eq!((lens.first(), lens.last()), (Some(&6), Some(&1)));
}

#[test]
fn secrets_are_never_indexed() {
    let mut encoder = Encoder::new();
    encode(&mut encoder, &[("x-key", "k")], Say::Again);
    assert_eq!(encode(&mut encoder, &[("x-key", "k")], Say::Secret), hex("1f2f016b"));
    assert_eq!(encode(&mut encoder, &[("x-key", "k")], Say::Again), hex("be"));
    assert_eq!(encode(&mut encoder, &[("x-key", "l")], Say::Once), hex("0f2f016c"));
    assert_eq!(encode(&mut encoder, &[(":path", "/")], Say::Secret), hex("14012f"));
}

#[test]
fn sizes_are_said_at_the_next_block() {
    for (sizes, said) in [
        (&[4096][..], ""),
        (&[65536], ""),
        (&[100, 100], "3f45"),
        (&[0, 65536], "203fe11f"),
        (&[30, 10, 20], "2a34"),
        (&[10, 20, 30], "2a3e"),
    ] {
        let mut encoder = Encoder::new();
        sizes.iter().for_each(|size| encoder.resize(*size));
        assert_eq!(encode(&mut encoder, &[], Say::Again), hex(said), "{sizes:?}");
        assert_eq!(encode(&mut encoder, &[], Say::Again), hex(""));
    }
}

/// The codes of appendix B as text of 0 and 1, made in another way than [`huffman`] makes its tables.
fn coded(text: &[u8]) -> Vec<u8> {
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|symbol| huffman::LENGTHS[usize::from(*symbol)]);
    let (mut codes, mut next, mut before) = (vec![String::new(); 256], 0u64, 0);
    for symbol in order {
        let len = usize::from(huffman::LENGTHS[usize::from(symbol)]);
        next <<= len - before;
        codes[usize::from(symbol)] = format!("{next:0len$b}");
        (next, before) = (next + 1, len);
    }
    // All of 30 bits but for the end of the string.
    assert_eq!((next, before), (0x3fff_ffff, 30));
    let mut bits: String = text.iter().map(|symbol| &codes[usize::from(*symbol)][..]).collect();
    bits.push_str(&"1".repeat(bits.len().next_multiple_of(8) - bits.len()));
    bits.as_bytes().chunks(8).map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
}

fn uncoded(code: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    huffman::decode(code, &mut out).map(|()| out)
}

#[test]
fn each_symbol_is_decoded() {
    for symbol in 0..=255 {
        for text in [vec![symbol], vec![symbol; 2], vec![symbol; 9], [&b"text"[..], &[symbol], b"more of it"].concat()]
        {
            assert_eq!(uncoded(&coded(&text)), Ok(text));
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,3}", "[a-c]{0,30}", Just(":path".into()), Just(":status".into()), Just("cookie".into())]
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![3 => Just(Say::Again), 1 => Just(Say::Once), 1 => Just(Say::Secret)]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[x-z]{0,2}", "[x-z]{0,150}", Just("/".into()), Just("204".into())]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(blocks in prop::collection::vec((
        prop::collection::vec(0usize..400, 0..3),
        prop::collection::vec((name(), value(), say()), 0..12),
    ), 0..24)) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
        for (sizes, fields) in blocks {
            sizes.iter().for_each(|size| encoder.resize(*size));
            let mut block = BytesMut::new();
            encoder.begin(&mut block);
            for (name, value, say) in &fields {
                let field = (name.as_bytes(), value.as_bytes());
                let fits = name.len() + value.len() + 32 <= encoder.table.max() / 2;
                let known = (0..).map_while(|age| encoder.table.get(age)).any(|kept| kept == field);
                let before = block.len();
                encoder.field(field.0, field.1, *say, &mut block);
                prop_assert!(!known || !fits || *say != Say::Again || block.len() <= before + 2);
            }
            let said = fields.into_iter().map(|(name, value, _)| (name.into_bytes(), value.into_bytes())).collect();
            prop_assert_eq!(decode(&mut decoder, &block), Ok(said));
            if let Some(size) = sizes.last() {
                prop_assert_eq!(decoder.table.max(), *size);
            }
            let fields = |table: &super::table::Table| -> Fields {
                (0..).map_while(|age| table.get(age).map(|(n, v)| (n.to_vec(), v.to_vec()))).collect()
            };
            prop_assert_eq!(fields(&encoder.table), fields(&decoder.table));
            prop_assert!(decoder.table.size <= decoder.table.max());
        }
    }

    #[test]
    fn nothing_breaks_a_decoder(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..40)) {
        let mut decoder = Decoder::new(300);
        for mut block in blocks {
            let _ = decode(&mut decoder, &block);
            // Cut to what literals may look like, more comes in.
            block.iter_mut().step_by(3).for_each(|byte| *byte = 0x40 | (*byte % 4));
            let _ = decode(&mut decoder, &block);
            prop_assert!(decoder.table.size <= 4096 && decoder.table.max() <= 4096);
            prop_assert!(decoder.table.buffer.len() <= 2 * 4096);
        }
    }

    #[test]
    fn huffman_goes_there_and_back(text in prop::collection::vec(prop_oneof![any::<u8>(), 32u8..127], 0..200)) {
        prop_assert_eq!(uncoded(&coded(&text)), Ok(text));
    }

    #[test]
    fn huffman_has_one_code_for_a_text(code in prop::collection::vec(prop_oneof![any::<u8>(), 128u8..], 0..40)) {
        if let Ok(text) = uncoded(&code) {
            prop_assert_eq!(coded(&text), code);
        }
    }
}
