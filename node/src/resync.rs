//! Re-sync on request: a member whose state was found to be wrong gets the leader's, and says whether it is right now.
//!
//! The log of such a member is right: it is the same log on every member. So raft is not asked for anything. The leader sends its
//! state as a snapshot, under a number of the asker's; while it travels this member goes on voting and writing its log. Once it is
//! checked and staged, the log's entries bring it to the index where this member is, and it takes over there
//! (`snapshots/install.rs`). The state before is put aside. Then the state is compared with all members' again, as the periodic check
//! does: what could not be compared is unverified and said so. The fence falls with the alarm, and that an operator takes off.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::cores::client::ClientCore;
use crate::cores::replica::ask;
use crate::integrity::{self, Comparison};
use crate::rt;

/// How long the leader may take to answer, and its state to begin to arrive. The transfer has limits of its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the leader waits until its own state has come as far as the asker's.
const REACH_PATIENCE: Duration = Duration::from_secs(5);
/// Silence after which a state is given up whose sender does not lead any more: that may have died, and who leads now has
/// one as good. Long enough for the last of it to be checked and synced.
const DEPOSED_PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// Comparisons until one covers a majority: a member that is busy answers the next one.
const COMPARISONS_MAX: u32 = 3;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// None since the start.
    #[default]
    Never,
    Asking,
    Receiving,
    /// Staged; the log may have to come as far as it.
    TakingOver,
    Comparing,
    Done,
    Failed,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Phase::Never => "never",
            Phase::Asking => "asking",
            Phase::Receiving => "receiving",
            Phase::TakingOver => "taking_over",
            Phase::Comparing => "comparing",
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }

    fn is_under_way(self) -> bool {
        !matches!(self, Phase::Never | Phase::Done | Phase::Failed)
    }
}

/// The last re-sync, or the one under way.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub phase: Phase,
    /// Whom it was asked from; 0: nobody yet.
    pub from: u64,
    /// Of the state that came; 0: none yet.
    pub index: u64,
    /// Why it failed.
    pub why: Option<String>,
    /// Where the state before is kept.
    pub kept: Option<PathBuf>,
    pub comparison: Option<Comparison>,
    since: Option<Instant>,
    /// Bytes that have come.
    arrived: Arc<AtomicU64>,
}

/// Shared by the admin socket, the replica core and the apply thread.
#[derive(Default)]
pub struct Resync(Mutex<Progress>);

impl Resync {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn look(&self) -> Progress {
        self.lock().clone()
    }

    /// False if one is under way.
    fn begin(&self, from: u64) -> bool {
        let mut progress = self.lock();
        if progress.phase.is_under_way() {
            return false;
        }
        *progress = Progress {
            phase: Phase::Asking,
            from,
            since: Some(Instant::now()),
            ..Progress::default()
        };
        true
    }

    fn step(&self, phase: Phase) {
        let mut progress = self.lock();
        if progress.phase.is_under_way() {
            progress.phase = phase;
            progress.since = Some(Instant::now());
        }
    }

    /// It begins to arrive; `arrived` counts its bytes, and is [`ALL_ARRIVED`] in the end.
    pub fn receiving(&self, index: u64, arrived: Arc<AtomicU64>) {
        let mut progress = self.lock();
        (progress.index, progress.arrived) = (index, arrived);
        drop(progress);
        self.step(Phase::Receiving);
    }

    /// It is with the apply thread.
    pub fn taking_over(&self) {
        self.step(Phase::TakingOver);
    }

    /// It is the state now.
    pub fn took_over(&self, kept: &Path) {
        self.lock().kept = Some(kept.to_owned());
        self.step(Phase::Comparing);
    }

    /// It came to nothing. Without effect once it has taken over.
    pub fn fail(&self, why: &str) {
        let mut progress = self.lock();
        if progress.phase.is_under_way() && progress.phase != Phase::Comparing {
            log::warn!("the re-sync failed: {why}");
            progress.phase = Phase::Failed;
            progress.why = Some(why.to_owned());
        }
    }

    fn done(&self, comparison: Option<Comparison>) {
        let mut progress = self.lock();
        progress.phase = Phase::Done;
        progress.comparison = comparison;
    }
}

/// Why it is not done, and the command to type next.
pub type Refusal = (String, String);

/// What stands against a re-sync of this member now. `unfenced`: also if nothing is known to be wrong with it.
pub fn refusal(core: &ClientCore, unfenced: bool) -> Option<Refusal> {
    let vitals = &core.shared.vitals;
    let refuse = |why: &str, next: &str| Some((why.to_owned(), next.to_owned()));
    let own = core.shared.member_id;
    let (members, is_member) = core.with_view(|view| {
        let members = view.members();
        (members.len(), members.get(own).is_some())
    });
    if members < 2 {
        return refuse(
            "this member is its whole cluster: there is nobody to take a state from",
            "kvutil snapshot restore --help",
        );
    }
    if !is_member {
        return refuse("this member is not in the member list", "kvctl member list");
    }
    if vitals.is_leader.load(Relaxed) {
        return refuse(
            "this member leads: move leadership to one whose state is right first",
            "kvctl move-leader MEMBER_ID",
        );
    }
    if vitals.leader.load(Relaxed) == 0 {
        return refuse(
            "no leader is known",
            "kvctl endpoint status --cluster -w table",
        );
    }
    if core.shared.resync.look().phase.is_under_way() {
        return refuse("a re-sync is under way", "kvutil data resync --help");
    }
    if !unfenced && !core.is_fenced() {
        return refuse(
            "no CORRUPT alarm names this member: nothing is known to be wrong with its state",
            "kvctl alarm list   # to re-sync all the same: --unfenced",
        );
    }
    None
}

/// Begins one, which goes on by itself.
///
/// # Errors
/// What stands against it.
pub fn start(core: &Rc<ClientCore>, unfenced: bool) -> Result<(), Refusal> {
    if let Some(refusal) = refusal(core, unfenced) {
        return Err(refusal);
    }
    let leader = core.shared.vitals.leader.load(Relaxed);
    if !core.shared.resync.begin(leader) {
        return Err(refusal(core, unfenced).unwrap_or_default());
    }
    log::warn!("re-syncing this member from member {leader:x}, on the operator's request");
    let core = Rc::clone(core);
    rt::spawn_local(async move { carry_out(&core, leader).await });
    Ok(())
}

async fn carry_out(core: &Rc<ClientCore>, leader: u64) {
    let resync = &core.shared.resync;
    if let Err(why) = ask(core, leader).await {
        resync.fail(&why);
    }
    let mut silence = Silence::new(Instant::now());
    loop {
        let progress = resync.look();
        let silent = silence.after(progress.arrived.load(Relaxed), Instant::now());
        let leads = core.shared.vitals.leader.load(Relaxed);
        let late = progress
            .since
            .is_some_and(|since| since.elapsed() > PATIENCE);
        match progress.phase {
            Phase::Comparing => break,
            Phase::Failed => return core.expect_no_state(),
            // Whoever has it in all later phases says how it ends.
            Phase::Asking if late => {
                resync.fail("the leader said that it sends its state, and none came");
            }
            Phase::Asking | Phase::Receiving if is_orphaned(leader, leads, silent) => {
                resync.fail(&format!(
                    "member {leader:x}, whose state was to come, does not lead any more, and nothing has come from it for {silent:.0?}: member {leads:x} leads now, and is asked next time"
                ));
            }
            _ => {}
        }
        rt::sleep(LOOK).await;
    }
    // This core is told of the new state by the same thread that said so, and a moment later.
    let mut comparison = None;
    for _ in 0..COMPARISONS_MAX {
        rt::sleep(LOOK).await;
        comparison = integrity::compare_now(core).await;
        if comparison.as_ref().is_some_and(|one| !one.is_open()) {
            break;
        }
    }
    resync.done(comparison);
}

/// Stands for the number of bytes once all have come.
pub const ALL_ARRIVED: u64 = u64::MAX;

/// Whether a state that was asked from `leader` is waited for in vain, now that `leads` is the leader (0: nobody knows) and
/// nothing has come of it for so long.
fn is_orphaned(leader: u64, leads: u64, silent: Duration) -> bool {
    leads != 0 && leads != leader && silent >= DEPOSED_PATIENCE
}

/// How long nothing more has come.
struct Silence {
    arrived: u64,
    since: Instant,
}

impl Silence {
    fn new(now: Instant) -> Silence {
        Silence {
            arrived: 0,
            since: now,
        }
    }

    /// So many bytes have come until now; nothing more is waited for where that is all of them.
    fn after(&mut self, arrived: u64, now: Instant) -> Duration {
        if arrived != self.arrived || arrived == ALL_ARRIVED {
            *self = Silence {
                arrived,
                since: now,
            };
        }
        now.saturating_duration_since(self.since)
    }
}

/// Asks the leader for its state.
async fn ask(core: &Rc<ClientCore>, leader: u64) -> Result<(), String> {
    let serial = getrandom::u64().map_err(|error| error.to_string())?;
    let mut body = BytesMut::with_capacity(16);
    body.put_u64_le(serial);
    body.put_u64_le(core.applied_index());
    core.expect_state(leader, serial);
    let answer = core
        .ask_member(leader, ask::STATE, body.freeze(), PATIENCE)
        .await;
    match answer {
        None => Err(format!(
            "the leader, member {leader:x}, did not answer: it cannot be reached, or is of a version that cannot do this"
        )),
        Some(answer) if answer.is_empty() => Ok(()),
        Some(answer) => Err(format!(
            "the leader, member {leader:x}, does not send its state: {}",
            String::from_utf8_lossy(&answer)
        )),
    }
}

/// Member `from` asks for the state of this one. Empty: it is on its way. Else why not.
pub async fn asked(core: &Rc<ClientCore>, from: u64, mut body: &[u8]) -> Option<Bytes> {
    if body.len() != 16 {
        return None;
    }
    let (serial, index_min) = (body.get_u64_le(), body.get_u64_le());
    let give_up_ms = core.shared.now_ms() + REACH_PATIENCE.as_millis() as u64;
    while core.applied_index() < index_min && core.shared.now_ms() < give_up_ms {
        rt::sleep(LOOK).await;
    }
    if core.applied_index() < index_min {
        return Some(Bytes::from_static(b"it is behind the asker"));
    }
    Some(match core.send_state(from, serial).await {
        Ok(()) => Bytes::new(),
        Err(status) => Bytes::from(status.message.into_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_what_took_over_cannot_fail_any_more() {
        let resync = Resync::default();
        resync.fail("nothing is under way");
        assert_eq!(resync.look().phase, Phase::Never);
        assert!(resync.begin(7));
        assert!(!resync.begin(8), "one is under way");
        resync.receiving(42, Arc::default());
        resync.fail("the line broke");
        let told = resync.look();
        assert_eq!((told.phase, told.from, told.index), (Phase::Failed, 7, 42));
        assert_eq!(told.why.as_deref(), Some("the line broke"));
        resync.receiving(43, Arc::default());
        assert_eq!(resync.look().phase, Phase::Failed, "that one is over");
        assert!(resync.begin(8));
        assert_eq!(resync.look().why, None);
        resync.took_over(Path::new("/kept"));
        resync.fail("too late");
        assert_eq!(resync.look().phase, Phase::Comparing);
        resync.done(None);
        let told = resync.look();
        assert_eq!(told.phase, Phase::Done);
        assert_eq!(told.kept.as_deref(), Some(Path::new("/kept")));
        assert!(resync.begin(9));
    }

    #[test]
    fn a_state_is_given_up_when_its_sender_leads_no_more_and_falls_silent() {
        let begin = Instant::now();
        let mut silence = Silence::new(begin);
        assert_eq!(silence.after(0, begin + LOOK), LOOK);
        let later = begin + DEPOSED_PATIENCE;
        assert_eq!(silence.after(9, later), Duration::ZERO);
        assert_eq!(silence.after(9, later + LOOK), LOOK);
        let silent = silence.after(9, later + DEPOSED_PATIENCE);
        assert!(is_orphaned(7, 8, silent));
        assert!(!is_orphaned(7, 7, silent), "it leads, and may come back");
        assert!(!is_orphaned(7, 0, silent), "nobody could be asked instead");
        assert!(!is_orphaned(7, 8, silent - LOOK));
        let later = later + DEPOSED_PATIENCE;
        for checking in [LOOK, 2 * DEPOSED_PATIENCE] {
            assert_eq!(silence.after(ALL_ARRIVED, later + checking), Duration::ZERO);
        }
    }
}
