//! A lock that is free again when its holder is gone, and an election. `cargo run -p kvnode-client --example lock [ENDPOINT]`

use kvnode_client::concurrency::{Election, Lock, Session};
use kvnode_client::{Client, Config, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1);
    example(endpoint.as_deref().unwrap_or("127.0.0.1:2379")).await
}

pub async fn example(endpoint: &str) -> Result<()> {
    let client = Client::new(Config::new([endpoint]))?;
    // A lease of 10 seconds, kept alive as long as the session lives.
    let session = Session::new(&client, 10).await?;
    let mut lock = Lock::new(&session, "backup");
    lock.acquire().await?;
    // What only one may do at a time is done here.
    lock.release().await?;

    let mut election = Election::new(&session, "scheduler");
    election.campaign("host1").await?;
    let leader = election.leader().await?;
    assert_eq!(
        leader.map(|leader| leader.value).as_deref(),
        Some(&b"host1"[..])
    );
    election.resign().await?;
    session.close().await
}
