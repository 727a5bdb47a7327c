//! This member's own record: proposed at start if the member table does not show its name and client urls as they are
//! configured now. Its peer urls are the cluster's to change, and stay as they are.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvnode_api::Member;
use kvnode_store::command::Kind;
use prost::Message as _;

use crate::cores::client::ClientCore;
use crate::integrity;
use crate::rt;

const RETRY: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(1);

/// Ends when the record is in the table. The node is not ready before: clients find members by it.
pub async fn run(core: Rc<ClientCore>) {
    let vitals = &core.shared.vitals;
    while !core.shared.has_leader() {
        rt::sleep(LOOK).await;
    }
    let config = &core.shared.config;
    let wanted = Member {
        id: core.shared.member_id,
        name: config.name.clone(),
        peer_urls: config
            .advertise_peer_urls
            .iter()
            .map(ToString::to_string)
            .collect(),
        client_urls: config
            .advertise_client_urls
            .iter()
            .map(ToString::to_string)
            .collect(),
        is_learner: false,
    };
    loop {
        // Also the proof that this term can commit.
        if core.linearize().await.is_ok() {
            let shown = core.with_view(|view| {
                let known = view.members().get(wanted.id);
                known.is_some_and(|known| {
                    (&known.name, &known.client_urls) == (&wanted.name, &wanted.client_urls)
                })
            });
            if shown {
                break;
            }
            if let Err(status) = core
                .propose(Kind::MemberAttributes, &wanted.encode_to_vec())
                .await
            {
                log::warn!("publishing this member's urls: {status}; trying again");
                rt::sleep(RETRY).await;
            }
        } else {
            rt::sleep(RETRY).await;
        }
    }
    if config.initial_corrupt_check {
        integrity::check_at_start(&core).await;
    }
    vitals.announced.store(true, Ordering::Release);
}
