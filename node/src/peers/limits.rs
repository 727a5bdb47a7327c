//! Every bound and time of the peer transport in one place.

use std::time::Duration;

/// Bounds and times of the transport of one member. The defaults suit a cluster of up to nine
/// members on a local or wide network.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accepted connections open at a time; a peer keeps one, two while it sends a snapshot.
    /// Beyond it connections wait in the kernel's queue.
    pub connections_max: usize,
    /// Accepted connections that have not said who they are. The oldest of them is closed for a
    /// further one, so that strangers cannot keep members out.
    pub strangers_max: usize,
    /// Time for the greeting, on either side.
    pub greeting_limit: Duration,
    /// Time for one TCP connect.
    pub connect_limit: Duration,
    /// Pause after the first round over a member's urls without success; doubled per round.
    pub back_off_min: Duration,
    /// The longest such pause. Each pause is shortened by chance, to a half at the most.
    pub back_off_max: Duration,
    /// Silence after which a peer is pinged.
    pub ping_after: Duration,
    /// Silence after which a connection counts as dead.
    pub dead_after: Duration,
    /// Waiting heartbeats, votes, answers and reads of one peer.
    pub urgent_count_max: usize,
    pub urgent_bytes_max: usize,
    /// Waiting asks and answers to asks of one peer.
    pub asks_count_max: usize,
    pub asks_bytes_max: usize,
    /// Waiting appends and forwarded proposals of one peer.
    pub bulk_count_max: usize,
    pub bulk_bytes_max: usize,
    /// Snapshot bytes per second, over all peers; 0 means as fast as it goes.
    pub snapshot_bytes_per_second: u64,
    /// How long a snapshot that does not move is kept, on either side, to be resumed.
    pub snapshot_patience: Duration,
    /// Time for the receiver of a snapshot to check and keep it once all bytes are there.
    pub snapshot_finish_limit: Duration,
    /// Snapshots received at a time.
    pub snapshots_in_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 256,
            strangers_max: 64,
            greeting_limit: Duration::from_secs(5),
            connect_limit: Duration::from_secs(5),
            back_off_min: Duration::from_millis(100),
            back_off_max: Duration::from_secs(5),
            ping_after: Duration::from_secs(1),
            dead_after: Duration::from_secs(5),
            urgent_count_max: 16_384,
            urgent_bytes_max: 4 << 20,
            asks_count_max: 4096,
            asks_bytes_max: 4 << 20,
            bulk_count_max: 16_384,
            bulk_bytes_max: 64 << 20,
            snapshot_bytes_per_second: 100 << 20,
            snapshot_patience: Duration::from_secs(60),
            snapshot_finish_limit: Duration::from_secs(30 * 60),
            snapshots_in_max: 2,
        }
    }
}
