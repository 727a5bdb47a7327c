//! Whole-system tests over process boundaries: crashes, full disks, hostile and slow clients.

mod admin;
mod bad_input;
mod cluster;
mod crowd;
mod exclusive;
mod full_disk;
mod kill;
mod left_behind;
mod load;
mod membership;
mod monitoring;
mod restart;
mod slow_watch;
