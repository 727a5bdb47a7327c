//! A watch from a revision on. `cargo run -p kvnode-client --example watch [ENDPOINT]`

use kvnode_client::api::WatchCreateRequest;
use kvnode_client::{Client, Config, Result, prefix, put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1);
    example(endpoint.as_deref().unwrap_or("127.0.0.1:2379")).await
}

pub async fn example(endpoint: &str) -> Result<()> {
    let client = Client::new(Config::new([endpoint]))?;
    let first = client.put(put("weather/oslo", "snow")).await?;
    let (key, range_end) = prefix("weather/");
    // It goes on by itself when the connection breaks, at the revision it had come to.
    let mut watcher = client.watch(WatchCreateRequest {
        key,
        range_end,
        start_revision: first.header.map_or(0, |header| header.revision),
        ..Default::default()
    });
    client.put(put("weather/rome", "sun")).await?;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for event in watcher.next().await?.events {
            seen.extend(event.kv.map(|kv| kv.value));
        }
    }
    assert_eq!(seen, ["snow", "sun"]);
    Ok(())
}
