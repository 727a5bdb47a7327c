//! Keeping and using count fences: how many keys an interval has, without reading them.
//!
//! The owner keeps the fences of the newest state and gives every view a clone, so a view and its
//! fences always speak of the same moment. They are not stored: after a start a helper thread
//! builds them from a view ([`FenceBuilder`]) while the owner goes on and notes which keys come and
//! go; then the owner installs them. Until then counting scans.

use std::sync::Arc;

use bytes::Bytes;
use kvnode_api::{Event, KeyRange};

use crate::change::Change as Written;
use crate::engine::{Reader, Space};
use crate::error::{Error, Failure};
use crate::fences::{Builder, Change, Fences, Interval};
use crate::heads::ReadHeads;
use crate::pages::Pages;
use crate::revision::Revision;
use crate::schema::{Head, Made, PackedHead, Undo, head_bounds, head_user_key};
use crate::source::{Moment, Source};
use crate::view::View;

/// Keys noted while fences are being built; beyond that the building has to start over.
const NOTED_MAX: usize = 1_000_000;

/// What the owner keeps.
pub(crate) struct Keeper {
    current: Option<Fences>,
    /// Of exactly these fences and those that came of them.
    pages: Arc<Pages>,
    /// While fences are being built: keys that came or went since the builder's view.
    noted: Option<Noted>,
    builds: u64,
}

struct Noted {
    build: u64,
    keys: Vec<(Bytes, Change)>,
}

/// Builds fences from a view, on a thread that may take its time (about 0.5 s per million keys).
pub struct FenceBuilder<V> {
    view: View<V>,
    build: u64,
    /// For heads that come by; see [`FenceBuilder::build_and_read`].
    heads: ReadHeads,
    heads_bytes_max: usize,
}

/// Fences as of some view, to be handed to [`crate::Store::install_fences`].
pub struct BuiltFences {
    fences: Fences,
    build: u64,
}

impl<V: Reader> FenceBuilder<V> {
    /// Scans all keys. Errors: the engine's, damaged records.
    pub fn build(self) -> Result<BuiltFences, Error> {
        self.build_and_read(|_| ())
    }

    /// The same; `read` is given the first heads that are met, as many as the store keeps, for
    /// [`crate::Store::take_read_heads`]. They are all read anyway, and past the engine's cache.
    pub fn build_and_read(mut self, read: impl FnOnce(ReadHeads)) -> Result<BuiltFences, Error> {
        let mut builder = Builder::new();
        let mut read = Some(read);
        let (from, to) = head_bounds(&KeyRange::all());
        let records = self
            .view
            .reader()
            .scan(Space::State, &from, Some(&to), false);
        for item in records {
            let (key, record) = item?;
            if Head::decode(&key, &record)?.live.is_none() {
                continue;
            }
            builder.push(&head_user_key(&key));
            if read.is_some() {
                self.heads.push(PackedHead::stored(&key, &record));
            }
            if self.heads.bytes() > self.heads_bytes_max
                && let Some(read) = read.take()
            {
                read(std::mem::take(&mut self.heads));
            }
        }
        if let Some(read) = read {
            read(self.heads);
        }
        Ok(BuiltFences {
            fences: builder.finish(),
            build: self.build,
        })
    }
}

impl Keeper {
    /// A store without keys needs no building.
    pub fn of_empty_store(revision: i64, page_bytes_max: usize) -> Self {
        let mut fences = Fences::new();
        fences.touch_all(revision);
        Self {
            current: Some(fences),
            ..Self::new(page_bytes_max)
        }
    }

    /// Without fences for now. `page_bytes_max`: what encoded pages may take.
    pub fn new(page_bytes_max: usize) -> Self {
        Self {
            current: None,
            pages: Arc::new(Pages::new(page_bytes_max)),
            noted: None,
            builds: 0,
        }
    }

    /// The cache that belongs to [`Keeper::current`].
    pub fn pages(&self) -> Arc<Pages> {
        Arc::clone(&self.pages)
    }

    pub fn current(&self) -> Option<Fences> {
        self.current.clone()
    }

    /// Starts noting; an earlier build that is still running will not be installed.
    pub fn builder<V>(
        &mut self,
        view: View<V>,
        heads: ReadHeads,
        heads_bytes_max: usize,
    ) -> FenceBuilder<V> {
        self.builds += 1;
        self.noted = Some(Noted {
            build: self.builds,
            keys: Vec::new(),
        });
        FenceBuilder {
            view,
            build: self.builds,
            heads,
            heads_bytes_max,
        }
    }

    /// Takes over what came and went and what was `written` in one commit; `source` shows the
    /// state after it.
    pub fn follow<V: Reader>(
        &mut self,
        arrivals: impl Iterator<Item = (Bytes, bool)>,
        written: &[Written],
        source: &Source<'_, V>,
    ) -> Result<(), Error> {
        if self.current.is_none() && self.noted.is_none() {
            return Ok(());
        }
        let mut crowded = Vec::new();
        for (key, came) in arrivals {
            let change = if came { Change::Added } else { Change::Removed };
            if let Some(fences) = &mut self.current {
                crowded.extend(fences.update(&key, change));
            }
            if let Some(noted) = &mut self.noted {
                // Copied: the key is a slice of its whole log entry.
                noted.keys.push((Bytes::copy_from_slice(&key), change));
            }
        }
        if let Some(fences) = &mut self.current {
            for (change, event) in events(written) {
                if let Some(kv) = &event.kv {
                    fences.touch(&kv.key, change.revision);
                }
            }
        }
        if self
            .noted
            .as_ref()
            .is_some_and(|noted| noted.keys.len() > NOTED_MAX)
        {
            self.noted = None;
        }
        self.split(crowded, source)
    }

    /// False if the build was overtaken by a newer one or by too many changes.
    pub fn install<V: Reader>(
        &mut self,
        built: BuiltFences,
        source: &Source<'_, V>,
    ) -> Result<bool, Error> {
        let Some(noted) = self.noted.take_if(|noted| noted.build == built.build) else {
            return Ok(false);
        };
        let mut fences = built.fences;
        let mut crowded = Vec::new();
        for (key, change) in noted.keys {
            crowded.extend(fences.update(&key, change));
        }
        // Every stamp says "changed just now", and nothing was kept under any of them.
        fences.touch_all(source.revision);
        self.pages = Arc::new(Pages::new(self.pages.bytes_max()));
        self.current = Some(fences);
        self.split(crowded, source)?;
        Ok(true)
    }

    fn split<V: Reader>(
        &mut self,
        mut crowded: Vec<Interval>,
        source: &Source<'_, V>,
    ) -> Result<(), Error> {
        crowded.sort_unstable_by(|a, b| a.from.cmp(&b.from));
        crowded.dedup();
        let Some(fences) = &mut self.current else {
            return Ok(());
        };
        for bucket in crowded {
            let range = key_range(&bucket);
            let keys = source
                .iter(&range, Moment::Newest, false)
                .map(|found| Ok(found?.key));
            let keys: Vec<Bytes> = keys.collect::<Result<_, Error>>()?;
            fences.split(&bucket, keys);
        }
        Ok(())
    }
}

/// Keys alive in `range` at `moment`; `None` if scanning them is the better way.
///
/// The past is the present minus what has come and gone since, where history since then is shorter
/// than the interval: a client that pages through a large interval at one revision would else have
/// the rest of it scanned for each page.
pub(crate) fn count<V: Reader>(
    fences: &Fences,
    source: &Source<'_, V>,
    range: &KeyRange,
    moment: Moment,
) -> Result<Option<u64>, Failure> {
    let end = range.end();
    let counted = fences.count(range.start(), end.as_deref());
    let since = match moment {
        Moment::Newest => 0,
        Moment::At(at) => u64::try_from(source.revision.saturating_sub(at)).unwrap_or(0),
    };
    if since > counted.inside {
        return Ok(None);
    }
    let mut count = counted.inside;
    for edge in &counted.edges {
        for found in source.iter(&key_range(edge), Moment::Newest, false) {
            found?;
            count += 1;
        }
    }
    if let Moment::At(at) = moment {
        let (came, went) = came_and_went(source, range, at)?;
        count = (count + went).saturating_sub(came);
    }
    Ok(Some(count))
}

/// Keys of `range` that came to life and that died after revision `at`, each as often as it did.
fn came_and_went<V: Reader>(
    source: &Source<'_, V>,
    range: &KeyRange,
    at: i64,
) -> Result<(u64, u64), Error> {
    let (mut came, mut went) = (0, 0);
    let from = Revision::new(at.saturating_add(1), 0).to_bytes();
    for item in source.reader.scan(Space::Hist, &from, None, false) {
        let (place, record) = item?;
        let wrong = || Error::record(Space::Hist, &place, "is no record of a change");
        if !range.contains(&Undo::key_of(&record).ok_or_else(wrong)?) {
            continue;
        }
        let revision = Revision::from_bytes(&place).ok_or_else(wrong)?;
        let undo = Undo::decode(revision, &record)?;
        let lives = undo.made != Made::Tombstone;
        let lived = undo.previous_version.is_some();
        came += u64::from(lives && !lived);
        went += u64::from(lived && !lives);
    }
    Ok((came, went))
}

fn events(written: &[Written]) -> impl Iterator<Item = (&Written, &Event)> {
    written
        .iter()
        .flat_map(|change| change.events.iter().map(move |event| (change, event)))
}

fn key_range(interval: &Interval) -> KeyRange {
    let start = interval.from.clone();
    match interval.to.clone() {
        Some(end) => KeyRange::Interval { start, end },
        None => KeyRange::From(start),
    }
}
