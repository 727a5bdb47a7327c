//! One process per data directory and per port; the second says why it cannot.

use std::time::Duration;

use kvnode_tests::{Client, Options, Server, fresh};

#[test]
fn a_second_process_on_the_data_directory_fails_fast_and_names_the_holder() {
    fresh(async |server, client| {
        if !server.kind().is_kvnode() {
            println!("skipped: etcd waits for the lock of its database without an end");
            return;
        }
        client.write("k", "v").await;
        let options = Options::default().data_dir(server.data_dir());
        let Err(failure) = Server::try_start(options) else {
            panic!("two servers on one data directory");
        };
        assert!(
            failure.status.is_some_and(|status| !status.success()),
            "{failure:?}"
        );
        assert!(
            failure.after < Duration::from_secs(5),
            "took {:?}",
            failure.after
        );
        let holder = server.pid().to_string();
        assert!(
            failure.output.contains(&holder),
            "pid {holder} in: {}",
            failure.output
        );
        client.write("k", "the first is not disturbed").await;
        server.kill();
        server.restart();
        let client = Client::connect(server.address()).await;
        assert!(
            client.read("k").await.is_some(),
            "a killed holder's lock is free"
        );
    });
}

#[test]
fn a_port_in_use_is_said_so() {
    fresh(async |server, client| {
        let port = server.address().port();
        let Err(failure) = Server::try_start(Options::default().client_port(port)) else {
            panic!("two servers on one port");
        };
        assert!(
            failure.status.is_some_and(|status| !status.success()),
            "{failure:?}"
        );
        assert!(
            failure.after < Duration::from_secs(10),
            "took {:?}",
            failure.after
        );
        assert!(
            failure.output.contains("ddress already in use"),
            "{}",
            failure.output
        );
        assert!(
            failure.output.contains(&port.to_string()),
            "{}",
            failure.output
        );
        client.write("k", "v").await;
    });
}

#[test]
fn a_bad_command_line_is_said_so() {
    for (argument, word) in [
        ("--no-such-flag=1", "no-such-flag"),
        ("--election-timeout=x", "election-timeout"),
    ] {
        let Err(failure) = Server::try_start(Options::default().arg(argument)) else {
            panic!("{argument} was accepted");
        };
        assert!(
            failure.status.is_some_and(|status| !status.success()),
            "{failure:?}"
        );
        assert!(
            failure.output.contains(word),
            "{argument}: {}",
            failure.output
        );
    }
}
