//! Whole-system tests over process boundaries: crashes, full disks, hostile and slow clients.

mod admin;
mod auth_spread;
mod backup;
mod bad_input;
mod cluster;
mod cluster_cases;
mod crowd;
mod discovery;
mod exclusive;
mod full_disk;
mod kill;
mod left_behind;
mod limits;
mod locks;
mod membership;
mod monitoring;
mod one_sector;
mod overload;
mod peer_numbers;
mod restart;
mod restore;
mod resync_orphaned;
mod slow_watch;
mod tampered;
mod tls;
mod tls_peers;
