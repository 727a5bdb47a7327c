//! The bytes on the wire: golden messages, odd encodings, hostile input.

use bytes::Bytes;
use kvnode_api::request_op::Request;
use kvnode_api::*;
use proptest::prelude::*;

fn golden<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(&M::decode(Bytes::copy_from_slice(bytes)).unwrap(), message);
}

fn decode<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(Bytes::copy_from_slice(bytes)).unwrap()
}

#[test]
fn compare_keeps_its_interval_at_number_64() {
    golden(
        &Compare {
            result: CompareResult::NotEqual as i32,
            target: CompareTarget::Lease as i32,
            key: "k".into(),
            target_union: Some(compare::TargetUnion::Lease(7)),
            range_end: "z".into(),
        },
        b"\x08\x03\x10\x04\x1a\x01k\x40\x07\x82\x04\x01z",
    );
}

#[test]
fn watch_response_keeps_its_events_at_number_11() {
    let delete = Event {
        r#type: EventType::Delete as i32,
        kv: Some(KeyValue {
            key: "k".into(),
            mod_revision: 5,
            ..Default::default()
        }),
        prev_kv: None,
    };
    golden(
        &WatchResponse {
            header: Some(ResponseHeader {
                revision: 5,
                ..Default::default()
            }),
            watch_id: -1,
            fragment: true,
            events: vec![delete],
            ..Default::default()
        },
        b"\x0a\x02\x18\x05\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x38\x01\
          \x5a\x09\x08\x01\x12\x05\x0a\x01k\x18\x05",
    );
}

#[test]
fn watch_filters_are_read_packed_and_unpacked() {
    let request = WatchCreateRequest {
        key: "a".into(),
        filters: vec![1, 0],
        ..Default::default()
    };
    golden(&request, b"\x0a\x01a\x2a\x02\x01\x00");
    assert_eq!(
        decode::<WatchCreateRequest>(b"\x0a\x01a\x28\x01\x28\x00"),
        request
    );
    assert_eq!(
        decode::<WatchCreateRequest>(b"\x2a\x01\x01\x28\x07").filters,
        [1, 7]
    );
}

#[test]
fn a_present_empty_header_is_two_bytes() {
    golden(
        &ResponseOp {
            response: Some(response_op::Response::ResponseTxn(TxnResponse {
                header: Some(ResponseHeader::default()),
                ..Default::default()
            })),
        },
        b"\x22\x02\x0a\x00",
    );
    golden(&DefragmentResponse { header: None }, b"");
    golden(
        &StatusResponse {
            downgrade_info: Some(DowngradeInfo::default()),
            ..Default::default()
        },
        b"\x6a\x00",
    );
}

#[test]
fn an_empty_bytes_field_is_an_absent_one_but_a_member_is_not() {
    assert_eq!(
        decode::<RangeRequest>(b"\x0a\x01k\x12\x00"),
        RangeRequest {
            key: "k".into(),
            ..Default::default()
        }
    );
    assert_eq!(decode::<RequestOp>(b"").request, None);
    assert_eq!(
        decode::<RequestOp>(b"\x0a\x00").request,
        Some(Request::RequestRange(RangeRequest::default()))
    );
    golden(
        &Compare {
            target_union: Some(compare::TargetUnion::Version(0)),
            ..Default::default()
        },
        b"\x20\x00",
    );
    golden(
        &WatchRequest {
            request_union: Some(watch_request::RequestUnion::ProgressRequest(
                WatchProgressRequest {},
            )),
        },
        b"\x1a\x00",
    );
    assert_eq!(
        decode::<ProclaimRequest>(b"\x0a\x00").leader,
        Some(LeaderKey::default())
    );
    assert_eq!(decode::<ProclaimRequest>(b"").leader, None);
}

#[test]
fn the_last_member_of_a_one_of_wins() {
    let op: RequestOp = decode(b"\x0a\x03\x0a\x01a\x12\x03\x0a\x01b");
    assert_eq!(
        op.request,
        Some(Request::RequestPut(PutRequest {
            key: "b".into(),
            ..Default::default()
        }))
    );
}

#[test]
fn negative_numbers_take_ten_bytes() {
    golden(
        &LeaseTimeToLiveResponse {
            id: 1,
            ttl: -1,
            ..Default::default()
        },
        b"\x10\x01\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    );
    golden(
        &RangeRequest {
            revision: i64::MIN,
            ..Default::default()
        },
        b"\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    );
}

#[test]
fn key_value_is_canonical() {
    golden(
        &KeyValue {
            key: "key".into(),
            create_revision: 2,
            mod_revision: 300,
            version: 3,
            value: "v".into(),
            lease: 0x1234,
        },
        b"\x0a\x03key\x10\x02\x18\xac\x02\x20\x03\x2a\x01v\x30\xb4\x24",
    );
    golden(&KeyValue::default(), b"");
}

#[test]
fn unknown_fields_and_enum_numbers_are_let_through() {
    // Field 99 as varint, 64 bit, bytes and 32 bit.
    let bytes =
        b"\x0a\x01k\x98\x06\x01\x99\x06\0\0\0\0\0\0\0\0\x9a\x06\x01x\x9d\x06\0\0\0\0\x28\x4d";
    let request: RangeRequest = decode(bytes);
    assert_eq!(request.key, "k");
    assert_eq!(request.sort_order, 77);
    assert!(SortOrder::try_from(request.sort_order).is_err());
}

#[test]
fn bytes_fields_share_the_frame() {
    let wire = Bytes::from(
        TxnRequest {
            success: vec![RequestOp {
                request: Some(Request::RequestPut(PutRequest {
                    key: "key".into(),
                    value: vec![b'v'; 100].into(),
                    ..Default::default()
                })),
            }],
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let span = wire.as_ptr_range();
    let decoded = TxnRequest::decode(wire.clone()).unwrap();
    let Some(Request::RequestPut(put)) = &decoded.success[0].request else {
        unreachable!()
    };
    assert!(span.contains(&put.key.as_ptr()) && span.contains(&put.value.as_ptr()));
}

/// Bytes of a transaction nested `levels` deep.
fn nested(levels: usize) -> Vec<u8> {
    let mut reversed: Vec<u8> = Vec::new();
    // Written from the inside out, back to front, to stay linear in depth.
    for _ in 0..levels {
        for tag in [0x22u8, 0x12] {
            let mut length = Vec::new();
            prost::encoding::encode_varint(reversed.len() as u64, &mut length);
            reversed.extend(length.iter().rev());
            reversed.push(tag);
        }
    }
    reversed.reverse();
    reversed
}

#[test]
fn nesting_is_bounded_by_the_decoder() {
    // prost stops at 100 messages within each other; a level is two of them.
    assert!(TxnRequest::decode(Bytes::from(nested(50))).is_ok());
    assert!(TxnRequest::decode(Bytes::from(nested(51))).is_err());
    assert!(TxnRequest::decode(Bytes::from(nested(200_000))).is_err());
    let deepest = TxnRequest::decode(Bytes::from(nested(50))).unwrap();
    assert_eq!(check::txn(&deepest, 128), Ok(()));
    assert_eq!(check::txn(&deepest, 49), Err(Status::too_many_ops()));
}

#[test]
fn malformed_bytes_are_an_error() {
    for bytes in [
        &b"\x0a"[..],                                        // tag without length
        b"\x0a\x05ab",                                       // shorter than announced
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",     // longer than memory
        b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // number over 64 bits
        b"\x08\x01",                                         // key as a number
        b"\x02\x01a",                                        // field number 0
        b"\x0e\x01",                                         // wire type 6
        b"\x0b",                                             // a group that never ends
    ] {
        let error = frame::decode::<RangeRequest>(Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(error.code, Code::Internal, "{bytes:?}");
    }
    // Text fields hold UTF-8 only.
    assert!(AuthUserAddRequest::decode(Bytes::from_static(b"\x0a\x01\xff")).is_err());
}

macro_rules! for_all_requests {
    ($bytes:expr; $($message:ty),* $(,)?) => {
        $(if let Ok(message) = <$message>::decode($bytes.clone()) {
            // What was understood survives a second trip.
            let again = message.encode_to_vec();
            assert_eq!(again.len(), message.encoded_len());
            assert_eq!(<$message>::decode(Bytes::from(again)).unwrap(), message);
        })*
    };
}

fn all_messages(bytes: &Bytes) {
    for_all_requests!(bytes;
        RangeRequest, RangeResponse, RangeStreamResponse, PutRequest, PutResponse,
        DeleteRangeRequest, DeleteRangeResponse, TxnRequest, TxnResponse, CompactionRequest,
        CompactionResponse, WatchRequest, WatchResponse, LeaseGrantRequest, LeaseGrantResponse,
        LeaseRevokeRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseCheckpointRequest,
        MemberAddRequest, MemberAddResponse, MemberRemoveRequest, MemberUpdateRequest,
        MemberListRequest, MemberListResponse, MemberPromoteRequest, AlarmRequest, AlarmResponse,
        StatusRequest, StatusResponse, HashRequest, HashKVRequest, HashKVResponse,
        SnapshotRequest, SnapshotResponse, MoveLeaderRequest, DowngradeRequest, AuthStatusResponse,
        AuthenticateRequest, AuthUserAddRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
        AuthRoleGetResponse, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
        User, Role, LockRequest, LockResponse, UnlockRequest, CampaignRequest, CampaignResponse,
        ProclaimRequest, LeaderResponse, ResignRequest, HealthCheckRequest, HealthCheckResponse,
    );
}

/// Bytes that look like protobuf, so that random input gets past the first tag.
fn almost_protobuf() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (1u8..16, any::<u8>()).prop_map(|(n, v)| vec![n << 3, v & 0x7f]),
        (1u8..16, proptest::collection::vec(any::<u8>(), 0..6)).prop_map(|(n, v)| {
            let mut out = vec![n << 3 | 2, v.len() as u8];
            out.extend(v);
            out
        }),
        proptest::collection::vec(any::<u8>(), 1..3),
    ];
    leaf.prop_recursive(6, 32, 4, |inner| {
        (1u8..16, proptest::collection::vec(inner, 0..4)).prop_map(|(n, parts)| {
            let body = parts.concat();
            let mut out = vec![n << 3 | 2];
            prost::encoding::encode_varint(body.len() as u64, &mut out);
            out.extend(body);
            out
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        all_messages(&Bytes::from(bytes));
    }

    #[test]
    fn bytes_like_protobuf_never_panic(parts in proptest::collection::vec(almost_protobuf(), 0..6)) {
        let bytes = Bytes::from(parts.concat());
        all_messages(&bytes);
        if let Ok(request) = TxnRequest::decode(bytes) {
            let _ = check::txn(&request, 128);
            let _ = check::txn_is_serializable(&request);
        }
    }
}
