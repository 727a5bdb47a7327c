//! What must hold before a change of the membership is proposed, as far as the table can tell.
//! Whether enough members can be reached, and whether a learner has caught up, is for the leader to
//! judge when it takes the proposal.
//!
//! "Started" is who has announced itself: its record has a name. A member that was added and never
//! started cannot vote, so with strict checks no change is made after which the started voters could
//! be fewer than a quorum. The second member of a cluster may be added all the same, or no cluster
//! could grow.

use kvnode_api::{Member, Status};

use super::Members;

/// How strictly changes are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse what could cost the quorum.
    pub strict: bool,
    /// Learners at a time.
    pub learners_max: usize,
}

impl Rules {
    /// Errors: "not enough started members", "member ID already exist", "member not found" (an id
    /// that was removed), "Peer URLs already exists", "too many learner members".
    pub fn add(&self, members: &Members, new: &Member) -> Result<(), Status> {
        let (voters, started) = count(members, |_| true);
        let growing_from_one = started == 1 && voters == 1;
        if self.strict && !new.is_learner && !growing_from_one && started < quorum(voters + 1) {
            return Err(Status::not_enough_started_members());
        }
        members.check_id(new.id)?;
        if members.get(new.id).is_some() {
            return Err(Status::member_exists());
        }
        check_urls_free(members, new.id, &new.peer_urls)?;
        if new.is_learner && members.learners().count() >= self.learners_max {
            return Err(Status::too_many_learners());
        }
        Ok(())
    }

    /// Errors: "member not found", "not enough started members". A learner may always go.
    pub fn remove(&self, members: &Members, id: u64) -> Result<(), Status> {
        let leaving = members.get(id).ok_or_else(Status::member_not_found)?;
        if leaving.is_learner {
            return Ok(());
        }
        let (voters, started) = count(members, |member| member.id != id);
        // Nobody left to vote is no cluster, strict or not.
        if voters == 0 || (self.strict && started < quorum(voters)) {
            return Err(Status::not_enough_started_members());
        }
        Ok(())
    }

    /// Errors: "member not found", "Peer URLs already exists".
    pub fn update(&self, members: &Members, id: u64, peer_urls: &[String]) -> Result<(), Status> {
        members.get(id).ok_or_else(Status::member_not_found)?;
        check_urls_free(members, id, peer_urls)
    }

    /// Errors: "member not found", "can only promote a learner member", "not enough started members".
    pub fn promote(&self, members: &Members, id: u64) -> Result<(), Status> {
        let learner = members.get(id).ok_or_else(Status::member_not_found)?;
        if !learner.is_learner {
            return Err(Status::member_not_learner());
        }
        let (voters, started) = count(members, |_| true);
        // The leader promotes only who answers it: the learner itself counts as started.
        if self.strict && started + 1 < quorum(voters + 1) {
            return Err(Status::not_enough_started_members());
        }
        Ok(())
    }
}

/// Voters among those chosen, and how many of them have started.
fn count(members: &Members, chosen: impl Fn(&Member) -> bool) -> (usize, usize) {
    let voters = members.voters().filter(|member| chosen(member));
    voters.fold((0, 0), |(voters, started), member| {
        (voters + 1, started + usize::from(!member.name.is_empty()))
    })
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn check_urls_free(members: &Members, id: u64, peer_urls: &[String]) -> Result<(), Status> {
    let taken = |url: &String| members.holder(url).is_some_and(|holder| holder.id != id);
    if peer_urls.iter().any(taken) {
        return Err(Status::peer_urls_exist());
    }
    Ok(())
}
