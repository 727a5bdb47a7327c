//! What other members ask of this one, beside raft's business and leases.
//!
//! Runs on one client core. An answer begins with the kind it answers; what is not understood (a newer member's
//! question) gets none, and the asker's deadline says so.

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::cores::client::ClientCore;
use crate::cores::replica::ask;
use crate::{integrity, resync};

/// The answer to member `from`, with its kind in front.
pub async fn answer(core: &Rc<ClientCore>, from: u64, kind: u8, body: Bytes) -> Option<Bytes> {
    let answer = match kind {
        ask::HASH => integrity::hash_asked(core, &body).await?,
        ask::STATE => resync::asked(core, from, &body).await?,
        _ => return None,
    };
    let mut out = BytesMut::with_capacity(1 + answer.len());
    out.put_u8(kind);
    out.extend_from_slice(&answer);
    Some(out.freeze())
}
