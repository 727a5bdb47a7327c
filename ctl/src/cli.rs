//! Every command and flag there is, etcdctl's and ours.
//!
//! Words that are no flags are collected as they come and counted by the commands: what etcdctl answers to
//! a wrong number of them (exit 128) is not what a parser would.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::failure::code;

const GLOBAL: &str = "Global options";

/// The whole command line.
pub fn command() -> Command {
    Command::new("kvctl")
        .about("Command-line client for kvnode and other servers of the etcd v3 API")
        .long_about(
            "Command-line client for kvnode and other servers of the etcd v3 API.\n\n\
             Commands, flags, output and exit codes are those of etcdctl. Every global flag can also be set by a\n\
             variable KVCTL_<FLAG> or ETCDCTL_<FLAG>, for example ETCDCTL_ENDPOINTS; the flag wins. Commands may be\n\
             shortened as long as they are unique: kvctl mem li",
        )
        .disable_version_flag(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_subcommands(true)
        .args_override_self(true)
        .args(globals())
        .subcommands(key_values())
        .subcommands(maintenance())
        .subcommands(concurrency())
        .subcommands(authentication())
        .subcommands(utilities())
}

/// What a command line that cannot be parsed leads to.
pub fn report(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingSubcommand
    ) {
        print!("{}", error.render());
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    eprint!("Error: {text}");
    // Commands of etcdctl that need no server.
    if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && matches!(&**name, "status" | "restore")
    {
        eprintln!("next:  kvutil snapshot {name} --help");
    }
    ExitCode::from(code::ERROR)
}

/// A yes-or-no flag; `--name=false` works as in Go.
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    boolean(name, "false", help)
}

fn boolean(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value(default)
        .hide_default_value(default == "false")
        .value_parser(go_bool)
        .value_name("BOOL")
        .hide_possible_values(true)
        .help(help)
}

fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn text(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .default_value(default)
        .hide_default_value(default.is_empty())
        .value_parser(value_parser!(OsString))
        .allow_hyphen_values(true)
        .help(help)
}

fn number(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .default_value(default)
        .hide_default_value(default == "0")
        .value_parser(value_parser!(i64))
        .allow_negative_numbers(true)
        .help(help)
}

/// The words behind a command.
fn words(shown: &'static str) -> Arg {
    Arg::new("words")
        .num_args(0..)
        .value_parser(value_parser!(OsString))
        .value_name(shown)
        .hide(shown.is_empty())
}

fn leaf(name: &'static str, shown: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .args_override_self(true)
        .arg(words(shown))
}

fn group(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_subcommands(true)
}

fn globals() -> Vec<Arg> {
    let list = vec![
        text("endpoints", "127.0.0.1:2379", "Where servers listen: host:port, http://, https://, unix://, unixs://; separated by commas")
            .action(ArgAction::Append),
        text("write-out", "simple", "Form of the output: fields, json, jsonl (get, watch), protobuf, simple, table").short('w').visible_short_alias('o'),
        text("json-ids", "number", "Ids and other 64-bit numbers in JSON: number, string"),
        text("encoding", "base64", "Keys and values in JSON: base64, utf8, hex"),
        flag("hex", "Print bytes and ids in hexadecimal"),
        text("dial-timeout", "2s", "Longest time to find an endpoint that answers"),
        text("command-timeout", "5s", "Longest time for a short command"),
        text("keepalive-time", "2s", "Pause between pings (at least 10s are kept)"),
        text("keepalive-timeout", "6s", "Longest wait for the answer to a ping"),
        number("max-request-bytes", "0", "Longest request; 0 is 2 MiB"),
        number("max-recv-bytes", "0", "Longest answer; 0 is no limit"),
        boolean("insecure-transport", "true", "Speak plainly to endpoints without scheme"),
        flag("insecure-skip-tls-verify", "Take any certificate (for tests only)"),
        boolean("insecure-discovery", "true", "Accept plain endpoints found by DNS"),
        text("cert", "", "Certificate to show (PEM)"),
        text("key", "", "Key of that certificate (PEM)"),
        text("cacert", "", "Roots to trust (PEM)"),
        text("auth-jwt-token", "", "Token made elsewhere"),
        text("user", "", "NAME or NAME:PASSWORD; the password is asked for if missing"),
        text("password", "", "Password of --user"),
        text("discovery-srv", "", "Domain whose DNS records name the endpoints, instead of --endpoints").short('d'),
        text("discovery-srv-name", "", "What follows etcd-client- in the service's name"),
        text("discovery-dns", "", "DNS servers to ask for them, address or address:port; those of /etc/resolv.conf if empty"),
        flag("debug", "Print every global flag and what the client does"),
    ];
    list.into_iter()
        .map(|arg| arg.global(true).help_heading(GLOBAL).hide_short_help(true))
        .collect()
}

/// Names of the global flags, for variables.
pub fn global_names() -> Vec<String> {
    globals()
        .iter()
        .map(|arg| arg.get_id().to_string())
        .collect()
}

pub fn get() -> Command {
    leaf("get", "KEY [END]", "Get a key or a range of keys")
        .after_long_help("Example: kvctl get --prefix /config/ --keys-only")
        .arg(text("consistency", "l", "l: linearizable, s: serializable"))
        .arg(text("order", "", "ASCEND or DESCEND"))
        .arg(text("sort-by", "", "CREATE, KEY, MODIFY, VALUE or VERSION"))
        .arg(number("limit", "0", "Most pairs; 0 is all"))
        .arg(flag("prefix", "All keys that begin with KEY"))
        .arg(flag("from-key", "All keys from KEY on"))
        .arg(number("rev", "0", "Revision to read at; 0 is now"))
        .arg(flag("keys-only", "Leave the values out"))
        .arg(flag("count-only", "Only the number of keys"))
        .arg(flag(
            "print-value-only",
            "Print values without keys (simple form)",
        ))
        .arg(number("min-create-rev", "0", "Least create revision"))
        .arg(number("max-create-rev", "0", "Greatest create revision"))
        .arg(number("min-mod-rev", "0", "Least mod revision"))
        .arg(number("max-mod-rev", "0", "Greatest mod revision"))
        .arg(flag("stream", "Ask for the answer in pieces (RangeStream)"))
        .arg(number(
            "page-size",
            "10000",
            "Pairs per request when a whole range is read; 0 reads it at once",
        ))
        .arg(flag("no-paging", "Read the range with one request"))
}

pub fn put() -> Command {
    leaf(
        "put",
        "KEY [VALUE]",
        "Put a value under a key; without VALUE it is read from stdin",
    )
    .after_long_help(
        "Example: kvctl put greeting hello\nA VALUE that begins with '-': kvctl put key -- -value",
    )
    .arg(text("lease", "0", "Lease to hang the key on (hexadecimal)"))
    .arg(flag("prev-kv", "Print the pair before"))
    .arg(flag("ignore-value", "Keep the value, change the lease"))
    .arg(flag("ignore-lease", "Keep the lease, change the value"))
}

pub fn del() -> Command {
    leaf("del", "KEY [END]", "Delete a key or a range of keys")
        .after_long_help("Example: kvctl del --prefix /tmp/ --dry-run")
        .arg(flag("prefix", "All keys that begin with KEY"))
        .arg(flag("prev-kv", "Print the deleted pairs"))
        .arg(flag("from-key", "All keys from KEY on"))
        .arg(flag("range", "KEY and END are meant: no warning"))
        .arg(flag("dry-run", "Only print how many keys would be deleted"))
        .arg(flag("yes", "Do not ask, even when every key is meant"))
}

pub fn watch() -> Command {
    leaf(
        "watch",
        "[KEY] [END] [-- CMD...]",
        "Watch keys and print their changes, or run a command at each",
    )
    .after_long_help(
        "Example: kvctl watch --prefix /config/ -- sh -c 'echo $ETCD_WATCH_KEY'\n\
             KEY and END can also come from ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END.",
    )
    .arg(flag("interactive", "Read watch and progress commands from stdin").short('i'))
    .arg(flag("prefix", "All keys that begin with KEY"))
    .arg(number("rev", "0", "Revision to begin at; 0 is now"))
    .arg(flag("prev-kv", "Print the pair before each change"))
    .arg(flag(
        "progress-notify",
        "Print how far the watch is when nothing happens",
    ))
    .arg(number(
        "max-events",
        "0",
        "End after so many events; 0 is never",
    ))
    .arg(number(
        "until-rev",
        "0",
        "End once this revision was delivered; 0 is never",
    ))
    .arg(text("timeout", "", "End after this time, as 30s"))
}

fn key_values() -> Vec<Command> {
    vec![
        get(),
        put(),
        del(),
        leaf("txn", "", "Run a transaction read from stdin")
            .alias("t")
            .long_about(
                "Run a transaction read from stdin: compares, an empty line, what to do if all hold, an empty line, what to do\n\
                 otherwise, an empty line.\n\n\
                 Compares: TARGET(\"key\") OP \"value\" with target ver, create, mod, val or lease and operator = != < >.\n\
                 Requests: get, put and del with their flags.",
            )
            .arg(flag("interactive", "Ask for the parts one by one").short('i')),
        watch(),
        leaf("compaction", "REVISION", "Drop history below a revision")
            .arg(flag("physical", "Wait until the space is free")),
        group("lease", "Leases")
            .subcommand(leaf("grant", "TTL", "Make a lease of TTL seconds"))
            .subcommand(leaf("revoke", "LEASE", "End a lease; its keys are deleted"))
            .subcommand(leaf("timetolive", "LEASE", "Show how long a lease still has").arg(flag("keys", "Also list its keys")))
            .subcommand(leaf("list", "", "List all leases"))
            .subcommand(leaf("keep-alive", "LEASE", "Renew a lease until interrupted").arg(flag("once", "Renew once and leave"))),
    ]
}

fn maintenance() -> Vec<Command> {
    let cluster = || flag("cluster", "All members' endpoints, from the member list").global(true);
    vec![
        group("alarm", "Alarms")
            .subcommand(leaf("list", "", "List alarms that are on"))
            .subcommand(leaf("disarm", "", "End all alarms")),
        leaf("defrag", "", "Give unused space of the endpoints' members back, one after another")
            .after_long_help("Example: kvctl defrag --cluster --min-free-percent 30")
            .arg(cluster())
            .arg(number("min-free-percent", "0", "Leave members alone of whose space less is not in use"))
            .arg(text("wait", "1m", "Longest time for a member to catch up before the next one's turn; 0 does not look"))
            .arg(boolean("move-leader", "true", "With --cluster: the leader's turn is last, and another one leads before")),
        group("endpoint", "Health and state of endpoints")
            .arg(cluster())
            .subcommand(leaf("health", "", "Check that the endpoints serve"))
            .subcommand(leaf("status", "", "Show the state of the endpoints' members"))
            .subcommand(leaf("hashkv", "", "Show the hash of each endpoint's keys").arg(number("rev", "0", "Greatest revision to hash; 0 is all"))),
        leaf("move-leader", "MEMBER", "Hand leadership to another member"),
        group("member", "Members of the cluster")
            .subcommand(leaf("list", "", "List the members").arg(text("consistency", "l", "l: linearizable, s: serializable")))
            .subcommand(
                leaf("add", "NAME", "Announce a new member")
                    .arg(text("peer-urls", "", "Where the other members reach it, separated by commas"))
                    .arg(flag("learner", "It does not vote until it is promoted")),
            )
            // `r` and `re` have always meant this one.
            .subcommand(leaf("remove", "MEMBER", "Remove a member").aliases(["r", "re"]))
            .subcommand(
                leaf("update", "MEMBER", "Change where the other members reach one")
                    .arg(text("peer-urls", "", "The new URLs, separated by commas")),
            )
            .subcommand(leaf("promote", "MEMBER", "Let a learner vote"))
            .subcommand(
                leaf("replace", "OLD-MEMBER NAME", "Replace a member: add a learner, wait for it, promote it, remove the old one")
                    .long_about(
                        "Replace a member in one guided step: adds a learner, prints how to start it, waits until it has caught\n\
                         up, promotes it and removes the old member. Interrupted, the same command goes on where it was.",
                    )
                    .arg(text("peer-urls", "", "Where the other members reach the new one"))
                    .arg(text("wait", "10m", "Longest time for the new member to start and catch up")),
            ),
        // `s` and `t` meant these two before there were status and top.
        group("snapshot", "Snapshots")
            .alias("s")
            .subcommand(leaf("save", "FILE", "Save the state of a member to a file, verified"))
            .after_long_help("What is in a file, and making a data directory of it: kvutil snapshot status, kvutil snapshot restore."),
        group("downgrade", "Downgrades")
            .subcommand(leaf("validate", "VERSION", "Check whether a downgrade is possible"))
            .subcommand(leaf("enable", "VERSION", "Start a downgrade"))
            .subcommand(leaf("cancel", "", "Cancel a downgrade")),
    ]
}

fn concurrency() -> Vec<Command> {
    vec![
        leaf(
            "lock",
            "NAME [CMD...]",
            "Hold a lock until interrupted, or while CMD runs",
        )
        .after_long_help(
            "Example: kvctl lock backup -- rsync -a /data /backup\nFlags of CMD stand behind --.",
        )
        .arg(number(
            "ttl",
            "10",
            "Seconds after which the lock is free when its holder is gone",
        )),
        leaf(
            "elect",
            "NAME [VALUE]",
            "Campaign in an election, or observe one",
        )
        .arg(flag("listen", "Observe").short('l')),
    ]
}

fn authentication() -> Vec<Command> {
    let prefix = || flag("prefix", "All keys that begin with KEY");
    let from_key = || flag("from-key", "All keys from KEY on");
    vec![
        group("auth", "Authentication")
            .subcommand(leaf("enable", "", "Ask everybody who they are"))
            .subcommand(leaf("disable", "", "Ask nobody any more"))
            .subcommand(leaf("status", "", "Show whether authentication is on")),
        group("user", "Users")
            .subcommand(
                leaf("add", "NAME[:PASSWORD]", "Add a user")
                    .arg(boolean(
                        "interactive",
                        "true",
                        "Ask for the password on the terminal; false reads it from stdin",
                    ))
                    .arg(text("new-user-password", "", "The password"))
                    .arg(flag("no-password", "The user is known by certificate only")),
            )
            .subcommand(leaf("delete", "NAME", "Delete a user"))
            .subcommand(
                leaf("get", "NAME", "Show a user's roles")
                    .arg(flag("detail", "Also show what the roles permit")),
            )
            .subcommand(leaf("list", "", "List all users"))
            .subcommand(
                leaf("passwd", "NAME", "Change a user's password").arg(boolean(
                    "interactive",
                    "true",
                    "Ask on the terminal; false reads it from stdin",
                )),
            )
            .subcommand(leaf("grant-role", "NAME ROLE", "Grant a role to a user"))
            .subcommand(leaf(
                "revoke-role",
                "NAME ROLE",
                "Revoke a role from a user",
            )),
        group("role", "Roles")
            .subcommand(leaf("add", "ROLE", "Add a role"))
            .subcommand(leaf("delete", "ROLE", "Delete a role"))
            .subcommand(leaf("get", "ROLE", "Show what a role permits"))
            .subcommand(leaf("list", "", "List all roles"))
            .subcommand(
                leaf(
                    "grant-permission",
                    "ROLE read|write|readwrite KEY [END]",
                    "Let a role read or write keys",
                )
                .arg(prefix())
                .arg(from_key()),
            )
            .subcommand(
                leaf(
                    "revoke-permission",
                    "ROLE KEY [END]",
                    "Take a permission back",
                )
                .arg(prefix())
                .arg(from_key()),
            ),
    ]
}

fn utilities() -> Vec<Command> {
    let load = |command: Command, prefix: &'static str| {
        command
            .arg(text("load", "s", "s, m, l or xl"))
            .arg(text("prefix", prefix, "Where the test keys go"))
            .arg(flag("auto-compact", "Compact afterwards"))
            .arg(flag("auto-defrag", "Defragment afterwards"))
    };
    vec![
        leaf(
            "make-mirror",
            "DESTINATION",
            "Copy keys to another cluster, and go on copying",
        )
        .arg(text("prefix", "", "Only keys that begin with this"))
        .arg(number(
            "rev",
            "0",
            "Begin with the changes of this revision, without what was there before",
        ))
        .arg(number(
            "max-txn-ops",
            "128",
            "Most changes in one transaction",
        ))
        .arg(text(
            "dest-prefix",
            "",
            "Prefix at the destination, instead of --prefix",
        ))
        .arg(flag(
            "no-dest-prefix",
            "Take --prefix off at the destination",
        ))
        .arg(text(
            "dest-cert",
            "",
            "Certificate to show to the destination (PEM)",
        ))
        .arg(text("dest-key", "", "Key of that certificate (PEM)"))
        .arg(text(
            "dest-cacert",
            "",
            "Roots to trust for the destination (PEM)",
        ))
        .arg(boolean(
            "dest-insecure-transport",
            "true",
            "Speak plainly to a destination without scheme",
        ))
        .arg(text(
            "dest-user",
            "",
            "NAME or NAME:PASSWORD at the destination",
        ))
        .arg(text("dest-password", "", "Password of --dest-user")),
        group("check", "Check a cluster's fitness")
            .subcommand(
                load(
                    leaf(
                        "perf",
                        "",
                        "Write for a minute and judge throughput and latency",
                    ),
                    "/etcdctl-check-perf/",
                )
                .arg(number("duration", "60", "Seconds to write")),
            )
            .subcommand(load(
                leaf(
                    "datascale",
                    "",
                    "Write many keys and show the memory they take",
                ),
                "/etcdctl-check-datascale/",
            )),
        leaf("du", "[PREFIX]", "Show keys and bytes by prefix")
            .arg(text(
                "separator",
                "/",
                "What parts of a key are separated by",
            ))
            .arg(number("depth", "1", "Parts that make a group")),
        leaf(
            "history",
            "KEY",
            "Show the versions of a key that the store still has",
        )
        .after_long_help("Example: kvctl history /config/x"),
        leaf(
            "status",
            "",
            "Show the whole cluster: members, leader, lag, space, alarms",
        )
        .after_long_help(
            "Exit code 1 if there is no leader, a member does not answer or an alarm is on.",
        ),
        leaf(
            "top",
            "[PREFIX]",
            "Show which prefixes change how often, as it happens",
        )
        .after_long_help("Example: kvctl top /config/ --depth 2 --seconds 10")
        .arg(text(
            "separator",
            "/",
            "What parts of a key are separated by",
        ))
        .arg(number("depth", "1", "Parts that make a group"))
        .arg(number(
            "seconds",
            "0",
            "Count so long, report once and leave; 0 reports each second",
        )),
        leaf(
            "completion",
            "bash|zsh|fish|powershell",
            "Print a completion script",
        ),
        leaf("options", "", "List the global flags"),
        leaf("version", "", "Print the version"),
    ]
}

/// The words behind a command.
pub fn words_of(matches: &ArgMatches) -> Vec<OsString> {
    matches
        .get_many::<OsString>("words")
        .map(|words| words.cloned().collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn commands_may_be_shortened_while_they_are_unique() {
        let parse = |line: &str| {
            let words = std::iter::once("kvctl").chain(line.split_whitespace());
            command().try_get_matches_from(words)
        };
        let path = |line: &str| {
            let matches = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let (first, inner) = matches.subcommand().expect("a command");
            let second = inner.subcommand().map_or("", |(name, _)| name);
            format!("{first} {second}")
        };
        assert_eq!(path("mem li"), "member list");
        assert_eq!(path("member r 1"), "member remove");
        assert_eq!(path("en st --cluster"), "endpoint status");
        assert_eq!(path("le g 5"), "lease grant");
        assert_eq!(path("ma dest"), "make-mirror ");
        assert_eq!(path("s save f"), "snapshot save");
        assert_eq!(path("w k"), "watch ");
        assert_eq!(path("t"), "txn ");
        assert!(parse("m list").is_err(), "ambiguous");
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn flags_are_understood_as_go_understands_them() {
        let get = |line: &str| {
            let words = std::iter::once("kvctl").chain(line.split_whitespace());
            command().try_get_matches_from(words).expect(line)
        };
        let matches =
            get("get --prefix=false -w json k --limit 3 --limit=4 --rev -1 --endpoints a:1");
        let (_, inner) = matches.subcommand().expect("get");
        assert_eq!(inner.get_one::<bool>("prefix"), Some(&false));
        assert_eq!(inner.get_one::<i64>("limit"), Some(&4));
        assert_eq!(inner.get_one::<i64>("rev"), Some(&-1));
        assert_eq!(words_of(inner), ["k"]);
        let (_, inner) = matches.subcommand().expect("get");
        assert_eq!(
            inner
                .get_one::<OsString>("write-out")
                .map(|form| form.to_str()),
            Some(Some("json"))
        );
        let matches = get("put k -- -v");
        assert_eq!(words_of(matches.subcommand().expect("put").1), ["k", "-v"]);
    }
}
