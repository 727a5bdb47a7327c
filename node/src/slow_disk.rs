//! Whether the log's disk is slower than the operator wants to hear of: `--slow-disk-warn=p99=20ms,window=1m`.
//!
//! A window without too many slow syncs says nothing; one with them says how slow, once. Pure: times are arguments.

use std::time::Duration;

/// When to warn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The part of syncs, between 0 and 1, that should be within `limit`.
    pub quantile: f64,
    pub limit: Duration,
    pub window: Duration,
}

/// Syncs in a window below which nothing is said: one slow sync of three is no pattern.
const SYNCS_MIN: u64 = 20;

impl Rule {
    /// `p99=20ms,window=1m`; the window may be left out.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(
        text: &str,
        duration: impl Fn(&str) -> Result<Duration, String>,
    ) -> Result<Rule, String> {
        const EXPECTED: &str = "expected p99=20ms,window=1m, or off";
        let mut rule = Rule {
            quantile: 0.0,
            limit: Duration::ZERO,
            window: Duration::from_secs(60),
        };
        for item in text.split(',') {
            let (key, value) = item.trim().split_once('=').ok_or(EXPECTED)?;
            let value = duration(value)?;
            if key == "window" {
                rule.window = value;
                continue;
            }
            let percent: f64 = key
                .strip_prefix('p')
                .and_then(|digits| digits.parse().ok())
                .ok_or(EXPECTED)?;
            if !(1.0..100.0).contains(&percent) {
                return Err("the percentile must be from 1 to below 100".to_owned());
            }
            (rule.quantile, rule.limit) = (percent / 100.0, value);
        }
        if rule.limit.is_zero() {
            return Err(EXPECTED.to_owned());
        }
        if rule.window < Duration::from_secs(1) {
            return Err("the window must be at least 1s".to_owned());
        }
        Ok(rule)
    }
}

/// A window in which too many syncs were too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slow {
    pub slow: u64,
    pub syncs: u64,
    pub slowest: Duration,
}

/// The window under way.
#[derive(Debug)]
pub struct Watch {
    rule: Rule,
    since_ms: u64,
    syncs: u64,
    slow: u64,
    slowest: Duration,
}

impl Watch {
    pub fn new(rule: Rule, now_ms: u64) -> Watch {
        Watch {
            rule,
            since_ms: now_ms,
            syncs: 0,
            slow: 0,
            slowest: Duration::ZERO,
        }
    }

    /// A sync took so long; answers at the end of a window that deserves a warning.
    pub fn observe(&mut self, took: Duration, now_ms: u64) -> Option<Slow> {
        self.syncs += 1;
        self.slow += u64::from(took > self.rule.limit);
        self.slowest = self.slowest.max(took);
        let window_ms = u64::try_from(self.rule.window.as_millis()).unwrap_or(u64::MAX);
        if now_ms.saturating_sub(self.since_ms) < window_ms {
            return None;
        }
        let over = Slow {
            slow: self.slow,
            syncs: self.syncs,
            slowest: self.slowest,
        };
        let allowed = (1.0 - self.rule.quantile) * self.syncs as f64;
        let verdict = self.syncs >= SYNCS_MIN && self.slow as f64 > allowed;
        *self = Watch::new(self.rule, now_ms);
        verdict.then_some(over)
    }
}

/// The device under a path, as `/proc/self/mountinfo` names it: what an operator looks for next. `None` if that cannot be told.
pub fn device(path: &std::path::Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;

    let device = std::fs::metadata(path).ok()?.dev();
    let wanted = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.nth(2)? != wanted {
            return None;
        }
        let mut after = line.split(" - ").nth(1)?.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        Some(format!("{source} ({kind})"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rule(text: &str) -> Result<Rule, String> {
        Rule::parse(text, crate::config::values::parse_duration)
    }

    #[test]
    fn rules_name_a_percentile_a_limit_and_a_window() {
        let parsed = rule("p99=20ms,window=1m").unwrap();
        assert_eq!((parsed.limit, parsed.window), (20 * MS, 60_000 * MS));
        assert!((parsed.quantile - 0.99).abs() < 1e-9);
        assert_eq!(rule("p50=1s").unwrap().window, 60_000 * MS);
        for wrong in [
            "",
            "20ms",
            "p0=1ms",
            "p100=1ms",
            "px=1ms",
            "p99=0s",
            "window=1m",
            "p99=1ms,window=1ms",
        ] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_window_with_too_many_slow_syncs_is_told_once_at_its_end() {
        let mut watch = Watch::new(rule("p90=20ms,window=1s").unwrap(), 0);
        for at in 0..100u64 {
            let took = if at % 5 == 0 { 30 * MS } else { MS };
            assert_eq!(watch.observe(took, at), None, "the window is not over");
        }
        let told = watch.observe(50 * MS, 1000).unwrap();
        assert_eq!((told.slow, told.syncs, told.slowest), (21, 101, 50 * MS));
        // Few slow ones are within the percentile; few syncs say nothing.
        for at in 0..100u64 {
            assert_eq!(watch.observe(MS, 1000 + at), None);
        }
        assert_eq!(watch.observe(90 * MS, 2000), None);
        for at in 0..5u64 {
            assert_eq!(watch.observe(90 * MS, 2000 + at), None);
        }
        assert_eq!(watch.observe(90 * MS, 3000), None);
    }
}
