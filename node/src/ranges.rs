//! Memory of range answers: `--max-range-bytes` and `--max-inflight-range-bytes`.
//!
//! An answer counts from the moment it is read until the last of its bytes is handed to the socket, wherever it waits: in
//! the connection's queue, in the engine, behind a slow client. At the bound further ranges wait before they are read, as
//! long as any request may wait, then they are refused. What is read at that moment by the reader threads can go over the
//! bound, by one answer each. Gets of one key and answers below [`COUNTED_BYTES_MIN`] are not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvnode_api::status::{Code, Status};

use crate::cores::client::ClientCore;
use crate::metrics::Limit;
use crate::rt;

/// Smaller answers are not worth counting.
const COUNTED_BYTES_MIN: usize = 64 << 10;
/// Pause before a waiting range looks again.
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes of range answers under way, over all executors.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<AtomicU64>);

impl InFlight {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The same bytes, counted until the last handle to them is gone.
    fn count(&self, frame: Bytes) -> Bytes {
        if frame.len() < COUNTED_BYTES_MIN {
            return frame;
        }
        self.0.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Bytes::from_owner(Counted {
            bytes: frame,
            total: Arc::clone(&self.0),
        })
    }
}

struct Counted {
    bytes: Bytes,
    total: Arc<AtomicU64>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total
            .fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Waits until a range may be read.
///
/// # Errors
/// It waited as long as a request may.
pub async fn admit(core: &ClientCore) -> Result<(), Status> {
    let max = core.shared.config.limits.range_bytes_inflight_max;
    if max == 0 || core.shared.ranges.bytes() < max {
        return Ok(());
    }
    let give_up_ms = core.shared.now_ms() + core.shared.request_timeout_ms();
    while core.shared.ranges.bytes() >= max {
        if core.shared.now_ms() >= give_up_ms {
            core.shared.metrics.limits.refused(Limit::RangesInFlight);
            return Err(Status::too_many_requests());
        }
        rt::sleep(PAUSE).await;
    }
    Ok(())
}

/// An answer that was read: refused if it is too long, counted if not.
///
/// # Errors
/// It has more bytes than one answer may have.
pub fn answered(core: &ClientCore, frame: Bytes) -> Result<Bytes, Status> {
    let max = core.shared.config.limits.range_bytes_max;
    if max > 0 && frame.len() as u64 > max {
        core.shared.metrics.limits.refused(Limit::RangeBytes);
        let text = format!(
            "kvnode: the answer has {} bytes, more than the limit of {max}: ask for a part of the range (limit), or use RangeStream",
            frame.len()
        );
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(core.shared.ranges.count(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_until_its_last_part_is_gone() {
        let flight = InFlight::default();
        let mut frame = flight.count(vec![7; COUNTED_BYTES_MIN + 1].into());
        let rest = frame.split_off(10);
        drop(frame);
        assert_eq!(flight.bytes(), COUNTED_BYTES_MIN as u64 + 1);
        drop(rest);
        assert_eq!(flight.bytes(), 0);
        drop(flight.count(vec![7; 10].into()));
        assert_eq!(flight.bytes(), 0);
    }
}
