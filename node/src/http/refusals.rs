//! Calls that the HTTP/2 engine refuses and never hands out.
//!
//! It tells nobody, but what it writes shows it: one call more than a client may have open is reset with REFUSED_STREAM,
//! which is used for nothing else; and one whose header list is longer than the engine takes is answered with status 431,
//! the only answer there ever is to a call that was not handed out.

use std::collections::VecDeque;

use h2::Reason;

use super::frames::{self, Head};

/// Gaps that are remembered between calls handed out. A client that keeps to the rules makes none.
const GAPS_MAX: usize = 64;

/// What was refused, in calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Over [`super::Options::max_concurrent_streams`].
    pub streams: u32,
    /// For the length of their headers.
    pub headers: u32,
}

/// Watches one connection's outgoing frames.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The call handed out last: calls are in the order of their numbers.
    accepted: u32,
    /// Numbers between two calls that were handed out, first and last; the newest at the end.
    gaps: VecDeque<(u32, u32)>,
    refused: Refused,
}

impl Refusals {
    /// A call was handed out.
    pub(super) fn accepted(&mut self, stream: u32) {
        // A client's calls have odd numbers.
        let next = match self.accepted {
            0 => 1,
            last => last.saturating_add(2),
        };
        if stream > next {
            if self.gaps.len() == GAPS_MAX {
                self.gaps.pop_front();
            }
            self.gaps.push_back((next, stream - 1));
        }
        self.accepted = self.accepted.max(stream);
    }

    /// A frame was written.
    pub(super) fn saw(&mut self, head: Head) {
        match head.kind {
            frames::TYPE_HEADERS if !self.was_accepted(head.stream) => self.refused.headers += 1,
            frames::TYPE_RST_STREAM if head.reason == u32::from(Reason::REFUSED_STREAM) => {
                self.refused.streams += 1;
            }
            _ => {}
        }
    }

    fn was_accepted(&self, stream: u32) -> bool {
        let within = |(first, last): &(u32, u32)| (*first..=*last).contains(&stream);
        stream <= self.accepted && !self.gaps.iter().any(within)
    }

    /// What was refused since this was asked last.
    pub(super) fn take(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(stream: u32) -> Head {
        Head {
            kind: frames::TYPE_HEADERS,
            flags: 5,
            stream,
            reason: 0,
        }
    }

    fn reset(stream: u32, reason: Reason) -> Head {
        Head {
            kind: frames::TYPE_RST_STREAM,
            flags: 0,
            stream,
            reason: reason.into(),
        }
    }

    #[test]
    fn answers_to_calls_that_were_not_handed_out_are_told_from_others() {
        let mut refusals = Refusals::default();
        let counted = |refusals: &mut Refusals, head| {
            refusals.saw(head);
            refusals.take().headers
        };
        // Before the next is handed out, and after; also when the first of all is refused.
        assert_eq!(counted(&mut refusals, headers(1)), 1);
        refusals.accepted(3);
        refusals.accepted(5);
        refusals.accepted(11);
        for (stream, refused) in [(1, 1), (3, 0), (5, 0), (7, 1), (9, 1), (11, 0), (13, 1)] {
            assert_eq!(counted(&mut refusals, headers(stream)), refused, "{stream}");
        }
    }

    #[test]
    fn only_one_reason_means_too_many_calls() {
        let mut refusals = Refusals::default();
        refusals.saw(reset(1, Reason::PROTOCOL_ERROR));
        refusals.saw(reset(3, Reason::REFUSED_STREAM));
        let refused = Refused {
            streams: 1,
            headers: 0,
        };
        assert_eq!(refusals.take(), refused);
        assert_eq!(refusals.take(), Refused::default());
    }

    #[test]
    fn what_is_remembered_of_a_client_that_leaves_gaps_is_bounded() {
        let mut refusals = Refusals::default();
        for number in 1..1000 {
            refusals.accepted(number * 10 + 1);
        }
        assert_eq!(refusals.gaps.len(), GAPS_MAX);
        refusals.saw(headers(9983));
        assert_eq!(refusals.take().headers, 1);
    }
}
