//! Finding the other founders where nobody listed them: DNS SRV records (`--discovery-srv`), or a registry in another
//! cluster (`--discovery-token`, `--discovery-endpoints`).
//!
//! Both come to the text that `--initial-cluster` would have had, and only a member without a data directory asks. Blocking:
//! runs at the start, before there is an executor.

mod base64;
mod http;
mod registry;
mod srv;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use crate::config::{Config, Discovery};
use crate::exit::{Code, Exit};
use crate::notify::Notify;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How far a wait for others moves the service manager's time-out.
const EXTENSION: Duration = Duration::from_secs(60);

/// The founders, as `--initial-cluster` lists them.
///
/// # Errors
/// What the records or the registry say cannot be right, with what to do about it.
pub fn find(config: &Config, discovery: &Discovery, notify: &Notify) -> Result<String, Exit> {
    let found = match discovery {
        Discovery::Srv(settings) => {
            let servers = match settings.servers.as_slice() {
                [] => {
                    kvnode_dns::servers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
                }
                given => given.to_vec(),
            };
            let records = |name: &str| kvnode_dns::services(&servers, name);
            let addresses = |host: &str, port| -> Vec<SocketAddr> {
                let found = (host, port).to_socket_addrs();
                found.map_or_else(|_| Vec::new(), Iterator::collect)
            };
            srv::founders(config, settings, records, addresses)
        }
        Discovery::Registry(settings) => registry::founders(config, settings, |status| {
            log::info!("discovery: {status}");
            notify.busy(&format!("discovery: {status}"), EXTENSION);
        }),
    };
    let list = found.map_err(|(what, hint)| Exit::new(Code::Usage, what, hint))?;
    log::info!("discovery found {list}");
    Ok(list)
}
