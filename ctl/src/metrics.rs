//! What a server tells of itself at `/metrics`, beside the API: a few numbers of Prometheus' text form.

use kvnode_client::{Client, Error, Page};

/// Numbers of one server at one moment.
pub struct Metrics(String);

impl Metrics {
    pub fn of(page: &Page) -> Metrics {
        Metrics(String::from_utf8_lossy(&page.body).into_owned())
    }

    /// Asks this endpoint; the reason in words if it has no such page.
    pub async fn fetch(client: &Client, endpoint: &str) -> Result<Metrics, String> {
        let page = client.page(endpoint, "/metrics").await;
        let page = page.map_err(|error| reason(&error))?;
        match page.status {
            200 => Ok(Metrics::of(&page)),
            other => Err(format!("{endpoint}/metrics answers {other}")),
        }
    }

    /// The value of a family with one series and no labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .and_then(|value| value.trim().parse().ok())
    }

    /// Where this part of what a histogram without labels counted lies below, interpolated inside a bucket as Prometheus does;
    /// `None` if nothing was counted. Above the last bound, that bound.
    pub fn quantile(&self, name: &str, part: f64) -> Option<f64> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for line in self.0.lines() {
            let bucket = || -> Option<(f64, f64)> {
                let rest = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?;
                let (bound, count) = rest.split_once("\"} ")?;
                Some((bound.parse().ok()?, count.trim().parse().ok()?))
            };
            buckets.extend(bucket());
        }
        let (_, total) = *buckets.last()?;
        if total <= 0.0 {
            return None;
        }
        let wanted = total * part;
        let (mut bound_below, mut count_below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= wanted {
                if bound.is_infinite() {
                    return Some(bound_below);
                }
                let inside = (wanted - count_below) / (count - count_below);
                return Some(bound_below + (bound - bound_below) * inside);
            }
            (bound_below, count_below) = (bound, count);
        }
        Some(bound_below)
    }
}

/// Why nothing came, with the endpoint.
fn reason(error: &Error) -> String {
    match error.attempts().first() {
        Some(attempt) => attempt.clone(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_quantiles_are_found_among_other_families() {
        let text = "# TYPE a gauge\na 3\nab 4\nh_bucket{le=\"1\"} 50\nh_bucket{le=\"2\"} 90\nh_bucket{le=\"4\"} 99\n\
                    h_bucket{le=\"+Inf\"} 100\nh_sum 7\nh_count 100\nempty_bucket{le=\"+Inf\"} 0\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.value("a"), Some(3.0));
        assert_eq!(metrics.value("c"), None);
        assert_eq!(metrics.quantile("h", 0.5), Some(1.0));
        assert_eq!(metrics.quantile("h", 0.7), Some(1.5));
        assert_eq!(metrics.quantile("h", 0.999), Some(4.0));
        assert_eq!(metrics.quantile("empty", 0.5), None);
        assert_eq!(metrics.quantile("x", 0.5), None);
    }
}
