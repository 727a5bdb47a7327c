//! Without a runtime: each call blocks. `cargo run -p kvnode-client --example blocking [ENDPOINT]`

use kvnode_client::blocking::Client;
use kvnode_client::{Config, Result, get, put};

fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1);
    example(endpoint.as_deref().unwrap_or("127.0.0.1:2379"))
}

pub fn example(endpoint: &str) -> Result<()> {
    let client = Client::new(Config::new([endpoint]))?;
    client.put(put("greeting", "hello"))?;
    assert_eq!(client.range(get("greeting"))?.kvs[0].value, "hello");
    // Any other call, by the client that does not block.
    let leases = client.run(|client| async move { client.leases().await })?;
    println!("{} leases", leases.leases.len());
    Ok(())
}
