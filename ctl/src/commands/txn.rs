//! `txn`: compares and requests from stdin, one transaction.

use kvnode_client::api;
use kvnode_client::api::request_op::Request;
use tokio::sync::mpsc::Receiver;

use super::kv;
use crate::cli;
use crate::context::Context;
use crate::failure::{Failure, Result, code};
use crate::output::{self, say_line};
use crate::{terminal, words};

pub async fn run(context: &Context<'_>) -> Result<()> {
    if !context.words().is_empty() {
        return Err(Failure::usage(
            "txn command does not accept argument",
            "txn",
        ));
    }
    let printer = context.printer(output::ALL)?;
    let client = context.patient_client()?;
    let interactive = context.flag("interactive");
    let prompt = |text: &str| if interactive { say_line(text) } else { Ok(()) };
    let mut lines = terminal::lines("txn", interactive);
    let mut request = api::TxnRequest::default();
    prompt("compares:")?;
    while let Some(line) = part(&mut lines).await? {
        request.compare.push(words::compare(&line).map_err(bad)?);
    }
    prompt("success requests (get, put, del):")?;
    while let Some(line) = part(&mut lines).await? {
        request.success.push(operation(&line)?);
    }
    prompt("failure requests (get, put, del):")?;
    while let Some(line) = part(&mut lines).await? {
        request.failure.push(operation(&line)?);
    }
    printer.txn(&client.txn(request).await?)
}

fn bad(text: impl Into<String>) -> Failure {
    Failure::new(code::INVALID_INPUT, text).next("kvctl txn --help")
}

/// The next line of a part, or `None` at the empty line that ends it.
async fn part(lines: &mut Receiver<String>) -> Result<Option<String>> {
    let line = lines.recv().await.ok_or_else(|| bad("EOF"))?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

fn operation(line: &str) -> Result<api::RequestOp> {
    let invalid = || bad(format!("invalid txn request: {line}"));
    let parsed = words::split(line).map_err(bad)?;
    if parsed.len() < 2 {
        return Err(bad(format!("invalid txn compare request: {line}")));
    }
    let matches = parser()
        .try_get_matches_from(parsed.into_iter().map(os))
        .map_err(|_| invalid())?;
    let (name, inner) = matches.subcommand().ok_or_else(invalid)?;
    let request = match name {
        "get" => Request::RequestRange(kv::range_request(inner)?),
        "put" => Request::RequestPut(kv::put_request(inner, false)?),
        _ => Request::RequestDeleteRange(kv::delete_request(inner)?),
    };
    Ok(api::RequestOp {
        request: Some(request),
    })
}

fn os(word: Vec<u8>) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(word)
}

/// The three requests there are, with the flags they have on the command line.
fn parser() -> clap::Command {
    clap::Command::new("txn")
        .no_binary_name(true)
        .subcommand_required(true)
        .infer_subcommands(true)
        .subcommands([cli::get(), cli::put(), cli::del()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_flags_of_the_commands() {
        let op = |line: &str| operation(line).map(|op| op.request.expect("a request"));
        match op("put \"a b\" 'c d' --lease=1f --prev-kv").expect("put") {
            Request::RequestPut(put) => {
                assert_eq!(
                    (&put.key[..], &put.value[..], put.lease, put.prev_kv),
                    (&b"a b"[..], &b"c d"[..], 0x1f, true)
                );
            }
            other => panic!("{other:?}"),
        }
        match op("get --prefix p --limit 3").expect("get") {
            Request::RequestRange(get) => {
                assert_eq!((&get.range_end[..], get.limit), (&b"q"[..], 3))
            }
            other => panic!("{other:?}"),
        }
        match op("del x y").expect("del") {
            Request::RequestDeleteRange(del) => assert_eq!(&del.range_end[..], b"y"),
            other => panic!("{other:?}"),
        }
        for bad in ["get", "frob x", "put k", "get k --nonsense"] {
            assert!(operation(bad).is_err(), "{bad}");
        }
    }
}
