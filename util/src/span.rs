//! A range of numbers on the command line: `7`, `3..9` (both included), `3..`, `..9`.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    from: u64,
    to: u64,
}

impl Span {
    pub fn parse(text: &str) -> Option<Self> {
        let Some((from, to)) = text.split_once("..") else {
            let only = text.parse().ok()?;
            return Some(Span {
                from: only,
                to: only,
            });
        };
        let from = if from.is_empty() {
            0
        } else {
            from.parse().ok()?
        };
        let to = if to.is_empty() {
            u64::MAX
        } else {
            to.parse().ok()?
        };
        (from <= to).then_some(Span { from, to })
    }

    pub fn has(&self, number: u64) -> bool {
        (self.from..=self.to).contains(&number)
    }

    /// Whether all of it lies below `number`.
    pub fn is_before(&self, number: u64) -> bool {
        self.to < number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends_and_nonsense_is_refused() {
        let span = Span::parse("3..9").unwrap();
        assert!(span.has(3) && span.has(9) && !span.has(10) && !span.has(2));
        assert!(Span::parse("7").unwrap().has(7) && !Span::parse("7").unwrap().has(8));
        assert!(Span::parse("..4").unwrap().has(0) && Span::parse("4..").unwrap().has(u64::MAX));
        assert!(Span::parse("..4").unwrap().is_before(5));
        for bad in ["", "a", "9..3", "1..b", "1...2", "-1"] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
    }
}
