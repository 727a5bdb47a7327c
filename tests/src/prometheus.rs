//! A strict reader of Prometheus' text form (version 0.0.4), and of the metric names in queries.
//!
//! Strict means: every sample belongs to the family declared last, each family is declared once with help and type,
//! names and labels are well formed, values are numbers, and histograms are whole: buckets ascend, end in `+Inf`, and agree
//! with their count.

use std::collections::{BTreeMap, BTreeSet};

/// One `name{labels} value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Type by family.
    pub families: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Reads a whole answer.
    ///
    /// # Errors
    /// The first line that is wrong, and why.
    pub fn parse(text: &str) -> Result<Scrape, String> {
        let mut scrape = Scrape::default();
        let mut current: Option<String> = None;
        let mut helped: Option<String> = None;
        if !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        for line in text.lines() {
            let wrong = |why: &str| format!("{why}: {line:?}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
                if help.is_empty() {
                    return Err(wrong("no help"));
                }
                helped = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
                if !matches!(kind, "counter" | "gauge" | "histogram") {
                    return Err(wrong("an unknown type"));
                }
                if helped.take().as_deref() != Some(name) {
                    return Err(wrong("no help before the type"));
                }
                if scrape.families.insert(name.into(), kind.into()).is_some() {
                    return Err(wrong("declared twice"));
                }
                current = Some(name.to_owned());
            } else {
                let sample = sample(line).ok_or_else(|| wrong("no sample"))?;
                let family = current.as_deref().ok_or_else(|| wrong("no family"))?;
                let kind = &scrape.families[family];
                let fits = match sample.name.strip_prefix(family) {
                    Some("") => kind != "histogram",
                    Some("_bucket") => kind == "histogram" && sample.labels.contains_key("le"),
                    Some("_sum" | "_count") => kind == "histogram",
                    _ => false,
                };
                if !fits {
                    return Err(wrong("a sample of another family"));
                }
                if kind != "gauge" && (sample.value < 0.0 || sample.value.is_nan()) {
                    return Err(wrong("less than nothing"));
                }
                scrape.samples.push(sample);
            }
        }
        scrape.check_series()?;
        scrape.check_histograms()?;
        Ok(scrape)
    }

    fn check_series(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            let key = (sample.name.clone(), sample.labels.clone());
            if !seen.insert(key) {
                return Err(format!("the same series twice: {sample:?}"));
            }
        }
        Ok(())
    }

    fn check_histograms(&self) -> Result<(), String> {
        for (family, _) in self
            .families
            .iter()
            .filter(|(_, kind)| *kind == "histogram")
        {
            let bucket = format!("{family}_bucket");
            let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
            for sample in self.samples.iter().filter(|sample| sample.name == bucket) {
                let mut labels = sample.labels.clone();
                let bound = labels.remove("le").unwrap_or_default();
                let bound = number(&bound).ok_or_else(|| format!("{family}: le={bound:?}"))?;
                series
                    .entry(labels)
                    .or_default()
                    .push((bound, sample.value));
            }
            for (labels, buckets) in series {
                let rises = buckets
                    .windows(2)
                    .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
                let last = buckets.last().copied().unwrap_or_default();
                if !rises || last.0 != f64::INFINITY {
                    return Err(format!("{family}{labels:?}: {buckets:?}"));
                }
                let count = self.value(&format!("{family}_count"), &labels);
                if count != Some(last.1) || self.value(&format!("{family}_sum"), &labels).is_none()
                {
                    return Err(format!(
                        "{family}{labels:?}: count {count:?}, buckets {}",
                        last.1
                    ));
                }
            }
        }
        Ok(())
    }

    fn value(&self, name: &str, labels: &BTreeMap<String, String>) -> Option<f64> {
        let found = self
            .samples
            .iter()
            .find(|s| s.name == name && s.labels == *labels);
        found.map(|sample| sample.value)
    }

    /// The sum over all series of this name with these labels among theirs.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                let has = |(key, value): &(&str, &str)| {
                    sample.labels.get(*key).map(String::as_str) == Some(*value)
                };
                labels.iter().all(has)
            })
            .map(|sample| sample.value)
            .sum()
    }

    /// Whether a query may name it: a family, or a part of a histogram.
    pub fn knows(&self, name: &str) -> bool {
        let histogram = |suffix| {
            let family = name.strip_suffix(suffix);
            family.is_some_and(|f| self.families.get(f).is_some_and(|kind| kind == "histogram"))
        };
        match self.families.get(name).map(String::as_str) {
            Some("histogram") => false,
            Some(_) => true,
            None => histogram("_bucket") || histogram("_sum") || histogram("_count"),
        }
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    if !is_name(name) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let value = number(rest.strip_prefix(' ')?)?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// What stands between braces, and what follows them.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"")?;
        if !is_name(name) || name.contains(':') {
            return None;
        }
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    _ => return None,
                },
                (_, c) => value.push(c),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = &after[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        rest = rest.strip_prefix(',')?;
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

/// The metric names in a text with queries: every word that begins as ours or etcd's do.
pub fn names_in(text: &str) -> BTreeSet<String> {
    let prefixes = ["etcd_", "grpc_server_", "kvnode_", "process_", "os_fd_"];
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        // A prefix alone, as a sentence may have it, names nothing.
        .filter(|word| !word.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP h A histogram.\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"1\"} 1\nh_bucket{a=\"b\",le=\"+Inf\"} 2\nh_sum{a=\"b\"} 3.5\nh_count{a=\"b\"} 2\n# HELP g A gauge.\n# TYPE g gauge\ng{x=\"a \\\"q\\\" \\\\ \\n\"} -1\n";

    #[test]
    fn a_good_scrape_is_read() {
        let scrape = Scrape::parse(GOOD).expect("good");
        assert_eq!(scrape.sum("h_bucket", &[("le", "1")]), 1.0);
        assert_eq!(scrape.sum("g", &[("x", "a \"q\" \\ \n")]), -1.0);
        assert!(scrape.knows("h_bucket") && scrape.knows("g"));
        assert!(!scrape.knows("h") && !scrape.knows("g_count") && !scrape.knows("x"));
    }

    #[test]
    fn every_kind_of_slip_is_an_error() {
        for (from, to) in [
            ("# HELP g A gauge.\n", ""),
            ("g{x=", "f{x="),
            ("} -1", "} minus"),
            ("} 2\nh_sum", "} 0\nh_sum"),
            ("h_count{a=\"b\"} 2", "h_count{a=\"b\"} 3"),
            ("le=\"+Inf\"", "le=\"0\""),
            ("h_sum{a=\"b\"} 3.5\n", ""),
            ("a=\"b\",le=\"1\"", "a=\"b\" le=\"1\""),
            ("# TYPE g gauge", "# TYPE h gauge"),
            (" histogram\n", " summary\n"),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD, "{from}");
            assert!(Scrape::parse(&bad).is_err(), "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn names_are_found_in_queries() {
        let found = names_in("rate(kvnode_a_total{x=~\"etcd\"}[5m]) / etcd_b > 1");
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["etcd_b", "kvnode_a_total"]
        );
    }
}
