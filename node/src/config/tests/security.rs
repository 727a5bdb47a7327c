//! TLS settings: what is refused, and what is told.

use super::*;
use crate::tls::suites::Version;

const PAIR: [&str; 2] = ["--cert-file=c", "--key-file=k"];
const CA: &str = "--trusted-ca-file=a";

fn with<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

/// Clients on these urls.
fn on(urls: &'static str) -> [&'static str; 2] {
    [urls, "--advertise-client-urls=https://h:1"]
}

const HTTPS: &str = "--listen-client-urls=https://localhost:1";

#[test]
fn https_without_a_certificate_is_refused_naming_the_url() {
    refused(
        load(&on(HTTPS)),
        "--listen-client-urls has https://localhost:1, but there is no certificate",
        "--cert-file and --key-file, or --auto-tls",
    );
    refused(
        load(&["--listen-metrics-urls=unixs:///m"]),
        "--listen-metrics-urls has unixs:///m",
        "--cert-file",
    );
    refused(
        load(&["--listen-peer-urls=https://localhost:2"]),
        "--listen-peer-urls has https://localhost:2",
        "--peer-auto-tls",
    );
    assert!(load(&with(&[&on(HTTPS), &PAIR])).is_ok());
    assert!(load(&with(&[&on(HTTPS), &["--auto-tls"]])).is_ok());
}

#[test]
fn a_certificate_goes_with_its_key() {
    for (flag, other) in [
        ("--cert-file=x", "--key-file"),
        ("--key-file=x", "--cert-file"),
        ("--peer-cert-file=x", "--peer-key-file"),
        ("--peer-client-key-file=x", "--peer-client-cert-file"),
    ] {
        let name = flag.split('=').next().unwrap();
        refused(
            load(&[flag]),
            &format!("{name} is set without {other}"),
            other,
        );
    }
}

#[test]
fn what_would_let_somebody_in_unasked_is_refused() {
    refused(
        load(&with(&[&on(HTTPS), &PAIR, &["--client-cert-auth"]])),
        "--client-cert-auth is set without --trusted-ca-file",
        "authority",
    );
    refused(
        load(&with(&[&on(HTTPS), &PAIR, &["--client-crl-file=r"]])),
        "--client-crl-file has no effect: nobody is asked for a certificate",
        "--client-cert-auth",
    );
    refused(
        load(&with(&[
            &on(HTTPS),
            &PAIR,
            &[
                CA,
                "--client-cert-allowed-cn=a",
                "--client-cert-allowed-hostname=b",
            ],
        ])),
        "--client-cert-allowed-cn and --client-cert-allowed-hostname are mutually exclusive",
        "one of the two",
    );
    let mixed = "--listen-client-urls=https://localhost:1,http://localhost:3";
    let auth = [CA, "--client-cert-auth"];
    refused(
        load(&with(&[&on(mixed), &PAIR, &auth])),
        "--listen-client-urls has http://localhost:3, where --client-cert-auth has no effect",
        "--allow-mixed-security",
    );
    let allowed = load(&with(&[
        &on(mixed),
        &PAIR,
        &auth,
        &["--allow-mixed-security"],
    ]))
    .unwrap();
    assert!(texts(&allowed, Level::Warn)[0].contains("is not encrypted"));
    // Metrics in the clear are usual beside it.
    let metrics = ["--listen-metrics-urls=http://localhost:3"];
    let loaded = load(&with(&[&on(HTTPS), &PAIR, &auth, &metrics])).unwrap();
    assert!(texts(&loaded, Level::Warn).is_empty());
    refused(
        load(&[
            "--peer-auto-tls",
            "--peer-trusted-ca-file=a",
            "--listen-peer-urls=https://localhost:2",
        ]),
        "--peer-auto-tls makes self-signed certificates, which --peer-trusted-ca-file would refuse",
        "one authority",
    );
}

#[test]
fn an_authority_alone_asks_for_certificates() {
    let loaded = load(&with(&[&on(HTTPS), &PAIR, &[CA]])).unwrap();
    let client = loaded.config.security.client;
    assert!(client.verifies() && !client.cert_auth);
}

#[test]
fn a_certificate_that_encrypts_nothing_is_told() {
    let loaded = load(&PAIR).unwrap();
    assert!(texts(&loaded, Level::Warn)[0].contains("http://localhost:2379"));
    let loaded = load(&with(&[&on(HTTPS), &PAIR, &["--auto-tls"]])).unwrap();
    assert_eq!(
        texts(&loaded, Level::Warn),
        ["auto-tls is ignored: --cert-file is set"]
    );
    assert!(!loaded.config.security.client.auto);
}

#[test]
fn versions_and_suites_are_checked() {
    refused(
        load(&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]),
        "--tls-min-version (TLS1.3) is above --tls-max-version (TLS1.2)",
        "",
    );
    refused(
        load(&["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"]),
        "\"TLS_RSA_WITH_AES_128_CBC_SHA\" is none of the suites this server has",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    );
    let suite = "--cipher-suites=TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_AES_128_GCM_SHA256";
    refused(
        load(&[suite, "--tls-min-version=TLS1.3"]),
        "cannot be configured when only TLS1.3 is enabled",
        "",
    );
    let offer = load(&[suite, "--tls-max-version=TLS1.2"])
        .unwrap()
        .config
        .security
        .offer;
    assert_eq!(
        offer.suites,
        ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]
    );
    assert_eq!((offer.min, offer.max), (Version::Tls12, Version::Tls12));
    assert_eq!(load(&[]).unwrap().config.security.offer.max, Version::Tls13);
}

#[test]
fn http_listeners_of_their_own_need_addresses_of_their_own() {
    refused(
        load(&["--listen-client-http-urls=http://127.0.0.1:2379"]),
        "--listen-client-urls (http://localhost:2379) and --listen-client-http-urls",
        "port",
    );
    let loaded = load(&["--listen-client-http-urls=http://localhost:1"]).unwrap();
    assert_eq!(loaded.config.listen_client_http_urls.len(), 1);
    refused(
        load(&["--listen-peer-urls=unixs://p"]),
        "is a unix socket; members reach each other by TCP only",
        "https://host:port",
    );
}
