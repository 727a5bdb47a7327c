//! What a scrape learns about TLS.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use super::live::{Live, Tls};

impl Tls {
    /// In Prometheus' text form; empty while no listener has a certificate.
    pub(crate) fn metrics(&self) -> String {
        let sides = [&self.client, &self.peer];
        let sides = sides.map(|live| live.moment().served.clone().map(|served| (live, served)));
        let sides: Vec<_> = sides.into_iter().flatten().collect();
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(usize) -> String| {
            if !sides.is_empty() {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            }
            for (at, (live, _)) in sides.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "{name}{{listener=\"{}\"}} {}",
                    live.listener(),
                    value(at)
                );
            }
        };
        family(
            "kvnode_tls_certificate_expiry_timestamp_seconds",
            "gauge",
            "When the certificate in use ends, in seconds since the epoch.",
            &|at| sides[at].1.names.not_after.to_string(),
        );
        let count = |of: fn(&Live) -> u64| {
            let sides = &sides;
            move |at: usize| of(sides[at].0).to_string()
        };
        family(
            "kvnode_tls_handshake_failures_total",
            "counter",
            "Connections that ended before they were encrypted.",
            &count(|live| live.refused.load(Relaxed)),
        );
        family(
            "kvnode_tls_reloads_total",
            "counter",
            "Changed files taken over.",
            &count(|live| live.reloads.load(Relaxed)),
        );
        family(
            "kvnode_tls_reload_failures_total",
            "counter",
            "Changed files that could not be used.",
            &count(|live| live.reload_failures.load(Relaxed)),
        );
        text
    }
}
