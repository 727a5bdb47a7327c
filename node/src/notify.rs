//! Telling the service manager how far a start or a stop is.
//!
//! systemd hands a datagram socket over in `NOTIFY_SOCKET`; without it everything here does
//! nothing. A message is lost rather than waited for, and a failure to tell is never a reason to
//! fail: the socket does not block and errors are dropped.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// `socket` is the value of `NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    pub fn new(socket: Option<&OsStr>) -> Notify {
        let address = socket.and_then(|name| match name.as_bytes() {
            [] => None,
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
            _ => SocketAddr::from_pathname(name).ok(),
        });
        let to = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Notify { to }
    }

    /// Serving: a start has succeeded.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// Going down on request.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// Still starting or stopping: shows `status` and moves the time-out `at_least` away from now.
    pub fn busy(&self, status: &str, at_least: Duration) {
        let status = status.replace('\n', " ");
        self.send(&format!(
            "EXTEND_TIMEOUT_USEC={}\nSTATUS={status}",
            at_least.as_micros()
        ));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(listener: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = listener.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_progress_readiness_and_the_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(Some(path.as_os_str()));
        notify.busy("replaying\n41 %", Duration::from_secs(30));
        assert_eq!(
            received(&listener),
            "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=replaying 41 %"
        );
        notify.ready();
        assert_eq!(received(&listener), "READY=1\nSTATUS=serving");
        notify.stopping();
        assert_eq!(received(&listener), "STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    fn an_abstract_socket_is_found_by_its_at_sign() {
        let name = format!("kvnode-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        Notify::new(Some(OsStr::new(&format!("@{name}")))).ready();
        assert!(received(&listener).starts_with("READY=1"));
    }

    #[test]
    fn no_manager_or_a_dead_one_is_no_trouble() {
        Notify::new(None).ready();
        Notify::new(Some(OsStr::new(""))).ready();
        Notify::new(Some(OsStr::new("no/such/socket"))).ready();
        Notify::default().stopping();
    }
}
