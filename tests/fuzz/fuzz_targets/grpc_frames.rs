//! What a gRPC client may send, in three shapes that the first byte picks.
//!
//! 0: any bytes whatever are a request body. They are cut into messages, or refused, the same way however they arrive.
//! 1: any bytes whatever are a message of any kind (the second byte says which). It decodes to what encodes and decodes
//!    again to itself, or is refused; the checks of its shape say yes or no.
//! 2: any bytes whatever follow a good HTTP/2 preface. The engine, set up as the server's, hands out requests or ends the
//!    connection; their bodies go the first way.
#![no_main]

#[path = "../memory.rs"]
mod memory;

use std::task::{Context, Poll};

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::Message;
use kvnode_api::frame::Decoder;
use libfuzzer_sys::fuzz_target;

const MESSAGE_BYTES_MAX: usize = 4096;
const OPERATIONS_MAX: usize = 128;

fuzz_target!(|data: &[u8]| {
    let Some(([shape, kind], data)) = data.split_first_chunk::<2>() else {
        return;
    };
    match shape % 3 {
        0 => {
            let whole = messages(data, data.len().max(1));
            for step in [1, 5, 1000] {
                assert_eq!(messages(data, step), whole);
            }
            for message in whole.0 {
                assert!(message.len() <= MESSAGE_BYTES_MAX);
                decode(*kind, message);
            }
        }
        1 => decode(*kind, Bytes::copy_from_slice(data)),
        _ => serve(usize::from(*kind) + 1, data),
    }
});

/// The messages, and whether the body was sound so far.
fn messages(body: &[u8], step: usize) -> (Vec<Bytes>, Option<api::Status>) {
    let (mut decoder, mut found) = (Decoder::new(MESSAGE_BYTES_MAX), Vec::new());
    for piece in body.chunks(step) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(status) => return (found, Some(status)),
            }
        }
    }
    (found, None)
}

macro_rules! decode_one_of {
    ($number:expr, $message:expr; $($kind:ident $(=> $check:expr)?,)*) => {{
        let all: &[fn(Bytes)] = &[$(|message| {
            let Ok(decoded) = api::frame::decode::<api::$kind>(message) else {
                return;
            };
            let again = api::frame::decode(decoded.encode_to_vec().into());
            assert_eq!(again.as_ref(), Ok(&decoded));
            $(let _ = $check(&decoded);)?
        },)*];
        all[usize::from($number) % all.len()]($message)
    }};
}

fn decode(number: u8, message: Bytes) {
    decode_one_of!(number, message;
        RangeRequest => |r: &_| (api::check::range(r), api::check::range_stream(r)),
        PutRequest => api::check::put,
        DeleteRangeRequest => api::check::delete_range,
        TxnRequest => |r: &_| (
            api::check::txn(r, OPERATIONS_MAX),
            api::check::txn_is_read_only(r),
            api::check::txn_is_serializable(r),
        ),
        CompactionRequest => api::check::compaction,
        WatchRequest,
        LeaseGrantRequest => api::check::lease_grant,
        LeaseRevokeRequest,
        LeaseKeepAliveRequest,
        LeaseTimeToLiveRequest,
        AlarmRequest => api::check::alarm,
        HashKVRequest,
        DowngradeRequest,
        MoveLeaderRequest,
        MemberAddRequest,
        MemberUpdateRequest,
        AuthenticateRequest,
        AuthUserAddRequest,
        AuthRoleGrantPermissionRequest => api::check::role_grant_permission,
        LockRequest,
        CampaignRequest,
        ProclaimRequest => |r: &api::ProclaimRequest| api::check::leader_key(&r.leader).map(drop),
        ResignRequest,
    );
}

/// A connection, from its preface to its end.
fn serve(step: usize, frames: &[u8]) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let wire = memory::Wire::new([PREFACE, frames].concat(), step);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(100)
        .max_header_list_size(64 << 10)
        .max_pending_accept_reset_streams(256)
        .max_local_error_reset_streams(Some(256));
    memory::drive(async move {
        let Ok(mut connection) = builder.handshake::<_, Bytes>(wire).await else {
            return;
        };
        let mut calls = Vec::new();
        std::future::poll_fn(|cx: &mut Context<'_>| {
            loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, answer)))) => {
                        let _ = api::service::lookup(request.uri().path());
                        let decoder = Decoder::new(MESSAGE_BYTES_MAX);
                        calls.push((request.into_body(), decoder, answer));
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            calls.retain_mut(|(body, decoder, _)| read(cx, body, decoder));
            Poll::Pending
        })
        .await;
    });
}

/// Takes what has come of a body; whether there may be more.
fn read(cx: &mut Context<'_>, body: &mut h2::RecvStream, decoder: &mut Decoder) -> bool {
    while let Poll::Ready(data) = body.poll_data(cx) {
        let Some(Ok(data)) = data else {
            return false;
        };
        let _ = body.flow_control().release_capacity(data.len());
        decoder.push(data);
        while let Ok(Some(message)) = decoder.next_message() {
            decode(0, message);
        }
    }
    true
}
