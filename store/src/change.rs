//! What a write did, as watchers see it.

use kvnode_api::Event;

/// All events of one main revision, in the order they happened.
///
/// An event's `kv` is the whole new pair for a put, and key with mod revision for a delete.
/// `prev_kv` is the pair as it was before this revision, absent if there was none, or if that
/// moment is no longer readable (the compact revision itself, read from history).
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub revision: i64,
    pub events: Vec<Event>,
}
