//! Until when a certificate is good.

use std::time::{SystemTime, UNIX_EPOCH};

/// A certificate with fewer days left is worth a warning.
pub const DAYS_WARNED: i64 = 30;

/// The last second, in Unix time, for which this certificate (DER) is good; `None` if it cannot be read.
pub fn good_until(der: &[u8]) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Whole days from now, negative if they are over.
pub fn days_left(unix_seconds: i64) -> i64 {
    (unix_seconds - now()).div_euclid(86_400)
}

/// Unix seconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
