//! The families about other members, one series per member.

use super::Text;
use crate::peers::{Figures, Histogram};

/// A family with one number per member.
struct Plain {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    label: Label,
    value: fn(&Figures) -> i64,
}

/// How the other member is named, in hexadecimal.
#[derive(Clone, Copy)]
enum Label {
    To,
    From,
    /// `Remote`, beside this member as `Local`.
    Pair,
}

const fn plain(
    name: &'static str,
    kind: &'static str,
    label: Label,
    value: fn(&Figures) -> i64,
    help: &'static str,
) -> Plain {
    Plain {
        name,
        kind,
        help,
        label,
        value,
    }
}

const PLAIN: [Plain; 13] = [
    plain(
        "etcd_network_peer_sent_bytes_total",
        "counter",
        Label::To,
        |f| f.sent_bytes as i64,
        "Bytes sent to the member.",
    ),
    plain(
        "etcd_network_peer_received_bytes_total",
        "counter",
        Label::From,
        |f| f.received_bytes as i64,
        "Bytes received from the member.",
    ),
    plain(
        "etcd_network_peer_sent_failures_total",
        "counter",
        Label::To,
        |f| f.sent_failures as i64,
        "Messages to the member that were dropped before they were sent.",
    ),
    plain(
        "etcd_network_peer_received_failures_total",
        "counter",
        Label::From,
        |f| f.received_failures as i64,
        "Messages from the member that could not be used.",
    ),
    plain(
        "etcd_network_known_peers",
        "gauge",
        Label::Pair,
        |f| i64::from(f.known),
        "Other members of the cluster.",
    ),
    plain(
        "etcd_network_active_peers",
        "gauge",
        Label::Pair,
        |f| i64::from(f.connected),
        "Whether a connection with the member stands.",
    ),
    plain(
        "etcd_network_disconnected_peers_total",
        "counter",
        Label::Pair,
        |f| f.disconnects as i64,
        "How often the last connection with the member was lost.",
    ),
    plain(
        "etcd_network_snapshot_send_success",
        "counter",
        Label::To,
        |f| f.snapshots_out.successes as i64,
        "Snapshots the member has kept.",
    ),
    plain(
        "etcd_network_snapshot_send_failures",
        "counter",
        Label::To,
        |f| f.snapshots_out.failures as i64,
        "Snapshots that did not get to the member.",
    ),
    plain(
        "etcd_network_snapshot_send_inflights_total",
        "gauge",
        Label::To,
        |f| f.snapshots_out.under_way,
        "Snapshots on their way to the member.",
    ),
    plain(
        "etcd_network_snapshot_receive_success",
        "counter",
        Label::From,
        |f| f.snapshots_in.successes as i64,
        "Snapshots received from the member and kept.",
    ),
    plain(
        "etcd_network_snapshot_receive_failures",
        "counter",
        Label::From,
        |f| f.snapshots_in.failures as i64,
        "Snapshots from the member that were not received or not kept.",
    ),
    plain(
        "etcd_network_snapshot_receive_inflights_total",
        "gauge",
        Label::From,
        |f| f.snapshots_in.under_way,
        "Snapshots on their way from the member.",
    ),
];

/// A histogram per member.
struct Spread {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    value: fn(&Figures) -> &Histogram,
}

const SPREAD: [Spread; 3] = [
    Spread {
        name: "etcd_network_peer_round_trip_time_seconds",
        help: "Round trip of a ping on the connection with the member.",
        label: "To",
        value: |f| &f.round_trips,
    },
    Spread {
        name: "etcd_network_snapshot_send_total_duration_seconds",
        help: "Sending a snapshot to the member, from the first call to its word that it has kept it.",
        label: "To",
        value: |f| &f.snapshots_out.took,
    },
    Spread {
        name: "etcd_network_snapshot_receive_total_duration_seconds",
        help: "Receiving a snapshot from the member, from the offer until it is kept.",
        label: "From",
        value: |f| &f.snapshots_in.took,
    },
];

/// `local` is this member's id. Nothing for a member that has never met another one.
pub(super) fn render(out: &mut Text, local: u64, all: &[Figures]) {
    if all.is_empty() {
        return;
    }
    for family in &PLAIN {
        let name = family.name;
        out.head(name, family.kind, family.help);
        for figures in all {
            let (member, value) = (figures.member, (family.value)(figures));
            match family.label {
                Label::To => out.line(format_args!("{name}{{To=\"{member:x}\"}} {value}")),
                Label::From => out.line(format_args!("{name}{{From=\"{member:x}\"}} {value}")),
                Label::Pair => out.line(format_args!(
                    "{name}{{Local=\"{local:x}\",Remote=\"{member:x}\"}} {value}"
                )),
            }
        }
    }
    for family in &SPREAD {
        let (name, label) = (family.name, family.label);
        out.head(name, "histogram", family.help);
        for figures in all {
            let (member, histogram) = (figures.member, (family.value)(figures));
            let mut below = 0;
            for (bound, count) in &histogram.buckets {
                below += count;
                out.line(format_args!(
                    "{name}_bucket{{{label}=\"{member:x}\",le=\"{bound}\"}} {below}"
                ));
            }
            let (count, sum) = (histogram.count, histogram.sum_seconds);
            out.line(format_args!(
                "{name}_bucket{{{label}=\"{member:x}\",le=\"+Inf\"}} {count}"
            ));
            out.line(format_args!("{name}_sum{{{label}=\"{member:x}\"}} {sum}"));
            out.line(format_args!(
                "{name}_count{{{label}=\"{member:x}\"}} {count}"
            ));
        }
    }
}
