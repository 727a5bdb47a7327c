//! Whether a member's certificate fits the address it calls from, by etcd's rule.
//!
//! A certificate without names and addresses fits anywhere. One that lists the caller's address fits. One with names
//! fits if the address leads back to one of them (a name `*.domain` stands for all below it) or one of them leads to
//! the address. This asks the resolver, so it blocks: for threads only.

use std::net::{IpAddr, ToSocketAddrs as _};

use super::names::Names;

/// # Errors
/// Why it does not fit.
pub(crate) fn fits_address(certificate: &[u8], address: IpAddr) -> Result<(), String> {
    let resolver = Resolver {
        names_of: |address| dns_lookup::lookup_addr(&address).into_iter().collect(),
        addresses_of: |name| {
            let found = (name, 0).to_socket_addrs();
            found.map_or_else(|_| Vec::new(), |all| all.map(|one| one.ip()).collect())
        },
    };
    judge(&Names::read(certificate)?, address, &resolver)
}

struct Resolver {
    names_of: fn(IpAddr) -> Vec<String>,
    addresses_of: fn(&str) -> Vec<IpAddr>,
}

fn judge(names: &Names, address: IpAddr, resolver: &Resolver) -> Result<(), String> {
    if names.addresses.is_empty() && names.dns.is_empty() {
        return Ok(());
    }
    let address = address.to_canonical();
    if names.addresses.contains(&address) {
        return Ok(());
    }
    if names.dns.is_empty() {
        let listed: Vec<String> = names.addresses.iter().map(IpAddr::to_string).collect();
        return Err(format!(
            "{address} is not among its addresses ({})",
            listed.join(", ")
        ));
    }
    for found in (resolver.names_of)(address) {
        let found = found.trim_end_matches('.');
        let matches = |name: &String| match name.strip_prefix('*') {
            Some(domain) => found.len() > domain.len() && ends_with(found, domain),
            None => found.eq_ignore_ascii_case(name),
        };
        if names.dns.iter().any(matches) {
            return Ok(());
        }
    }
    let plain = names.dns.iter().filter(|name| !name.starts_with("*."));
    for name in plain {
        if (resolver.addresses_of)(name).contains(&address) {
            return Ok(());
        }
    }
    Err(format!(
        "none of its names ({}) belongs to {address}",
        names.dns.join(", ")
    ))
}

fn ends_with(name: &str, domain: &str) -> bool {
    let at = name.len() - domain.len();
    name.get(at..)
        .is_some_and(|end| end.eq_ignore_ascii_case(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_matched_as_etcd_does() {
        let resolver = Resolver {
            names_of: |address| match address.to_string().as_str() {
                "10.0.0.2" => vec!["b.example.com.".to_owned()],
                _ => Vec::new(),
            },
            addresses_of: |name| match name {
                "a.example.com" => vec!["10.0.0.1".parse().unwrap()],
                _ => Vec::new(),
            },
        };
        let names = |dns: &[&str], addresses: &[&str]| Names {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
            ..Names::default()
        };
        for (dns, addresses, from, fits) in [
            (&[][..], &[][..], "10.9.9.9", true),
            (&[], &["10.0.0.1"], "10.0.0.1", true),
            (&[], &["10.0.0.1"], "::ffff:10.0.0.1", true),
            (&[], &["10.0.0.1"], "10.0.0.3", false),
            (&["a.example.com"], &["10.0.0.7"], "10.0.0.7", true),
            (&["a.example.com"], &["10.0.0.7"], "10.0.0.1", true),
            (&["a.example.com"], &[], "10.0.0.3", false),
            (&["*.Example.com"], &[], "10.0.0.2", true),
            (&["*.other.com"], &[], "10.0.0.2", false),
            (&["*.b.example.com"], &[], "10.0.0.2", false),
        ] {
            let result = judge(&names(dns, addresses), from.parse().unwrap(), &resolver);
            assert_eq!(
                result.is_ok(),
                fits,
                "{dns:?} {addresses:?} {from}: {result:?}"
            );
        }
    }
}
