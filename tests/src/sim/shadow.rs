//! What a member's log must hold: kept beside the real one, compared at every start.

use std::collections::BTreeMap;

use kvnode_replica::Write;
use kvnode_wal::{HardState, Recovered};

/// Everything a member's log was told to make durable and said it had.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// Index up to which a snapshot stands for the log.
    pub base: u64,
    /// Terms of the entries behind it.
    terms: Vec<u64>,
    pub hard: HardState,
    /// By term: the vote, and the highest last index while that was the term. What was once true may
    /// still be said later, as a slow network would do; what never was, may not.
    said: BTreeMap<u64, (u64, u64)>,
}

impl Shadow {
    pub fn last(&self) -> u64 {
        self.base + self.terms.len() as u64
    }

    /// Whether this entry is durable here.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        match index.checked_sub(self.base + 1) {
            None => true,
            Some(at) => self.terms.get(at as usize) == Some(&term),
        }
    }

    pub fn vote_in(&self, term: u64) -> (u64, u64) {
        self.said.get(&term).copied().unwrap_or_default()
    }

    /// A write came back as durable.
    pub fn take(&mut self, write: &Write) -> Result<(), String> {
        if let Some(install) = &write.install {
            self.base = install.index;
            self.terms.clear();
        }
        for entry in &write.entries {
            let Some(keep) = entry.index.checked_sub(self.base + 1) else {
                return Err(format!(
                    "entry {} written below the base {}",
                    entry.index, self.base
                ));
            };
            if keep as usize > self.terms.len() {
                return Err(format!("a hole in the log before {}", entry.index));
            }
            self.terms.truncate(keep as usize);
            self.terms.push(entry.term);
        }
        if let Some(hard) = write.hard_state {
            if hard.term < self.hard.term || hard.commit < self.hard.commit {
                return Err(format!(
                    "the hard state goes back: {:?} to {hard:?}",
                    self.hard
                ));
            }
            if hard.commit > self.last() {
                return Err(format!(
                    "commit {} beyond the log's end {}",
                    hard.commit,
                    self.last()
                ));
            }
            self.hard = hard;
        }
        self.note();
        Ok(())
    }

    fn note(&mut self) {
        let last = self.last();
        let (vote, highest) = self.said.entry(self.hard.term).or_default();
        *vote = self.hard.vote;
        *highest = last.max(*highest);
    }

    /// What was read back at a start must hold all of it. `loose` is the first index that writes on
    /// their way may have replaced.
    pub fn compare(&self, found: &Recovered, loose: u64) -> Result<(), String> {
        let lost = |index: u64, term: u64| {
            format!(
                "entry {index} of term {term} was durable and is gone: the log read back holds {}..={}",
                found.first_index, found.last_index
            )
        };
        if found.last_index < self.base && loose > self.base {
            return Err(lost(self.base, 0));
        }
        for (index, &term) in (self.base + 1..).zip(&self.terms) {
            if index + 1 < found.first_index || index >= loose {
                continue;
            }
            if found.term_of(index) != Some(term) && index >= found.first_index {
                return Err(lost(index, term));
            }
        }
        let hard = found.hard_state;
        let vote_kept = self.hard.vote == 0 || self.hard.vote == hard.vote;
        if hard.term < self.hard.term || (hard.term == self.hard.term && !vote_kept) {
            return Err(format!(
                "hard state {:?} was durable, read back {hard:?}",
                self.hard
            ));
        }
        Ok(())
    }

    /// Goes on from what was read back.
    pub fn adopt(&mut self, found: &Recovered) {
        let before = found.first_index.saturating_sub(1);
        self.base = before;
        self.terms = (found.first_index..=found.last_index)
            .map(|index| found.term_of(index).unwrap_or(0))
            .collect();
        self.hard = found.hard_state;
        self.note();
    }

    pub fn start(&mut self, hard: HardState) {
        self.hard = hard;
    }
}
