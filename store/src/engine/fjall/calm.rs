//! Merges of tables that let others have the processor.
//!
//! fjall merges millions of records in one go, and a thread that does so keeps the processor for whole slices while those
//! wait that commits depend on. It asks a filter about every record it merges: ours keeps them all, and offers the
//! processor now and then.

use std::sync::Arc;

use ::fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};

use crate::engine::Stretches;

/// Makes the filters of a space.
pub(super) fn merges(_space: &str) -> Option<Arc<dyn Factory>> {
    Some(Arc::new(Calm))
}

struct Calm;

impl Factory for Calm {
    fn name(&self) -> &str {
        "calm"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Stretches::default())
    }
}

impl CompactionFilter for Stretches {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        self.did(item.key().len() + item.value()?.len());
        Ok(Verdict::Keep)
    }
}
