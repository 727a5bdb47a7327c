//! Places for calls that stay open: so many per connection, so that no client takes what there is for all, and so many per
//! executor.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use kvnode_api::service::Method;
use kvnode_api::status::Status;

use crate::cores::client::ClientCore;
use crate::http::Call;
use crate::metrics::Limit;

/// Streams of a kind that may be open: of one connection,
const STREAMS_PER_CONNECTION_MAX: usize = 8192;
/// and of one executor. Beyond either: "too many requests".
const STREAMS_MAX: usize = 65_536;

/// Calls of one kind on one executor.
#[derive(Debug)]
pub struct Places {
    limit: Limit,
    connection_max: usize,
    max: usize,
    taken: Cell<usize>,
    /// By connection; no entry for none.
    connections: RefCell<HashMap<u64, usize>>,
}

/// A call's place, until dropped.
#[derive(Debug)]
pub struct Place {
    places: Rc<Places>,
    connection: u64,
}

impl Places {
    /// `connection_max` of each connection and `max` of all; who finds none is counted under `limit`.
    pub fn new(limit: Limit, connection_max: usize, max: usize) -> Rc<Places> {
        Rc::new(Places {
            limit,
            connection_max,
            max,
            taken: Cell::new(0),
            connections: RefCell::default(),
        })
    }

    /// Takes one for a call.
    ///
    /// # Errors
    /// "too many requests" at either bound.
    pub fn enter(self: &Rc<Self>, core: &ClientCore, call: &Call) -> Result<Place, Status> {
        self.take(call.peer.serial).ok_or_else(|| {
            core.refused(self.limit);
            Status::too_many_requests()
        })
    }

    fn take(self: &Rc<Self>, connection: u64) -> Option<Place> {
        let mut connections = self.connections.borrow_mut();
        let own = connections.get(&connection).copied().unwrap_or(0);
        if own >= self.connection_max || self.taken.get() >= self.max {
            return None;
        }
        connections.insert(connection, own + 1);
        self.taken.set(self.taken.get() + 1);
        Some(Place {
            places: Rc::clone(self),
            connection,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.set(self.places.taken.get() - 1);
        let mut connections = self.places.connections.borrow_mut();
        if let Some(count) = connections.get_mut(&self.connection) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.connection);
            }
        }
    }
}

/// The streaming calls of one executor, by kind, so that those of one cannot crowd out another.
pub struct Streams {
    watch: Rc<Places>,
    keepalive: Rc<Places>,
    other: Rc<Places>,
}

impl Default for Streams {
    fn default() -> Streams {
        let places = |limit| Places::new(limit, STREAMS_PER_CONNECTION_MAX, STREAMS_MAX);
        Streams {
            watch: places(Limit::WatchStreams),
            keepalive: places(Limit::KeepaliveStreams),
            other: places(Limit::OtherStreams),
        }
    }
}

impl Streams {
    /// Takes a place for a streaming call.
    ///
    /// # Errors
    /// As of [`Places::enter`].
    pub fn enter(&self, core: &ClientCore, call: &Call) -> Result<Place, Status> {
        let places = match call.method {
            Method::Watch => &self.watch,
            Method::LeaseKeepAlive => &self.keepalive,
            _ => &self.other,
        };
        places.enter(core, call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_per_connection_and_in_all() {
        let places = Places::new(Limit::LockWaits, 4, 8);
        let mut all = Vec::new();
        for connection in 0..2 {
            all.extend((0..4).map(|_| places.take(connection).unwrap()));
            assert!(places.take(connection).is_none());
        }
        assert!(
            places.take(9).is_none(),
            "another connection has no place either"
        );
        all.pop();
        drop(places.take(9).unwrap());
        all.clear();
        assert_eq!(places.taken.get(), 0);
        assert!(places.connections.borrow().is_empty());
    }
}
