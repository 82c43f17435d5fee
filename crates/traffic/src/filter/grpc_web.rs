//! gRPC for clients that cannot speak it: browsers, which see no trailers and may only take text (Envoy's `grpc_web`
//! filter; gRPC's PROTOCOL-WEB). The request becomes gRPC's, the answer gRPC-Web's: trailers are a frame of its body, and
//! what is no answer of gRPC's at all is told in `grpc-status` and `grpc-message`.
//!
//! Bodies go through piece by piece; less than a dozen bytes are held back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::{RequestHead, ResponseHead};
use crate::record::Flags;
use crate::reply::{LocalReply, grpc_status, percent_encode};

/// Bytes of an answer that is not gRPC's that are told to the client.
pub const MOST_MESSAGE: usize = 16384;

/// A frame of trailers, by its flags.
const TRAILERS: u8 = 0x80;

/// Text that is no base64.
pub const NOT_BASE64: LocalReply =
    LocalReply::fixed(400, "Bad gRPC-web request, invalid base64 data.", Flags::NONE, "grpc_base_64_decode_failed");

/// Text whose end is missing.
pub const CUT_BASE64: LocalReply = LocalReply::fixed(
    400,
    "Bad gRPC-web request, invalid base64 data.",
    Flags::NONE,
    "grpc_base_64_decode_failed_bad_size",
);

/// Whether a request is gRPC-Web's: by its content type, to the letter.
pub fn is_asked(request: &RequestHead) -> bool {
    !request.path.is_empty() && request.headers.get("content-type").is_some_and(|t| is_text(t) || is_binary(t))
}

fn is_binary(content_type: &[u8]) -> bool {
    matches!(content_type, b"application/grpc-web" | b"application/grpc-web+proto")
}

fn is_text(content_type: &[u8]) -> bool {
    matches!(content_type, b"application/grpc-web-text" | b"application/grpc-web-text+proto")
}

/// The two sides of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// The request's body is base64.
    pub text_request: bool,
    /// The answer's body is to be base64.
    pub text_answer: bool,
}

/// What an answer's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// gRPC's frames, which [`Encoder`] turns; or none.
    Frames,
    /// Something else, which [`Bridge::tell`] puts into the head.
    Message,
}

impl Bridge {
    /// Makes a request that [`is_asked`] gRPC's.
    pub fn begin(request: &mut RequestHead) -> Self {
        let headers = &mut request.headers;
        let text = |name| headers.get(name).is_some_and(is_text);
        let bridge = Self { text_request: text("content-type"), text_answer: text("accept") };
        headers.remove("content-length");
        headers.set("content-type", "application/grpc");
        headers.set("te", "trailers");
        if !headers.contains("grpc-accept-encoding") {
            headers.append("grpc-accept-encoding", "identity");
        }
        bridge
    }

    /// Makes an answer's head gRPC-Web's. `whole`: it has no body.
    pub fn head(self, answer: &mut ResponseHead, whole: bool) -> Body {
        let of_grpc = is_of_grpc(answer, whole);
        answer.headers.remove("content-length");
        let text = if self.text_answer { "-text" } else { "" };
        answer.headers.set("content-type", format!("application/grpc-web{text}+proto"));
        if whole || of_grpc { Body::Frames } else { Body::Message }
    }

    /// Turns a whole answer; gives its body.
    pub fn answer(self, answer: &mut ResponseHead, body: &[u8]) -> Vec<u8> {
        match self.head(answer, body.is_empty()) {
            Body::Frames if self.text_answer => Encoder::new(self).data(body).into_bytes(),
            Body::Frames => body.to_vec(),
            Body::Message => {
                Self::tell(answer, &body[..body.len().min(MOST_MESSAGE)]);
                Vec::new()
            }
        }
    }

    /// Tells a body that is not gRPC's in the head of its answer, which then has none.
    pub fn tell(answer: &mut ResponseHead, message: &[u8]) {
        answer.headers.set("grpc-message", percent_encode(message));
        answer.headers.set("grpc-status", grpc_status(answer.status).to_string());
        answer.headers.set("content-length", "0");
    }
}

/// Whether an answer is gRPC's or gRPC-Web's in binary already.
fn is_of_grpc(answer: &ResponseHead, whole: bool) -> bool {
    if whole && answer.headers.contains("grpc-status") {
        return true;
    }
    if answer.status != 200 {
        return false;
    }
    let Some(content_type) = answer.headers.get("content-type") else { return false };
    let grpc =
        content_type.strip_prefix(b"application/grpc").is_some_and(|rest| rest.first().is_none_or(|b| *b == b'+'));
    let essence = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
    grpc || is_binary(&essence.to_ascii_lowercase())
}

/// Reads a request's body of base64.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// What a whole body says.
    ///
    /// # Errors
    /// [`NOT_BASE64`], [`CUT_BASE64`].
    pub fn whole(text: &[u8]) -> Result<Vec<u8>, LocalReply> {
        let mut decoder = Self::default();
        let decoded = decoder.data(text)?;
        decoder.end().map(|()| decoded)
    }

    /// What a further part of the text says, as far as it says it.
    ///
    /// # Errors
    /// [`NOT_BASE64`].
    pub fn data(&mut self, text: &[u8]) -> Result<Vec<u8>, LocalReply> {
        self.held.extend_from_slice(text);
        let whole = self.held.len() / 4 * 4;
        let decoded = self.decode(whole)?;
        self.held.drain(..whole);
        Ok(decoded)
    }

    fn decode(&self, whole: usize) -> Result<Vec<u8>, LocalReply> {
        let text = &self.held[..whole];
        if let Ok(decoded) = STANDARD.decode(text) {
            return Ok(decoded);
        }
        // Parts may be padded one by one, which leaves padding inside.
        let mut out = Vec::with_capacity(whole / 4 * 3);
        for group in text.chunks(4) {
            STANDARD.decode_vec(group, &mut out).map_err(|_| NOT_BASE64)?;
        }
        Ok(out)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// [`CUT_BASE64`].
    pub fn end(&self) -> Result<(), LocalReply> {
        if self.held.is_empty() { Ok(()) } else { Err(CUT_BASE64) }
    }
}

/// Writes an answer's body.
#[derive(Debug)]
pub struct Encoder {
    text: bool,
    // Up to two bytes that wait for the third.
    held: Vec<u8>,
    // Of the frame under way: its head as far as it is here, and how much of the rest is to come.
    head: Vec<u8>,
    left: usize,
}

impl Encoder {
    /// For an answer of this bridge.
    pub fn new(bridge: Bridge) -> Self {
        Self { text: bridge.text_answer, held: Vec::new(), head: Vec::new(), left: 0 }
    }

    /// Whether data goes through as it is.
    pub fn is_plain(&self) -> bool {
        !self.text
    }

    /// A further part of gRPC's frames in base64, each frame padded by itself.
    pub fn data(&mut self, mut data: &[u8]) -> String {
        let mut out = String::new();
        while !data.is_empty() {
            let now;
            if self.head.len() < 5 {
                (now, data) = data.split_at(data.len().min(5 - self.head.len()));
                self.head.extend_from_slice(now);
                if let [_, a, b, c, d] = self.head[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                }
            } else {
                (now, data) = data.split_at(data.len().min(self.left));
                self.left -= now.len();
            }
            self.held.extend_from_slice(now);
            let ended = self.head.len() == 5 && self.left == 0;
            let groups = if ended { self.held.len() } else { self.held.len() / 3 * 3 };
            STANDARD.encode_string(&self.held[..groups], &mut out);
            self.held.drain(..groups);
            if ended {
                self.head.clear();
            }
        }
        out
    }

    /// Trailers as the last frame of the body.
    pub fn trailers<'t>(&self, fields: impl Iterator<Item = (&'t str, &'t [u8])>) -> Vec<u8> {
        let mut frame = vec![TRAILERS, 0, 0, 0, 0];
        for (name, value) in fields {
            frame.extend_from_slice(name.as_bytes());
            frame.push(b':');
            frame.extend_from_slice(value);
            frame.extend_from_slice(b"\r\n");
        }
        // Heads are limited to far less than 4 GiB.
        let length = u32::try_from(frame.len() - 5).unwrap_or(u32::MAX);
        frame[1..5].copy_from_slice(&length.to_be_bytes());
        if self.text { STANDARD.encode(frame).into_bytes() } else { frame }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        RequestHead { path: "/a.B/C".into(), headers: fields.iter().copied().collect(), ..Default::default() }
    }

    #[test]
    fn requests_become_those_of_grpc() {
        assert!(!is_asked(&request(&[("content-type", "application/grpc")])));
        assert!(!is_asked(&request(&[("content-type", "application/grpc-web+json")])));
        let mut asked = request(&[("content-type", "application/grpc-web-text"), ("content-length", "8")]);
        assert!(is_asked(&asked));
        assert_eq!(Bridge::begin(&mut asked), Bridge { text_request: true, text_answer: false });
        assert!(asked.is_grpc() && !asked.headers.contains("content-length"));
        assert_eq!(asked.headers.get_str("te"), Some("trailers"));
        assert_eq!(asked.headers.get_str("grpc-accept-encoding"), Some("identity"));
    }

    #[test]
    fn what_is_not_grpcs_is_a_message() {
        let bridge = Bridge { text_request: false, text_answer: true };
        let mut answer = ResponseHead::new(503);
        answer.headers.append("content-type", "text/plain");
        assert_eq!(bridge.head(&mut answer, false), Body::Message);
        Bridge::tell(&mut answer, "weg~ä%".as_bytes());
        let fields: Vec<_> =
            answer.headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
        assert_eq!(
            fields,
            [
                "content-type: application/grpc-web-text+proto",
                "grpc-message: weg%7E%C3%A4%25",
                "grpc-status: 14",
                "content-length: 0",
            ]
        );
        let mut answer = ResponseHead::new(200);
        answer.headers.append("content-type", "application/grpc+proto");
        assert_eq!(bridge.head(&mut answer, false), Body::Frames);
        assert_eq!(bridge.head(&mut ResponseHead::new(404), true), Body::Frames);
    }

    #[test]
    fn text_may_be_padded_in_parts_and_must_be_whole() {
        let decode = |parts: &[&str]| -> Result<Vec<u8>, LocalReply> {
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            for part in parts {
                out.extend(decoder.data(part.as_bytes())?);
            }
            decoder.end().map(|()| out)
        };
        assert_eq!(decode(&["YW", "JjZA", "=="]).unwrap(), b"abcd");
        assert_eq!(decode(&["YQ==YWI=YWJj"]).unwrap(), b"aababc");
        assert_eq!(decode(&[]).unwrap(), b"");
        assert_eq!(decode(&["YWJjZA"]), Err(CUT_BASE64));
        for bad in ["****", "YQ=a", "=YQ=", "===="] {
            assert_eq!(decode(&[bad]), Err(NOT_BASE64), "{bad}");
        }
    }

    #[test]
    fn trailers_are_a_frame() {
        let fields = || [("grpc-status", &b"0"[..]), ("grpc-message", b"ok")].into_iter();
        let binary = Encoder::new(Bridge { text_request: false, text_answer: false });
        assert_eq!(binary.trailers(fields()), b"\x80\0\0\0\x20grpc-status:0\r\ngrpc-message:ok\r\n");
        let text = Encoder::new(Bridge { text_request: false, text_answer: true });
        assert_eq!(STANDARD.decode(text.trailers(fields())).unwrap(), binary.trailers(fields()));
    }

    proptest::proptest! {
        #[test]
        fn frames_are_padded_one_by_one(frames in proptest::collection::vec(proptest::collection::vec(0u8.., 0..20), 0..5), cut in 1usize..9) {
            let mut plain = Vec::new();
            let mut expected = String::new();
            for frame in &frames {
                let mut whole = vec![0];
                whole.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
                whole.extend(frame);
                STANDARD.encode_string(&whole, &mut expected);
                plain.extend(whole);
            }
            let mut encoder = Encoder::new(Bridge { text_request: true, text_answer: true });
            let encoded: String = plain.chunks(cut).map(|part| encoder.data(part)).collect();
            proptest::prop_assert_eq!(&encoded, &expected);
            let mut decoder = Decoder::default();
            let decoded: Vec<u8> = encoded.as_bytes().chunks(cut).flat_map(|part| decoder.data(part).unwrap()).collect();
            proptest::prop_assert!(decoder.end().is_ok());
            proptest::prop_assert_eq!(decoded, plain);
        }

        #[test]
        fn nothing_panics(text in proptest::collection::vec(0u8.., 0..40), cut in 1usize..9) {
            let mut decoder = Decoder::default();
            let _ = text.chunks(cut).try_for_each(|part| decoder.data(part).map(drop));
            let mut encoder = Encoder::new(Bridge { text_request: true, text_answer: true });
            text.chunks(cut).for_each(|part| drop(encoder.data(part)));
        }
    }
}
