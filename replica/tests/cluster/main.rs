//! Replicas in a simulated world. Every random run names its seed when it fails.

mod chance;
mod elections;
mod hazards;
mod members;
mod reading;
mod restart;
mod simulation;
mod single;
mod world;
