//! What a learner answers: it has the state, but does not know how current it is, and has no say.

use bytes::Bytes;
use kvnode_api::service::Method;
use kvnode_api::status::Status;
use kvnode_api::{RangeRequest, frame};

/// Refuses what a learner does not serve. `message` is empty for streams.
pub fn check(method: Method, message: &Bytes) -> Result<(), Status> {
    let served = match method {
        Method::Status | Method::Snapshot => true,
        Method::Range => frame::decode::<RangeRequest>(message.clone())?.serializable,
        _ => false,
    };
    if served {
        Ok(())
    } else {
        Err(Status::not_supported_for_learner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kvnode_api::service;

    fn range(serializable: bool) -> Bytes {
        let request = RangeRequest {
            key: "k".into(),
            serializable,
            ..RangeRequest::default()
        };
        let mut framed = BytesMut::new();
        frame::encode_into(&request, &mut framed).unwrap();
        framed.freeze().slice(5..)
    }

    #[test]
    fn a_learner_shows_its_status_its_snapshot_and_serializable_reads() {
        let refused = Err(Status::not_supported_for_learner());
        assert_eq!(check(Method::Range, &range(true)), Ok(()));
        assert_eq!(check(Method::Range, &range(false)), refused);
        let empty = Bytes::new();
        let served: Vec<&str> = service::Method::ALL
            .iter()
            .copied()
            .filter(|&method| check(method, &empty).is_ok())
            .map(Method::name)
            .collect();
        assert_eq!(served, ["Status", "Snapshot"]);
    }
}
