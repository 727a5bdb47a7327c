//! Keys: put, get, a prefix, a compare-and-swap, delete. `cargo run -p kvnode-client --example keys [ENDPOINT]`

use kvnode_client::api::compare::{CompareResult, CompareTarget, TargetUnion};
use kvnode_client::api::{
    Compare, DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use kvnode_client::{Client, Config, Result, get, prefix, put};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1);
    example(endpoint.as_deref().unwrap_or("127.0.0.1:2379")).await
}

pub async fn example(endpoint: &str) -> Result<()> {
    let client = Client::new(Config::new([endpoint]))?;
    client.put(put("fruit/apple", "red")).await?;
    client.put(put("fruit/pear", "green")).await?;

    let answer = client.range(get("fruit/apple")).await?;
    let apple = &answer.kvs[0];
    assert_eq!(apple.value, "red");

    let (key, range_end) = prefix("fruit/");
    let all = RangeRequest {
        key: key.clone(),
        range_end: range_end.clone(),
        ..Default::default()
    };
    assert_eq!(client.range(all).await?.count, 2);

    // Yellow, unless somebody changed the apple since it was read.
    let unchanged = Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: "fruit/apple".into(),
        target_union: Some(TargetUnion::ModRevision(apple.mod_revision)),
        ..Default::default()
    };
    let swap = TxnRequest {
        compare: vec![unchanged],
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(put(
                "fruit/apple",
                "yellow",
            ))),
        }],
        ..Default::default()
    };
    assert!(client.txn(swap.clone()).await?.succeeded);
    assert!(!client.txn(swap).await?.succeeded, "it is yellow now");

    let delete = DeleteRangeRequest {
        key,
        range_end,
        prev_kv: true,
    };
    let deleted = client.delete_range(delete).await?;
    println!("deleted {} fruits", deleted.deleted);
    Ok(())
}
