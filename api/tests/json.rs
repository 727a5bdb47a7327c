//! The JSON form against the structs: the table of fields is theirs, and nothing is lost on the way.

use kvnode_api::json::shape::{self, ALL, Field, Kind, Shape};
use kvnode_api::json::{Error, ROUTES, read, write};
use kvnode_api::*;
use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, TestRunner};

/// Re-encodes a message by way of its struct.
type Struct = fn(&[u8]) -> Vec<u8>;

fn by_struct<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes)
        .expect("the table's bytes fit the struct")
        .encode_to_vec()
}

macro_rules! structs {
    ($($name:ident)*) => {
        fn struct_of(name: &str) -> Struct {
            match name {
                $(stringify!($name) => by_struct::<$name>,)*
                other => panic!("no struct is listed for {other}"),
            }
        }
    };
}

structs! {
    ResponseHeader KeyValue Event UserAddOptions Permission RangeRequest RangeResponse PutRequest
    PutResponse DeleteRangeRequest DeleteRangeResponse RequestOp ResponseOp Compare TxnRequest
    TxnResponse CompactionRequest CompactionResponse WatchRequest WatchCreateRequest
    WatchCancelRequest WatchProgressRequest WatchResponse LeaseGrantRequest LeaseGrantResponse
    LeaseRevokeRequest LeaseRevokeResponse LeaseKeepAliveRequest LeaseKeepAliveResponse
    LeaseTimeToLiveRequest LeaseTimeToLiveResponse LeaseLeasesRequest LeaseStatus
    LeaseLeasesResponse Member MemberAddRequest MemberAddResponse MemberRemoveRequest
    MemberRemoveResponse MemberUpdateRequest MemberUpdateResponse MemberListRequest
    MemberListResponse MemberPromoteRequest MemberPromoteResponse AlarmRequest AlarmMember
    AlarmResponse StatusRequest StatusResponse DowngradeInfo DefragmentRequest DefragmentResponse
    HashRequest HashResponse HashKVRequest HashKVResponse SnapshotRequest SnapshotResponse
    MoveLeaderRequest MoveLeaderResponse DowngradeRequest DowngradeResponse AuthEnableRequest
    AuthEnableResponse AuthDisableRequest AuthDisableResponse AuthStatusRequest AuthStatusResponse
    AuthenticateRequest AuthenticateResponse AuthUserAddRequest AuthUserAddResponse
    AuthUserGetRequest AuthUserGetResponse AuthUserListRequest AuthUserListResponse
    AuthUserDeleteRequest AuthUserDeleteResponse AuthUserChangePasswordRequest
    AuthUserChangePasswordResponse AuthUserGrantRoleRequest AuthUserGrantRoleResponse
    AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse AuthRoleAddRequest AuthRoleAddResponse
    AuthRoleGetRequest AuthRoleGetResponse AuthRoleListRequest AuthRoleListResponse
    AuthRoleDeleteRequest AuthRoleDeleteResponse AuthRoleGrantPermissionRequest
    AuthRoleGrantPermissionResponse AuthRoleRevokePermissionRequest
    AuthRoleRevokePermissionResponse LockRequest LockResponse UnlockRequest UnlockResponse
    CampaignRequest CampaignResponse LeaderKey LeaderRequest LeaderResponse ResignRequest
    ResignResponse ProclaimRequest ProclaimResponse
}

/// A message as any encoder would write it: random values, fields in order, at most one member.
fn message(shape: &'static Shape, depth: u32) -> BoxedStrategy<Vec<u8>> {
    let members = shape.fields.iter().filter(|field| field.member).count();
    let fields: Vec<BoxedStrategy<Vec<u8>>> =
        shape.fields.iter().map(|each| field(each, depth)).collect();
    let member = 0..members.max(1);
    (fields, member)
        .prop_map(move |(fields, chosen)| {
            let mut member = 0;
            let mut bytes = Vec::new();
            for (field, encoded) in shape.fields.iter().zip(fields) {
                if field.member {
                    member += 1;
                    if member - 1 != chosen {
                        continue;
                    }
                }
                bytes.extend(encoded);
            }
            bytes
        })
        .boxed()
}

fn field(field: &'static Field, depth: u32) -> BoxedStrategy<Vec<u8>> {
    let key = |wire: u64| varint(u64::from(field.number) << 3 | wire);
    match field.kind {
        Kind::Bytes | Kind::String | Kind::Message(_) => {
            let value: BoxedStrategy<Vec<u8>> = match field.kind {
                Kind::Bytes => proptest::collection::vec(any::<u8>(), 0..9).boxed(),
                Kind::String => "[ -~\u{e9}\u{1f600}\n\"\\\\]{0,6}"
                    .prop_map(String::into_bytes)
                    .boxed(),
                Kind::Message(_) if depth == 0 => return Just(Vec::new()).boxed(),
                Kind::Message(shape) => message(shape, depth - 1),
                _ => unreachable!("numbers are below"),
            };
            let omits = !field.many && !field.member && !matches!(field.kind, Kind::Message(_));
            let count = if field.many { 0..3 } else { 0..2 };
            proptest::collection::vec(value, count)
                .prop_map(move |values| {
                    let mut bytes = Vec::new();
                    for value in values.iter().filter(|value| !(omits && value.is_empty())) {
                        bytes.extend(key(2));
                        bytes.extend(varint(value.len() as u64));
                        bytes.extend(value);
                    }
                    bytes
                })
                .boxed()
        }
        kind => {
            let number: BoxedStrategy<u64> = match kind {
                Kind::Bool => (0u64..2).boxed(),
                Kind::Uint32 => any::<u32>().prop_map(u64::from).boxed(),
                // Also numbers that have no name.
                Kind::Enum(names) => prop_oneof![0..names.len() as u64 + 1, Just(u64::MAX)].boxed(),
                _ => prop_oneof![0u64..5, any::<u64>()].boxed(),
            };
            let count = if field.many { 0..3 } else { 1..2 };
            proptest::collection::vec(number, count)
                .prop_map(move |numbers| match field.many {
                    true if numbers.is_empty() => Vec::new(),
                    true => {
                        let packed: Vec<u8> = numbers.into_iter().flat_map(varint).collect();
                        [key(2), varint(packed.len() as u64), packed].concat()
                    }
                    false if numbers[0] == 0 && !field.member => Vec::new(),
                    false => [key(0), varint(numbers[0])].concat(),
                })
                .boxed()
        }
    }
}

fn varint(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number, &mut bytes);
    bytes
}

#[test]
fn every_message_fits_its_struct_and_comes_back_from_json() {
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    for shape in ALL {
        let back = struct_of(shape.name);
        let mut runner = TestRunner::new(config.clone());
        let result = runner.run(&message(shape, 3), |bytes| {
            prop_assert_eq!(&back(&bytes), &bytes, "table and struct of {}", shape.name);
            let mut text = Vec::new();
            write(shape, &bytes, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(&read(shape, text.as_bytes()).unwrap(), &bytes, "{}", text);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{}: {error}", shape.name));
    }
}

fn text_of(shape: &'static Shape, message: &impl Message) -> String {
    let mut text = Vec::new();
    write(shape, &message.encode_to_vec(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn from_text<M: Message + Default>(shape: &'static Shape, text: &str) -> M {
    let bytes = read(shape, text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    M::decode(&bytes[..]).unwrap()
}

#[test]
fn answers_look_as_the_gateways_do() {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: u64::MAX,
            revision: 7,
            ..Default::default()
        }),
        kvs: vec![KeyValue {
            key: "foo".into(),
            value: "\u{ff}".into(),
            create_revision: 2,
            mod_revision: 7,
            version: 3,
            ..Default::default()
        }],
        count: 1,
        ..Default::default()
    };
    assert_eq!(
        text_of(&shape::RANGE_RESPONSE, &response),
        r#"{"header":{"cluster_id":"18446744073709551615","revision":"7"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"7","version":"3","value":"w78="}],"count":"1"}"#
    );
    let event = |r#type| Event {
        r#type,
        kv: Some(KeyValue::default()),
        prev_kv: None,
    };
    let response = WatchResponse {
        watch_id: -1,
        canceled: true,
        cancel_reason: "a \"reason\"\n".into(),
        events: vec![event(0), event(1), event(9)],
        ..Default::default()
    };
    assert_eq!(
        text_of(&shape::WATCH_RESPONSE, &response),
        r#"{"watch_id":"-1","canceled":true,"cancel_reason":"a \"reason\"\n","events":[{"kv":{}},{"type":"DELETE","kv":{}},{"type":9,"kv":{}}]}"#
    );
    let hash = HashKVResponse {
        hash: u32::MAX,
        compact_revision: -1,
        ..Default::default()
    };
    assert_eq!(
        text_of(&shape::HASH_KV_RESPONSE, &hash),
        r#"{"hash":4294967295,"compact_revision":"-1"}"#
    );
    let member = Member {
        id: 1,
        peer_urls: vec!["a".into(), "".into()],
        ..Default::default()
    };
    assert_eq!(
        text_of(&shape::MEMBER, &member),
        r#"{"ID":"1","peerURLs":["a",""]}"#
    );
}

#[test]
fn requests_are_read_in_every_form_the_gateway_takes() {
    let range = RangeRequest {
        key: "foo".into(),
        range_end: "\0".into(),
        limit: 5,
        sort_order: SortOrder::Descend as i32,
        keys_only: true,
        ..Default::default()
    };
    for text in [
        r#"{"key":"Zm9v","range_end":"AA==","limit":"5","sort_order":"DESCEND","keys_only":true}"#,
        r#" { "key" : "Zm9v" , "rangeEnd":"AA","limit":5,"sortOrder":2,"keysOnly":true,"revision":null} "#,
        r#"{"limit":5.0,"unknown":[{"key":1}],"keys_only":true,"sort_order":2e0,"range_end":"AA==","key":"\u005am9v"}"#,
    ] {
        assert_eq!(
            from_text::<RangeRequest>(&shape::RANGE_REQUEST, text),
            range,
            "{text}"
        );
    }
    for text in ["", " \n", "{}", r#"{"key":"","limit":0,"keys_only":false}"#] {
        assert_eq!(
            read(&shape::RANGE_REQUEST, text.as_bytes()),
            Ok(Vec::new()),
            "{text}"
        );
    }
    let compare: Compare = from_text(&shape::COMPARE, r#"{"target":"CREATE","createRevision":0}"#);
    assert_eq!(
        compare.target_union,
        Some(compare::TargetUnion::CreateRevision(0))
    );
    let watch: WatchRequest = from_text(&shape::WATCH_REQUEST, r#"{"progress_request":{}}"#);
    assert!(watch.request_union.is_some());
    let filters = r#"{"filters":["NODELETE",0]}"#;
    let create: WatchCreateRequest = from_text(&shape::WATCH_CREATE_REQUEST, filters);
    assert_eq!(create.filters, [1, 0]);
    let grant: LeaseGrantRequest =
        from_text(&shape::LEASE_GRANT_REQUEST, r#"{"TTL":"-5","ID":-6}"#);
    assert_eq!((grant.ttl, grant.id), (-5, -6));
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let refused = |text: &str| read(&shape::PUT_REQUEST, text.as_bytes()).unwrap_err();
    let value = |at, field, expected| Error::Value {
        at,
        field,
        expected,
    };
    assert_eq!(refused(r#"{"key":"*"}"#), value(7, "key", "base64 text"));
    assert_eq!(refused(r#"{"key":5}"#), value(7, "key", "base64 text"));
    let whole = "a whole number of 64 bits";
    for bad in [
        "1.5",
        "\"x\"",
        "\" 1\"",
        "9223372036854775808",
        "true",
        "[1]",
        "\"01\"",
    ] {
        assert_eq!(
            refused(&format!("{{\"lease\":{bad}}}")),
            value(9, "lease", whole),
            "{bad}"
        );
    }
    assert_eq!(
        refused(r#"{"prev_kv":"true"}"#),
        value(11, "prev_kv", "true or false")
    );
    let twice = Error::Twice {
        at: 24,
        field: "prev_kv",
    };
    assert_eq!(refused(r#"{"prev_kv":true,"prevKv":true}"#), twice);
    for bad in [
        "[]",
        "1",
        "null",
        "{} {}",
        "{\"key\":\"Zg==\"",
        "{\"key\"}",
        "{,}",
    ] {
        let error = refused(bad);
        assert!(
            matches!(error, Error::Syntax { .. } | Error::CutOff),
            "{bad}: {error}"
        );
    }
    let one_of = r#"{"request_put":{},"request_range":{}}"#;
    let error = read(&shape::REQUEST_OP, one_of.as_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Twice {
                field: "request_range",
                ..
            }
        ),
        "{error}"
    );
    let sort = r#"{"sort_order":"SIDEWAYS"}"#;
    assert!(read(&shape::RANGE_REQUEST, sort.as_bytes()).is_err());
    assert!(read(&shape::MEMBER_REMOVE_REQUEST, br#"{"ID":-1}"#).is_err());
    assert!(read(&shape::TXN_REQUEST, br#"{"compare":[null]}"#).is_err());
    assert!(read(&shape::TXN_REQUEST, br#"{"compare":{}}"#).is_err());
}

#[test]
fn nesting_ends_at_its_bound_and_not_with_the_stack() {
    let nested = |levels: usize| {
        let open = r#"{"success":[{"request_txn":"#.repeat(levels);
        format!("{open}{{}}{}", "}]}".repeat(levels))
    };
    assert!(read(&shape::TXN_REQUEST, nested(40).as_bytes()).is_ok());
    let deep = nested(100_000);
    let error = read(&shape::TXN_REQUEST, deep.as_bytes()).unwrap_err();
    assert!(matches!(error, Error::TooDeep { .. }), "{error}");
    let mut bytes = Vec::new();
    for _ in 0..2000 {
        let op = [vec![0x22], varint(bytes.len() as u64), bytes].concat();
        bytes = [vec![0x12], varint(op.len() as u64), op].concat();
    }
    assert!(write(&shape::TXN_REQUEST, &bytes, &mut Vec::new()).is_err());
}

#[test]
fn bytes_that_are_no_answer_are_refused() {
    let bad: [&[u8]; 7] = [
        b"\x12",             // A length is missing.
        b"\x0a\x05abc",      // Shorter than it says.
        b"\x18\x01\x0a\x00", // Fields out of order.
        b"\x18\x01\x18\x01", // A single field twice.
        b"\x0a\x02\x0a\x05", // Cut off inside.
        b"\x0f",             // No such wire type.
        b"\x1a\x01x",        // A bool with a length.
    ];
    for bytes in bad {
        assert!(
            write(&shape::RANGE_RESPONSE, bytes, &mut Vec::new()).is_err(),
            "{bytes:?}"
        );
    }
    let mut unknown = Vec::new();
    write(
        &shape::RANGE_RESPONSE,
        b"\x20\x01\x7a\x01x\xf8\x01\x01",
        &mut unknown,
    )
    .unwrap();
    assert_eq!(
        unknown, br#"{"count":"1"}"#,
        "fields of later releases are passed over"
    );
}

#[test]
fn routes_name_the_messages_of_their_methods() {
    for route in ROUTES {
        let (request, response) = (route.request.name, route.response.name);
        if route.path.ends_with("observe") {
            assert_eq!((request, response), ("LeaderRequest", "LeaderResponse"));
            continue;
        }
        let stem = request.strip_suffix("Request").expect("named so");
        assert_eq!(response, format!("{stem}Response"), "{}", route.path);
        let name = route.method.name();
        let known = [name.to_owned(), format!("Auth{name}"), "Compaction".into()];
        assert!(
            known.iter().any(|known| known == stem),
            "{}: {name}",
            route.path
        );
    }
}

proptest! {
    #[test]
    fn any_text_and_any_bytes_are_answered(
        text in "[{}\\[\\]\":,0-9a-zA-Z\\\\ ]{0,60}",
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        at in 0..ALL.len(),
    ) {
        let _ = read(ALL[at], text.as_bytes());
        let mut out = Vec::new();
        if write(ALL[at], &bytes, &mut out).is_ok() {
            prop_assert!(read(ALL[at], &out).is_ok(), "{}", String::from_utf8_lossy(&out));
        }
    }
}

/// No encoder writes two of them, and text that names both could not be read back.
#[test]
fn two_members_of_a_one_of_have_no_json_form() {
    let one = Compare {
        target_union: Some(compare::TargetUnion::Lease(0)),
        ..Default::default()
    };
    let mut bytes = one.encode_to_vec();
    let mut text = Vec::new();
    write(&shape::COMPARE, &bytes, &mut text).expect("one is fine");
    assert!(read(&shape::COMPARE, &text).is_ok());
    let other = Compare {
        target_union: Some(compare::TargetUnion::Value("x".into())),
        ..Default::default()
    };
    bytes.splice(..0, other.encode_to_vec());
    assert!(write(&shape::COMPARE, &bytes, &mut Vec::new()).is_err());
}
