//! Whatever comes, in whatever pieces.

use proptest::prelude::*;

use super::*;
use crate::router::body::Piece;

/// What a peer does, of a stream by its age.
#[derive(Debug, Clone)]
enum Said {
    Begin { ends: bool, cut: usize },
    Data { of: u32, length: usize, padding: Option<usize>, ends: bool },
    Trailers { of: u32 },
    Number { kind: u8, of: u32, number: u32 },
    Setting { name: u16, value: u32 },
    Other { kind: u8, flags: u8, of: Option<u32>, payload: Vec<u8> },
}

/// `wild`: it may break the connection at once.
fn said(wild: bool) -> impl Strategy<Value = Said> {
    let of = 0u32..6;
    let harmless = vec![(frame::PING, 8), (frame::PING, 8), (frame::PRIORITY, 5), (99, 3)];
    let other = (prop::sample::select(harmless), any::<u8>(), of.clone()).prop_map(|((kind, length), flags, of)| {
        let of = (kind != frame::PING).then_some(of);
        Said::Other { kind, flags, of, payload: vec![7; length] }
    });
    let any_other = (0u8..12, any::<u8>(), prop::option::of(of.clone()), prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(kind, flags, of, payload)| Said::Other { kind, flags, of, payload });
    prop_oneof![
        4 => (prop::bool::weighted(0.3), 0usize..20).prop_map(|(ends, cut)| Said::Begin { ends, cut }),
        6 => (of.clone(), 0usize..1500, prop::option::of(0usize..256), prop::bool::weighted(0.2))
            .prop_map(|(of, length, padding, ends)| Said::Data { of, length, padding, ends }),
        1 => of.clone().prop_map(|of| Said::Trailers { of }),
        2 => (prop::sample::select(vec![frame::RST_STREAM, frame::WINDOW_UPDATE]), of.clone(), 1u32..1000)
            .prop_map(|(kind, of, number)| Said::Number { kind, of, number }),
        1 => (prop::sample::select(vec![1u16, 3, 4, 5, 6, 8, 99]), 16_384u32..100_000)
            .prop_map(|(name, value)| Said::Setting { name, value }),
        2 => other,
        u32::from(wild) => any_other,
    ]
}

/// The frames that say it. Of a client, `head` begins a stream; of a server, it answers one of those that are `begun`.
fn frames(said: &[Said], head: &[u8], mut begun: u32) -> Vec<Vec<u8>> {
    let asked = begun;
    let mut answered = 0;
    let mut all = Vec::new();
    for said in said {
        let id = |of: u32| 2 * (of % begun.max(1)) + 1;
        all.push(match said {
            Said::Begin { ends, cut } => {
                let (first, rest) = head.split_at((*cut).min(head.len()));
                let flags = u8::from(*ends) * frame::END_STREAM;
                let id = if asked > 0 { id(answered) } else { 2 * begun + 1 };
                answered += 1;
                begun += u32::from(asked == 0);
                match rest.is_empty() {
                    true => made(frame::HEADERS, flags | WHOLE, id, first),
                    false => {
                        [made(frame::HEADERS, flags, id, first), made(frame::CONTINUATION, WHOLE, id, rest)].concat()
                    }
                }
            }
            // Of no stream there is nothing to say.
            Said::Data { .. } | Said::Trailers { .. } | Said::Number { .. } if begun == 0 => continue,
            Said::Data { of, length, padding: Some(padding), ends } => {
                let mut bytes = padded(id(*of), *length, *padding);
                bytes[4] |= u8::from(*ends) * frame::END_STREAM;
                bytes
            }
            Said::Data { of, length, padding: None, ends } => {
                made(frame::DATA, u8::from(*ends) * frame::END_STREAM, id(*of), &vec![b'e'; *length])
            }
            Said::Trailers { of } => made(frame::HEADERS, LAST, id(*of), TRAILERS),
            Said::Number { kind, of, number } => numbered(*kind, id(*of), *number),
            Said::Setting { name, value } => setting(*name, *value),
            Said::Other { kind, flags, of, payload } => made(*kind, *flags, of.map_or(0, id), payload),
        });
    }
    all
}

/// What became of it: all that was said, and what each stream was told.
type Outcome = (Vec<u8>, Vec<(bool, Vec<u8>, String)>, bool);

/// Hears pieces, each frame as soon as it is whole.
fn hear<'a>(end: &End, pieces: impl Iterator<Item = &'a [u8]>, mut streams: Vec<Stream>, uses: bool) -> Outcome {
    let mut partial = Vec::new();
    for piece in pieces {
        partial.extend_from_slice(piece);
        let taken = end.core.borrow_mut().receive(&partial);
        partial.drain(..taken);
        if end.core.borrow().end.is_some() {
            break;
        }
        if uses {
            while let Some(stream) = end.accepted() {
                let _ = stream.send_head(200, &Default::default(), false);
                streams.push(stream);
            }
            for stream in &streams {
                let _ = now(stream.head(&mut Default::default()));
                let _ = now(stream.next());
                let _ = now(stream.send(vec![0; 10_000].into(), false));
            }
            if streams.len() > 3 {
                streams.remove(0);
            }
            let written = end.core.borrow().out.len() / 2;
            end.core.borrow_mut().written(written);
        }
    }
    let out = end.core.borrow().out.to_vec();
    while !end.core.borrow().news.is_empty() {
        streams.extend(end.accepted());
    }
    let told = streams.iter().map(|stream| {
        let has_head = now(stream.head(&mut Default::default())).is_some_and(|head| head.is_ok());
        let mut data = Vec::new();
        loop {
            match now(stream.next()) {
                Some(Ok(Piece::Data(more))) => data.extend_from_slice(&more),
                last => break (has_head, data, format!("{last:?}")),
            }
        }
    });
    let told = told.collect();
    (out, told, end.core.borrow().end.is_some())
}

/// An end, its streams, and what its peer says of which of them.
fn ends(server: bool) -> (End, Vec<Stream>, &'static [u8]) {
    if server {
        return (End::server(SETTINGS), Vec::new(), POST);
    }
    let end = End::client(SETTINGS);
    let streams = (0..6).map(|nth| end.asks(if nth == 2 { "HEAD" } else { "POST" }, nth % 2 == 0)).collect();
    (end, streams, OK)
}

/// `bytes` in pieces of these lengths, and the rest.
fn cut<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().copied().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().unwrap_or(usize::MAX).min(bytes.len());
        let (piece, rest) = bytes.split_at(length);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

proptest! {
    #[test]
    fn where_frames_are_cut_changes_nothing(
        server: bool,
        said in prop::collection::vec(said(false), 0..60),
        lengths in prop::collection::vec(1usize..300, 1..20),
    ) {
        let outcome = |lengths: &[usize]| {
            let (end, streams, head) = ends(server);
            let bytes = frames(&said, head, streams.len() as u32).concat();
            hear(&end, cut(&bytes, lengths), streams, false)
        };
        let whole = outcome(&[]);
        prop_assert_eq!(outcome(&lengths), whole.clone());
        prop_assert_eq!(outcome(&[1]), whole);
    }

    #[test]
    fn nothing_breaks_it(
        server: bool,
        said in prop::collection::vec(said(true), 0..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        lengths in prop::collection::vec(1usize..3000, 0..20),
    ) {
        let (end, streams, head) = ends(server);
        let mut bytes = frames(&said, head, streams.len() as u32).concat();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        hear(&end, cut(&bytes, &lengths), streams, true);
    }

    #[test]
    fn no_bytes_break_it(server: bool, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (end, streams, _) = ends(server);
        hear(&end, std::iter::once(&bytes[..]), streams, true);
        // The same as one frame of each kind.
        for kind in 0..11 {
            for flags in [0, WHOLE, LAST, 0xff] {
                let (end, streams, _) = ends(server);
                let frames = [made(frame::HEADERS, WHOLE, 1, if server { POST } else { OK }),
                    made(kind, flags, 1, &bytes), made(kind, flags, 0, &bytes)].concat();
                hear(&end, std::iter::once(&frames[..]), streams, true);
            }
        }
    }
}
