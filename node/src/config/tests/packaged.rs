//! What `packaging/` runs is what this server takes: exit codes in units, and the settings of containers and of the Procfile.

use serde_yaml_ng::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::*;

const UNIT: &str = include_str!("../../../../packaging/systemd/kvnode.service");
const UNIT_OF_INSTANCE: &str = include_str!("../../../../packaging/systemd/kvnode@.service");
const CONTAINERFILE: &str = include_str!("../../../../packaging/Containerfile");
const COMPOSE: &str = include_str!("../../../../packaging/compose.yaml");
const CHECK_IMAGE: &str = include_str!("../../../../packaging/check-image");
const PROCFILE: &str = include_str!("../../../../packaging/Procfile");
const TROUBLESHOOTING: &str = include_str!("../../../../docs/troubleshooting.md");
const INSTALL: &str = include_str!("../../../../docs/install.md");
const README: &str = include_str!("../../../../README.md");
const EXIT: &str = include_str!("../../exit.rs");

/// The numbers that stand alone in front of a word in `text`.
fn numbers(text: &str) -> BTreeSet<u8> {
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// What stands between these two, which have to be there.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).expect(from);
    rest.split_once(to).expect(to).0
}

/// What a unit's setting says.
fn set<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut found = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = found.next().expect(key);
    assert_eq!(found.next(), None, "{key} is there twice");
    value
}

#[test]
fn every_exit_code_is_documented_and_units_know_which_another_try_does_not_mend() {
    let variant = |line: &str| line.split_once(" = ")?.1.strip_suffix(',')?.parse().ok();
    let codes: BTreeSet<u8> = EXIT.lines().filter_map(variant).collect();
    assert!(codes.contains(&(crate::exit::Code::Preflight as u8)));

    let with_success = |codes: &BTreeSet<u8>| codes.iter().copied().chain([0]).collect();
    let all: BTreeSet<u8> = with_success(&codes);
    let first_word = |line: &str| line.split_whitespace().next()?.parse().ok();
    let of_help: BTreeSet<u8> = print::EXIT_CODES.lines().filter_map(first_word).collect();
    assert_eq!(of_help, all, "kvnode --help");
    let of_readme = numbers(between(README, "Exit codes of `kvnode`:", "\n\n"));
    assert_eq!(of_readme, all, "README.md");

    let table = between(
        TROUBLESHOOTING,
        "the unit tries again |\n|---|---|---|\n",
        "\n\n",
    );
    let mut tried = BTreeSet::new();
    let mut left = BTreeSet::new();
    for row in table.lines() {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let &[code, _, again] = &cells[..] else {
            panic!("{row:?} has no three cells");
        };
        let place = match again {
            "yes" => &mut tried,
            "no" => &mut left,
            _ => panic!("{row:?} says neither yes nor no"),
        };
        assert!(
            place.insert(code.parse().expect(row)),
            "{row:?} is there twice"
        );
    }
    assert!(tried.is_disjoint(&left));
    assert_eq!(tried.union(&left).copied().collect::<BTreeSet<u8>>(), codes);

    for unit in [UNIT, UNIT_OF_INSTANCE] {
        assert_eq!(set(unit, "Restart"), "on-failure");
        assert_eq!(numbers(set(unit, "RestartPreventExitStatus")), left);
    }
    let of_install = numbers(between(
        INSTALL,
        "not restarted after exit codes",
        "`systemctl reload",
    ));
    assert_eq!(of_install, left, "docs/install.md");
}

/// The words behind an instruction of the Containerfile's last image, lines that go on joined.
fn instruction(name: &str) -> String {
    let text = CONTAINERFILE.replace("\\\n", " ");
    let (_, last) = text.rsplit_once("\nFROM ").expect("FROM");
    let mut found = last
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let words = found.next().expect(name).trim().to_owned();
    assert_eq!(found.next(), None, "{name} is there twice");
    words
}

/// Variables that the image sets.
fn image_variables() -> BTreeMap<String, String> {
    let words = instruction("ENV");
    let pairs = words.split_whitespace().map(|word| {
        let (name, value) = word.split_once('=').expect(word);
        (name.to_owned(), value.to_owned())
    });
    pairs.collect()
}

/// Loads these variables and words as a member would, with nothing to be said about them.
fn taken(what: &str, args: &[&str], env: &BTreeMap<String, String>) -> Config {
    let loaded = Config::load(args, env, |path| panic!("{what} reads {}", path.display()))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(loaded.mode, Mode::Run, "{what}");
    assert!(loaded.notices.is_empty(), "{what}: {:?}", loaded.notices);
    assert_eq!(loaded.config.founding_error, None, "{what}");
    loaded.config
}

fn port(url: &Url) -> String {
    let url = url.to_string();
    url.rsplit_once(':').expect(&url).1.to_owned()
}

#[test]
fn the_image_starts_with_settings_that_are_taken_and_keeps_its_data_in_the_volume() {
    let config = taken("the image", &[], &image_variables());
    assert!(config.data_dir.starts_with(instruction("VOLUME")));
    assert_eq!(instruction("ENTRYPOINT"), r#"["/usr/bin/kvnode"]"#);
    let exposed = instruction("EXPOSE");
    let served = port(&config.listen_client_urls[0]);
    assert!(exposed.split(' ').any(|port| port == served));
}

/// The words of a list, or the entries of a mapping as `name=value`.
fn words(value: &Value) -> Vec<String> {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => panic!("{other:?} is no word"),
    };
    match value {
        Value::Sequence(items) => items.iter().map(plain).collect(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|(name, value)| format!("{}={}", plain(name), plain(value)))
            .collect(),
        other => panic!("{other:?} is neither a list nor a mapping"),
    }
}

/// `left SEPARATOR right` of the only word of a list.
fn only_pair(value: &Value, separator: char) -> (String, String) {
    let words = words(value);
    let [word] = &words[..] else {
        panic!("{words:?} is not one word");
    };
    let (left, right) = word.rsplit_once(separator).expect(word);
    (left.to_owned(), right.to_owned())
}

#[test]
fn the_compose_file_runs_the_image_with_settings_that_are_taken() {
    let mut compose: Value = serde_yaml_ng::from_str(COMPOSE).expect("packaging/compose.yaml");
    compose.apply_merge().expect("its merge keys");
    let (head, _) = COMPOSE.split_once("\nx-member:").expect("its head");
    for text in [CONTAINERFILE, head] {
        assert!(text.contains("podman build -t kvnode -f packaging/Containerfile ."));
    }

    let services = compose["services"].as_mapping().expect("services");
    let names: BTreeSet<&str> = services.keys().filter_map(Value::as_str).collect();
    let mut ports = BTreeSet::new();
    let mut volumes = BTreeSet::new();
    for (name, service) in services {
        let name = name.as_str().expect("a name");
        let keys: Vec<&str> = service
            .as_mapping()
            .expect(name)
            .keys()
            .filter_map(Value::as_str)
            .collect();
        let known = [
            "image",
            "restart",
            "security_opt",
            "cap_drop",
            "read_only",
            "ulimits",
            "environment",
            "healthcheck",
            "ports",
            "volumes",
        ];
        assert!(
            keys.iter().all(|key| known.contains(key)),
            "{name}: {keys:?}"
        );
        assert_eq!(service["image"], "kvnode", "{name}");
        assert_eq!(service["read_only"], Value::Bool(true), "{name}");

        // Variables of the service win over those of the image.
        let mut env = image_variables();
        for word in words(&service["environment"]) {
            let (variable, value) = word.split_once('=').expect("a pair");
            env.insert(variable.to_owned(), value.to_owned());
        }
        let config = taken(name, &[], &env);
        assert_eq!(config.name, name);
        let founders = founders(&config);
        assert_eq!(founders, names, "{name}");
        // Services find each other by their names.
        for founder in &config.initial_cluster {
            for url in &founder.peer_urls {
                let at = port(&config.listen_peer_urls[0]);
                assert_eq!(url.to_string(), format!("http://{}:{at}", founder.name));
            }
        }

        let (outside, inside) = only_pair(&service["ports"], ':');
        assert_eq!(inside, port(&config.listen_client_urls[0]), "{name}");
        assert!(
            instruction("EXPOSE").split(' ').any(|port| port == inside),
            "{name}"
        );
        let port = outside
            .strip_prefix("127.0.0.1")
            .expect("only this machine's own users")
            .to_owned();
        assert!(head.contains(&port), "its head does not name {port}");
        assert!(ports.insert(port), "{name} has the port of another");

        let (volume, place) = only_pair(&service["volumes"], ':');
        assert_eq!(place, instruction("VOLUME"), "{name}");
        assert!(config.data_dir.starts_with(&place), "{name}");
        assert!(volumes.insert(volume), "{name} has the volume of another");

        // The same room as under systemd.
        let memlock = set(UNIT, "LimitMEMLOCK").strip_suffix('M').expect("in MiB");
        let memlock: u64 = memlock.parse().expect("a number");
        let limits = [
            format!("nofile={}", set(UNIT, "LimitNOFILE")),
            format!("memlock={}", memlock << 20),
        ];
        assert_eq!(words(&service["ulimits"]), limits, "{name}");

        // The same words as the test of the image runs in it.
        let health = words(&service["healthcheck"]["test"]);
        assert_eq!(health[0], "CMD", "{name}");
        let run = format!("pod exec kvnode {}; }}", health[1..].join(" "));
        assert!(
            CHECK_IMAGE.contains(&run),
            "packaging/check-image does not run {health:?}"
        );
    }
    assert_eq!(names.len(), 3);
    let declared = compose["volumes"].as_mapping().expect("volumes");
    let declared: BTreeSet<String> = declared
        .keys()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    assert_eq!(declared, volumes);
}

fn founders(config: &Config) -> BTreeSet<&str> {
    let founders = config.initial_cluster.iter();
    founders.map(|founder| founder.name.as_str()).collect()
}

#[test]
fn the_procfile_starts_members_with_settings_that_are_taken() {
    let mut names = BTreeSet::new();
    for line in PROCFILE.lines().filter(|line| !line.starts_with('#')) {
        let (name, command) = line.split_once(": kvnode ").expect(line);
        let args: Vec<&str> = command.split_whitespace().collect();
        let config = taken(name, &args, &BTreeMap::new());
        assert_eq!(config.name, name);
        let founders = founders(&config);
        assert!(
            founders.contains(name) && founders.len() == 3,
            "{founders:?}"
        );
        names.insert(name);
    }
    assert_eq!(names.len(), 3);
}
