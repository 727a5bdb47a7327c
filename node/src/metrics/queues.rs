//! What waits where, and how late the executors are.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::kinds::{Gauge, Histogram};
use super::text::Text;

/// 1 ms times 2^0 to 2^12.
const DELAY_SECONDS: [f64; 13] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
];

/// Queues whose depth is told. All executors' together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Proposals,
    ReadConfirmations,
    ReaderAnswers,
    LeaseAnswers,
}

const ALL: [(Queue, &str); 4] = [
    (Queue::Proposals, "proposals"),
    (Queue::ReadConfirmations, "read_confirmations"),
    (Queue::ReaderAnswers, "reader_answers"),
    (Queue::LeaseAnswers, "lease_answers"),
];

pub struct Queues {
    depths: [Gauge; ALL.len()],
    pub executor_delay_seconds: Histogram,
    /// The acceptor's own count, and the cap, once it runs.
    pub connections: OnceLock<(Arc<AtomicUsize>, usize)>,
}

impl Default for Queues {
    fn default() -> Queues {
        Queues {
            depths: Default::default(),
            executor_delay_seconds: Histogram::seconds(&DELAY_SECONDS),
            connections: OnceLock::new(),
        }
    }
}

impl Queues {
    /// One executor's share of a queue went from `before` to `now`.
    pub fn changed(&self, queue: Queue, before: usize, now: usize) {
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.depths[queue as usize].add(signed(now) - signed(before));
    }

    pub(super) fn render(&self, out: &mut Text, apply_backlog: u64) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let depths = ALL
            .iter()
            .map(|(queue, name)| (*name, self.depths[*queue as usize].get()));
        out.labelled(
            ("kvnode_queue_depth", "gauge"),
            "Requests that wait, by what for; sampled four times a second.",
            "queue",
            depths.chain([("apply", signed(apply_backlog))]),
        );
        self.executor_delay_seconds.write(
            out,
            "kvnode_executor_delay_seconds",
            "How late a task that sleeps 100 ms runs again: what is late delays every request of that executor.",
        );
        let (open, most) = match self.connections.get() {
            Some((open, most)) => (open.load(Relaxed) as u64, *most as u64),
            None => (0, 0),
        };
        out.gauge(
            "kvnode_client_connections",
            "Open client connections.",
            signed(open),
        );
        out.gauge(
            "kvnode_client_connections_max",
            "Connections beyond which clients wait.",
            signed(most),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_executors_add_up() {
        let queues = Queues::default();
        queues.changed(Queue::LeaseAnswers, 0, 3);
        queues.changed(Queue::LeaseAnswers, 0, 2);
        queues.changed(Queue::LeaseAnswers, 3, 1);
        let mut out = Text::default();
        queues.render(&mut out, 9);
        let text = out.into_string();
        assert!(
            text.contains("kvnode_queue_depth{queue=\"lease_answers\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("kvnode_queue_depth{queue=\"apply\"} 9\n"),
            "{text}"
        );
        for (at, (queue, _)) in ALL.iter().enumerate() {
            assert_eq!(*queue as usize, at);
        }
    }
}
