//! RangeStream (cases 44-49; 3.7).

use bytes::Bytes;
use kvnode_api as api;
use kvnode_tests::client::settings;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Server, Status, code, idle};

/// Runs where the call exists; elsewhere checks that it says it does not.
fn streaming(body: impl AsyncFnOnce(&Server, Client)) {
    idle(async |server, client| {
        if server.kind().has_range_stream() {
            body(server, client).await;
            return;
        }
        let mut stream = client.range_stream(all()).await.expect("opens");
        let text = "unknown method RangeStream for service etcdserverpb.KV";
        refused(
            stream.collect().await,
            Status::new(code::UNIMPLEMENTED, text),
        );
    });
}

async fn chunks(client: &Client, request: api::RangeRequest) -> Vec<api::RangeResponse> {
    let mut stream = client.range_stream(request).await.expect("opens");
    let messages = stream.collect().await.expect("ends well");
    messages
        .into_iter()
        .map(|message| message.range_response.expect("filled"))
        .collect()
}

async fn fill(client: &Client, count: usize) {
    for number in 0..count {
        client
            .write(format!("s{number:04}"), format!("value {number}"))
            .await;
    }
}

fn joined(chunks: &[api::RangeResponse]) -> Vec<api::KeyValue> {
    chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect()
}

/// case 44
#[test]
fn chunks_together_are_the_range_and_only_the_last_sums_up() {
    streaming(async |_, client| {
        fill(&client, 25).await;
        let whole = client.range(all()).await.expect("range");
        let chunks = chunks(&client, all()).await;
        assert!(
            chunks.len() > 1,
            "25 keys do not fit the first chunk of at most 10"
        );
        assert!(chunks[0].kvs.len() <= 10);
        assert_eq!(joined(&chunks), whole.kvs);
        let (last, earlier) = chunks.split_last().expect("not empty");
        assert_eq!(
            (last.header, last.count, last.more),
            (whole.header, 25, false)
        );
        for chunk in earlier {
            assert_eq!((chunk.header, chunk.count, chunk.more), (None, 0, false));
        }
    });
}

/// case 45
#[test]
fn a_limit_holds_over_all_chunks() {
    streaming(async |_, client| {
        fill(&client, 25).await;
        for limit in [7, 12, 25, 30] {
            let request = api::RangeRequest { limit, ..all() };
            let whole = client.range(request.clone()).await.expect("range");
            let chunks = chunks(&client, request).await;
            assert_eq!(joined(&chunks), whole.kvs, "limit {limit}");
            let last = chunks.last().expect("not empty");
            assert_eq!((last.more, last.count), (whole.more, 25), "limit {limit}");
        }
    });
}

/// case 46
#[test]
fn writes_between_chunks_stay_unseen() {
    streaming(async |server, client| {
        // 8 MiB in all: far more than the windows of a client that does not read.
        let value = vec![b'x'; 32 << 10];
        for number in 0..256 {
            client.write(format!("s{number:04}"), &value).await;
        }
        let start = client.revision().await;
        let mut narrow = settings(16 << 10, 64 << 10);
        let slow = Client::connect_with(server.address(), &mut narrow)
            .await
            .expect("connects");
        let mut stream = slow.range_stream(all()).await.expect("opens");
        let first = stream.next().await.range_response.expect("filled");
        client
            .delete_range(delete_span("s0200", "s0250"))
            .await
            .expect("delete");
        client.write("s0255", "changed").await;
        client.write("s9999", "new").await;
        let mut chunks = vec![first];
        for message in stream.collect().await.expect("ends well") {
            chunks.push(message.range_response.expect("filled"));
        }
        let kvs = joined(&chunks);
        assert_eq!(kvs.len(), 256);
        assert!(kvs.iter().all(|kv| kv.value.len() == value.len()));
        let last = chunks.last().expect("not empty");
        assert_eq!((revision_of(&last.header), last.count), (start, 256));
    });
}

/// case 44, 46: an old revision streams as it was
#[test]
fn an_old_revision_can_be_streamed() {
    streaming(async |_, client| {
        fill(&client, 25).await;
        let revision = client.revision().await;
        client
            .delete_range(delete_span("s", "t"))
            .await
            .expect("delete");
        let request = api::RangeRequest { revision, ..all() };
        let whole = client.range(request.clone()).await.expect("range");
        let chunks = chunks(&client, request).await;
        assert_eq!((joined(&chunks), whole.kvs.len()), (whole.kvs, 25));
        let request = api::RangeRequest {
            revision: revision + 9,
            ..all()
        };
        let mut stream = client.range_stream(request).await.expect("opens");
        refused(stream.collect().await, refusal::future());
    });
}

/// case 47
#[test]
fn counts_and_empty_intervals_are_one_message() {
    streaming(async |_, client| {
        fill(&client, 25).await;
        let now = client.revision().await;
        let counted = chunks(
            &client,
            api::RangeRequest {
                count_only: true,
                ..all()
            },
        )
        .await;
        assert_eq!(counted.len(), 1);
        assert_eq!((counted[0].kvs.len(), counted[0].count), (0, 25));
        let empty = chunks(&client, span("x", "y")).await;
        assert_eq!(empty.len(), 1);
        assert_eq!((empty[0].kvs.len(), empty[0].count), (0, 0));
        assert_eq!(revision_of(&empty[0].header), now);
        let backward = chunks(&client, span("y", "x")).await;
        assert_eq!((backward.len(), backward[0].count), (1, 0));
    });
}

/// case 48
#[test]
fn sorting_and_filtering_are_unimplemented() {
    streaming(async |_, client| {
        fill(&client, 3).await;
        let orders = "RangeStream does not support custom sort orders";
        let filters = "RangeStream does not support revision filters";
        let cases = [
            (
                api::RangeRequest {
                    sort_order: DESCEND,
                    ..all()
                },
                orders,
            ),
            (
                api::RangeRequest {
                    sort_order: ASCEND,
                    sort_target: BY_MOD,
                    ..all()
                },
                orders,
            ),
            (
                api::RangeRequest {
                    min_mod_revision: 1,
                    ..all()
                },
                filters,
            ),
            (
                api::RangeRequest {
                    max_create_revision: 9,
                    ..all()
                },
                filters,
            ),
        ];
        for (request, text) in cases {
            let mut stream = client.range_stream(request).await.expect("opens");
            refused(
                stream.collect().await,
                Status::new(code::UNIMPLEMENTED, text),
            );
        }
        let ascending = api::RangeRequest {
            sort_order: ASCEND,
            ..all()
        };
        assert_eq!(joined(&chunks(&client, ascending).await).len(), 3);
        let mut stream = client.range_stream(get("")).await.expect("opens");
        refused(stream.collect().await, refusal::no_key());
    });
}

/// case 49
#[test]
fn compaction_above_the_pinned_revision_ends_a_slow_stream() {
    streaming(async |server, client| {
        let value = Bytes::from(vec![b'x'; 64 << 10]);
        for number in 0..256 {
            client.write(format!("s{number:04}"), &value).await;
        }
        let mut narrow = settings(16 << 10, 64 << 10);
        let slow = Client::connect_with(server.address(), &mut narrow)
            .await
            .expect("connects");
        let mut stream = slow.range_stream(all()).await.expect("opens");
        stream.next().await;
        let now = client.write("later", "v").await;
        client.compact(compact(now)).await.expect("compact");
        refused(stream.collect().await, refusal::compacted());
    });
}
