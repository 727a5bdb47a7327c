//! What several files of the packaging have to say alike.

use std::fs;

use crate::tree;

/// The name of nobody that stands where a publisher's belongs. (Assembled, or this file would find itself.)
const PLACEHOLDER: &str = concat!("kvnode", ".invalid");

#[test]
fn docker_and_podman_leave_the_same_files_out_of_an_image() {
    let read = |name: &str| fs::read_to_string(tree::root().join(name)).expect(name);
    let ignored = read(".containerignore");
    assert!(ignored.lines().any(|line| line == "target"), "{ignored:?}");
    assert_eq!(read(".dockerignore"), ignored);
}

#[test]
fn one_file_alone_says_who_publishes_the_packages() {
    let mut findings = Vec::new();
    let mut read_from = false;
    for file in tree::files() {
        read_from |=
            file.path == "packaging/build" && file.text.contains("\n. packaging/publisher\n");
        if file.path == "packaging/publisher" {
            continue;
        }
        for (number, line) in file.lines() {
            // Packages and their specification take it from there.
            let fields = [
                "Maintainer: ",
                "Homepage: ",
                "URL: ",
                "Vendor: ",
                "Packager: ",
            ];
            let field = fields.iter().any(|field| line.starts_with(field));
            let packaged = file.path.starts_with("packaging/");
            if line.contains(PLACEHOLDER) || (packaged && field && !line.contains('$')) {
                findings.push(format!("{}:{number}: {line}", file.path));
            }
        }
    }
    assert!(
        read_from,
        "packaging/build does not read packaging/publisher"
    );
    tree::none(findings, "a publisher named outside of packaging/publisher");
}
