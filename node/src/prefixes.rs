//! Sizes of key prefixes (`--metrics-key-prefixes`), counted again and again in the background.
//!
//! Nothing is counted where nobody asks. A count goes through the newest pairs of a prefix in steps of [`STEP_KEYS`] on a
//! reader thread, each on a view of its own, so that nothing old is held; what changes meanwhile may be counted as it was
//! or as it is. Between two steps the thread is left alone nine times as long as the step took, so that counting never has
//! more than a tenth of it, and between two rounds at least [`PAUSE`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvnode_api::KeyRange;
use kvnode_api::status::Status;

use crate::cores::client::ClientCore;
use crate::rt;

/// Keys that are looked at without a pause.
const STEP_KEYS: usize = 2000;
/// The share of a thread's time that is left to others: this many times that of a step.
const LEFT: u32 = 9;
/// Least time between two steps, and two rounds.
const STEP_PAUSE: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_secs(5);

pub async fn run(core: Rc<ClientCore>) {
    let prefixes = core.shared.metrics.prefixes.all();
    if prefixes.is_empty() {
        return;
    }
    loop {
        let begun = Instant::now();
        for prefix in prefixes {
            match measure(&core, prefix.name()).await {
                Ok((keys, bytes)) => prefix.set(keys, bytes),
                Err(status) => log::debug!("prefix {:?} not counted: {status}", prefix.name()),
            }
        }
        rt::sleep(PAUSE.max(begun.elapsed())).await;
    }
}

/// Keys of a prefix, and bytes of them and their values.
async fn measure(core: &Rc<ClientCore>, prefix: &str) -> Result<(u64, u64), Status> {
    let range = range(prefix);
    let (mut keys, mut bytes, mut from) = (0, 0, None);
    loop {
        let (view, range) = (core.view(), range.clone());
        let step = core
            .on_reader(move || {
                let begun = Instant::now();
                let sizes = view.sizes(&range, from.as_ref(), STEP_KEYS);
                sizes.map(|sizes| (sizes, begun.elapsed()))
            })
            .await?;
        let (sizes, took) = step?;
        keys += sizes.keys;
        bytes += sizes.bytes;
        from = sizes.next;
        if from.is_none() {
            return Ok((keys, bytes));
        }
        rt::sleep(STEP_PAUSE.max(took * LEFT)).await;
    }
}

/// All keys with this prefix. No byte of UTF-8 is the last one there is, so the next higher one ends it.
fn range(prefix: &str) -> KeyRange {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    KeyRange::new(&Bytes::copy_from_slice(prefix.as_bytes()), &end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_its_last_key() {
        let range = range("/a/");
        for (key, inside) in [
            ("/a/", true),
            ("/a/\u{10ffff}", true),
            ("/a0", false),
            ("/a", false),
        ] {
            assert_eq!(range.contains(key.as_bytes()), inside, "{key}");
        }
    }
}
