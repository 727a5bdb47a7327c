//! When a server's files have come to rest.

use std::time::{Duration, Instant};

use crate::server::Home;

/// Longest wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks.
const TURN: Duration = Duration::from_millis(500);
/// Looks in a row that must agree: ten seconds. Servers give space back some seconds after it is not needed any more;
/// a shorter calm can be the one before that.
const LOOKS: usize = 21;
/// How far they may be apart.
const SPREAD: f64 = 0.01;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    pub bytes: u64,
    pub seconds: f64,
    /// Whether it came to rest in time.
    pub calm: bool,
}

/// Waits until the size of all files has not changed by more than 1 % for ten seconds, but not longer than a minute.
pub fn wait(home: &Home) -> Settled {
    let start = Instant::now();
    let mut sizes = Vec::new();
    loop {
        let bytes = home.disk_bytes();
        sizes.push(bytes);
        let calm = is_calm(&sizes);
        if calm || start.elapsed() > PATIENCE {
            return Settled {
                bytes,
                seconds: start.elapsed().as_secs_f64(),
                calm,
            };
        }
        std::thread::sleep(TURN);
    }
}

fn is_calm(sizes: &[u64]) -> bool {
    let Some(last) = sizes.last_chunk::<LOOKS>() else {
        return false;
    };
    let most = last.iter().max().copied().unwrap_or(0);
    let least = last.iter().min().copied().unwrap_or(0);
    (most - least) as f64 <= SPREAD * most as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_is_twenty_one_looks_within_one_percent() {
        assert!(!is_calm(&[100; LOOKS - 1]));
        assert!(is_calm(&[100; LOOKS]));
        let mut sizes = vec![500; 3];
        sizes.extend([1000; LOOKS - 1]);
        assert!(!is_calm(&sizes), "what came before is within reach");
        sizes.push(991);
        assert!(is_calm(&sizes));
        sizes.push(989);
        assert!(!is_calm(&sizes));
    }
}
