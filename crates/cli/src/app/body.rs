//! The bodies of answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};

use super::grpc::Replies;

/// An answer's body.
pub enum Body {
    /// One piece, or nothing more.
    Whole(Option<Bytes>),
    /// The request's own body, piece by piece as it comes, trailers too.
    Echo(Incoming),
    /// gRPC messages and trailers.
    Replies(Box<Replies>),
}

impl Body {
    pub fn empty() -> Body {
        Body::Whole(None)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(Some(bytes))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Echo(incoming) => Pin::new(incoming).poll_frame(context),
            Body::Replies(replies) => replies.poll_frame(context).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::Echo(incoming) => incoming.is_end_stream(),
            Body::Replies(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Echo(incoming) => incoming.size_hint(),
            Body::Replies(_) => SizeHint::default(),
        }
    }
}
