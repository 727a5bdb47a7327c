//! The machine against the h2 crate as a server.

use bytes::Bytes;
use kvnode_api::{Message as _, PutRequest, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

const PATH: &str = "/etcdserverpb.KV/Put";

/// An event that owns its content.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Data(u32, Vec<u8>),
    End(u32, u32, String),
}

/// Writes what the machine has queued, then reads until it has heard `wanted` events.
async fn exchange(
    connection: &mut Connection,
    stream: &mut DuplexStream,
    wanted: usize,
    read_bytes: usize,
) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut buffer = vec![0; read_bytes];
    loop {
        let out = std::mem::take(&mut connection.out);
        stream.write_all(&out).await.unwrap();
        if heard.len() >= wanted && (wanted > 0 || connection.settled()) {
            return heard;
        }
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {heard:?}");
        connection
            .receive(&buffer[..count], |event| {
                heard.push(match event {
                    Event::Data { stream, bytes } => Heard::Data(stream, bytes.to_vec()),
                    Event::End {
                        stream,
                        status,
                        message,
                    } => Heard::End(stream, status, message.to_owned()),
                });
            })
            .unwrap();
    }
}

/// Serves puts: the answer is the request's body; an empty key is refused in trailers only.
async fn serve(stream: DuplexStream) {
    let mut server = h2::server::Builder::new()
        .max_concurrent_streams(77)
        .initial_window_size(100_000)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    while let Some(accepted) = server.accept().await {
        let Ok((request, mut respond)) = accepted else {
            return;
        };
        tokio::spawn(async move {
            assert_eq!(request.method(), "POST");
            assert_eq!(request.uri().to_string(), format!("http://host:1{PATH}"));
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.headers()["te"], "trailers");
            let mut body = request.into_body();
            let mut whole = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                whole.extend_from_slice(&piece);
            }
            let mut decoder = frame::Decoder::new(1 << 20);
            decoder.push(Bytes::from(whole.clone()));
            let put = PutRequest::decode(decoder.next_message().unwrap().unwrap()).unwrap();
            decoder.finish().unwrap();
            let response = http::Response::builder().header("content-type", "application/grpc");
            if put.key.is_empty() {
                let response = response
                    .header("grpc-status", "3")
                    .header("grpc-message", "etcdserver: key is not provided");
                respond
                    .send_response(response.body(()).unwrap(), true)
                    .unwrap();
                return;
            }
            let mut send = respond
                .send_response(response.body(()).unwrap(), false)
                .unwrap();
            send.send_data(whole.into(), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            send.send_trailers(trailers).unwrap();
        });
    }
}

fn put(key: &str, length: usize) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: vec![b'v'; length].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn calls_answers_and_refusals_pass_whatever_the_pieces() {
    for read_bytes in [1, 7, 100_000] {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(serve(theirs));
        let mut connection = Connection::new("host:1".to_owned());
        exchange(&mut connection, &mut ours, 0, read_bytes).await;
        assert_eq!(connection.max_streams(), 77);
        for round in 0..3 {
            // One that fits a frame, one that needs several, one that is refused; the third round
            // is sent with every field indexed and answered so.
            for request in [put("key", 256), put("key", 40_000), put("", 1)] {
                let message = request.encode_to_vec();
                let stream = connection.next_stream();
                assert!(connection.call(PATH, &message));
                if request.key.is_empty() {
                    let heard = exchange(&mut connection, &mut ours, 1, read_bytes).await;
                    let text = "etcdserver: key is not provided".to_owned();
                    assert_eq!(heard, [Heard::End(stream, 3, text)], "round {round}");
                    continue;
                }
                let mut body = Vec::new();
                loop {
                    let heard = exchange(&mut connection, &mut ours, 1, read_bytes).await;
                    let mut ended = false;
                    for event in heard {
                        match event {
                            Heard::Data(of, bytes) => {
                                assert_eq!(of, stream);
                                body.extend_from_slice(&bytes);
                            }
                            end => {
                                assert_eq!(end, Heard::End(stream, 0, String::new()));
                                ended = true;
                            }
                        }
                    }
                    if ended {
                        break;
                    }
                }
                assert_eq!(body, frame::encode(&request).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn a_long_request_goes_out_as_the_windows_open_and_others_wait_for_it() {
    for read_bytes in [13, 100_000] {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(serve(theirs));
        let mut connection = Connection::new("host:1".to_owned());
        exchange(&mut connection, &mut ours, 0, read_bytes).await;
        // Longer than the connection's window of 65 535 and the stream's of 100 000.
        let request = put("key", 1_000_000);
        let message = request.encode_to_vec();
        let stream = connection.next_stream();
        assert!(connection.call(PATH, &message));
        assert!(!connection.call(PATH, b"small"), "one at a time");
        assert_eq!(connection.next_stream(), stream + 2);
        assert!(connection.out.len() < 67_000, "no more than the window");
        let mut body = Vec::new();
        let mut ended = false;
        while !ended {
            for event in exchange(&mut connection, &mut ours, 1, read_bytes).await {
                match event {
                    Heard::Data(_, bytes) => body.extend_from_slice(&bytes),
                    end => {
                        assert_eq!(end, Heard::End(stream, 0, String::new()));
                        ended = true;
                    }
                }
            }
        }
        assert!(body == frame::encode(&request).unwrap());
        assert!(connection.call(PATH, &put("key", 1).encode_to_vec()));
    }
}

#[tokio::test]
async fn an_answer_ends_the_upload_it_does_not_wait_for() {
    let mut connection = Connection::new("h".to_owned());
    let settings = [0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0];
    connection.receive(&settings, |_| ()).unwrap();
    assert!(connection.call(PATH, &vec![1; 100_000]));
    assert!(!connection.call(PATH, &vec![1; 100_000]));
    let reset = [0, 0, 4, kind::RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    connection.receive(&reset, |_| ()).unwrap();
    let stream = connection.next_stream();
    assert!(connection.call(PATH, &vec![1; 100_000]));
    assert_eq!(connection.next_stream(), stream + 2);
    assert!(
        !connection.call(PATH, b"small"),
        "the connection's window is used up"
    );
}

#[test]
fn the_first_bytes_are_preface_settings_and_window() {
    let connection = Connection::new("h".to_owned());
    let out = &connection.out;
    assert!(out.starts_with(PREFACE));
    let frames = &out[PREFACE.len()..];
    assert_eq!(frames[..9], [0, 0, 12, 4, 0, 0, 0, 0, 0]);
    assert_eq!(frames[9..21], [0, 2, 0, 0, 0, 0, 0, 4, 0x40, 0, 0, 0]);
    assert_eq!(frames[21..30], [0, 0, 4, 8, 0, 0, 0, 0, 0]);
    assert_eq!(u32_at(&frames[30..]), (1 << 30) - 65_535);
}

#[test]
fn pings_are_answered_and_a_farewell_ends_it() {
    let mut connection = Connection::new("h".to_owned());
    connection.out.clear();
    let ping = [0, 0, 8, kind::PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    connection.receive(&ping, |_| ()).unwrap();
    assert_eq!(
        connection.out[..9],
        [0, 0, 8, kind::PING, flag::ACK, 0, 0, 0, 0]
    );
    assert_eq!(connection.out[9..], ping[9..]);
    let farewell = [
        0,
        0,
        10,
        kind::GOAWAY,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        11,
        b'n',
        b'o',
    ];
    let Err(Broken(reason)) = connection.receive(&farewell, |_| ()) else {
        panic!("it goes on");
    };
    assert_eq!(reason, "the server goes away, code 11 no");
}

#[test]
fn malformed_frames_break_the_connection() {
    for frame in [
        &[1, 0, 0, kind::DATA, 0, 0, 0, 0, 1][..],
        &[0, 0, 1, kind::DATA, flag::PADDED, 0, 0, 0, 1, 9],
        &[0, 0, 1, kind::HEADERS, flag::END_HEADERS, 0, 0, 0, 1, 0xff],
        &[0, 0, 0, kind::HEADERS, 0, 0, 0, 0, 1],
        &[0, 0, 0, kind::PUSH_PROMISE, 0, 0, 0, 0, 1],
    ] {
        let mut connection = Connection::new("h".to_owned());
        assert!(connection.receive(frame, |_| ()).is_err(), "{frame:?}");
    }
}
