//! First messages of TLS clients.

use super::dice::Dice;

/// A TLS record with a client hello (RFC 8446, 4.1.2) as libraries send it: a session id of the past, many ciphers, and
/// extensions in any order, made-up ones (RFC 8701) among them.
pub fn client_hello(dice: &mut Dice, host: &str, alpn: &[&str]) -> Vec<u8> {
    let mut extensions: Vec<Vec<u8>> = Vec::new();
    if !host.is_empty() {
        extensions.push(extension(0, &long(&[&[0][..], &long(host.as_bytes())].concat())));
    }
    if !alpn.is_empty() {
        extensions
            .push(extension(16, &long(&alpn.iter().flat_map(|name| short(name.as_bytes())).collect::<Vec<u8>>())));
    }
    let made_up = u16::from_be_bytes([0x0a | (dice.below(16) as u8) << 4; 2]);
    let key = dice.bytes(32);
    let others = [
        extension(made_up, &[]),
        extension(10, &long(&[0, 0x1d, 0, 0x17])),
        extension(13, &long(&[4, 3, 8, 4, 4, 1])),
        extension(43, &short(&[3, 4, 3, 3])),
        extension(51, &long(&[&[0, 0x1d][..], &long(&key)].concat())),
        extension(23, &[]),
        extension(21, &vec![0; dice.below(300)]),
    ];
    for other in others {
        if dice.chance(60) {
            let place = dice.below(extensions.len() + 1);
            extensions.insert(place, other);
        }
    }
    let session = if dice.chance(50) { dice.bytes(32) } else { Vec::new() };
    let ciphers: Vec<u8> = (0..1 + dice.below(20)).flat_map(|index| [0x13, index as u8]).collect();
    let random = dice.bytes(32);
    let body = [&[3, 3][..], &random, &short(&session), &long(&ciphers), &[1, 0], &long(&extensions.concat())].concat();
    let message = [&[1, 0][..], &long(&body)].concat();
    [&[22, 3, 1][..], &long(&message)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(content)].concat()
}

/// With its length in two bytes before it.
fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// With its length in one byte before it.
fn short(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8][..], bytes].concat()
}
