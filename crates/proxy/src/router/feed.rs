//! What is read of a request's body, handed on to a copy of the request. The giver never waits: a taker that falls too
//! far behind loses the body.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::body::{Piece, SourceError};

/// What a piece counts besides its bytes, so that many small ones are bounded too.
const PIECE: usize = 64;

#[derive(Default)]
struct Between {
    pieces: VecDeque<Piece>,
    size: usize,
    // The last piece was given.
    ended: bool,
    // There will be no end, or the taker does not want it.
    lost: bool,
    taker: Option<Waker>,
}

/// The giving side.
pub struct Feed {
    between: Rc<RefCell<Between>>,
    limit: usize,
}

/// The taking side.
pub struct Fed(Rc<RefCell<Between>>);

/// Both sides; at most `limit` bytes wait between them.
pub fn feed(limit: usize) -> (Feed, Fed) {
    let between = Rc::new(RefCell::new(Between::default()));
    (Feed { between: Rc::clone(&between), limit }, Fed(between))
}

impl Feed {
    /// Gives a piece, if the taker keeps up.
    pub fn give(&mut self, piece: &Piece) {
        let mut between = self.between.borrow_mut();
        if between.lost {
            return;
        }
        match piece {
            Piece::Data(data) => between.size += data.len() + PIECE,
            Piece::End(_) => between.ended = true,
        }
        if between.size > self.limit {
            between.lose();
        } else {
            between.pieces.push_back(piece.clone());
            between.wake();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut between = self.between.borrow_mut();
        if !between.ended {
            between.lose();
        }
    }
}

impl Between {
    fn lose(&mut self) {
        self.lost = true;
        self.pieces.clear();
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(taker) = self.taker.take() {
            taker.wake();
        }
    }
}

impl Fed {
    /// The next piece; an error when the rest will not come. Cancel-safe.
    pub async fn next(&mut self) -> Result<Piece, SourceError> {
        std::future::poll_fn(|cx| {
            let mut between = self.0.borrow_mut();
            if let Some(piece) = between.pieces.pop_front() {
                if let Piece::Data(data) = &piece {
                    between.size -= data.len() + PIECE;
                }
                return Poll::Ready(Ok(piece));
            }
            if between.lost {
                return Poll::Ready(Err(SourceError::Closed));
            }
            between.taker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        let mut between = self.0.borrow_mut();
        between.lost = true;
        between.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt as _;

    use super::*;

    fn data(n: usize) -> Piece {
        Piece::Data(Bytes::from(vec![0; n]))
    }

    fn taken(fed: &mut Fed) -> Option<Result<Piece, SourceError>> {
        fed.next().now_or_never()
    }

    #[test]
    fn pieces_come_in_order_and_end() {
        let (mut feed, mut fed) = feed(1000);
        assert!(taken(&mut fed).is_none());
        feed.give(&data(5));
        feed.give(&Piece::End(None));
        drop(feed);
        assert!(matches!(taken(&mut fed), Some(Ok(Piece::Data(d))) if d.len() == 5));
        assert!(matches!(taken(&mut fed), Some(Ok(Piece::End(None)))));
    }

    #[test]
    fn a_giver_that_goes_leaves_no_end() {
        let (mut feed, mut fed) = feed(1000);
        feed.give(&data(5));
        drop(feed);
        assert!(matches!(taken(&mut fed), Some(Err(SourceError::Closed))));
    }

    #[test]
    fn a_slow_taker_loses_the_body_and_keeps_nothing() {
        let (mut feed, mut fed) = feed(1000);
        for _ in 0..20 {
            feed.give(&data(1));
        }
        assert_eq!(feed.between.borrow().pieces.len(), 0);
        assert!(matches!(taken(&mut fed), Some(Err(SourceError::Closed))));
        // One that takes as it comes gets any amount.
        let (mut feed, mut fed) = super::feed(1000);
        for _ in 0..20 {
            feed.give(&data(500));
            assert!(matches!(taken(&mut fed), Some(Ok(Piece::Data(_)))));
        }
    }

    #[test]
    fn nothing_waits_for_a_taker_that_is_gone() {
        let (mut feed, fed) = feed(1000);
        feed.give(&data(5));
        drop(fed);
        feed.give(&data(5));
        assert_eq!(feed.between.borrow().pieces.len(), 0);
    }
}
