//! What clients call: gRPC's usual four counters per method, their bytes, and how long calls take.
//!
//! Each executor counts for itself, without locked instructions; a scrape adds up. An executor's counts are made at its first
//! call and stay for the life of the process, as executors do.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvnode_api::service::{Kind, Method};
use kvnode_api::status::Code;

use super::kinds::{Histogram, Local, write_series};
use super::text::{Text, escaped};

const CODES: usize = 17;

const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The bounds of Prometheus' own client libraries.
const HANDLING_SECONDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// As etcd's: 0.5 ms times 2^0 to 2^12.
const REQUEST_SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
];

/// Versions of clients told apart; a client may claim any, so the others share one.
const CLIENT_VERSIONS_MAX: usize = 32;
const CLIENT_VERSION_BYTES_MAX: usize = 16;
/// Clients that do not say.
const UNKNOWN_VERSION: &str = "unknown";

/// What one RPC method has done on one executor.
pub struct MethodCounts {
    pub started: Local,
    handled: [Local; CODES],
    pub received: Local,
    pub sent: Local,
    /// With `--metrics=extensive`.
    handling: Option<Histogram>,
    /// Only for requests that etcd times: success and failure.
    request: Option<[Histogram; 2]>,
}

impl MethodCounts {
    fn new(method: Method, extensive: bool) -> MethodCounts {
        let timed = || Histogram::seconds(&REQUEST_SECONDS);
        MethodCounts {
            started: Local::default(),
            handled: Default::default(),
            received: Local::default(),
            sent: Local::default(),
            handling: extensive.then(|| Histogram::seconds(&HANDLING_SECONDS)),
            request: request_type(method).map(|_| [timed(), timed()]),
        }
    }

    pub fn handled(&self, code: Code) {
        self.handled[code as usize].add(1);
    }

    /// Whether somebody wants to know how long calls take.
    pub fn is_timed(&self) -> bool {
        self.handling.is_some()
    }

    /// A call is over that took so long and is left out of the requests that etcd times.
    pub fn took_unlisted(&self, duration: Duration) {
        if let Some(handling) = &self.handling {
            handling.observe(duration);
        }
    }

    /// A call is over that took so long.
    pub fn took(&self, duration: Duration, success: bool) {
        self.took_unlisted(duration);
        if let Some(request) = &self.request {
            request[usize::from(success)].observe(duration);
        }
    }
}

/// The requests that go through the cluster or read from the store, by etcd's names.
fn request_type(method: Method) -> Option<&'static str> {
    match method {
        Method::Range => Some("Range"),
        Method::Put => Some("Put"),
        Method::DeleteRange => Some("DeleteRange"),
        Method::Txn => Some("Txn"),
        Method::Compact => Some("Compaction"),
        Method::LeaseGrant => Some("LeaseGrant"),
        Method::LeaseRevoke => Some("LeaseRevoke"),
        _ => None,
    }
}

/// One executor's counts.
pub struct CoreCalls {
    methods: Box<[MethodCounts]>,
    pub received_bytes: Local,
    pub sent_bytes: Local,
    versions: Mutex<Vec<Version>>,
}

struct Version {
    text: Box<str>,
    unary: u64,
    stream: u64,
}

impl CoreCalls {
    fn new(extensive: bool) -> CoreCalls {
        let count = |method: &Method| MethodCounts::new(*method, extensive);
        CoreCalls {
            methods: Method::ALL.iter().map(count).collect(),
            received_bytes: Local::default(),
            sent_bytes: Local::default(),
            versions: Mutex::default(),
        }
    }

    /// The counts of `method`.
    pub fn method(&self, method: Method) -> &MethodCounts {
        &self.methods[method as usize]
    }

    /// A call by a client that says it speaks this version. The lock is this executor's own but for a scrape.
    pub fn client(&self, method: Method, version: Option<&[u8]>) {
        let text = version
            .filter(|text| !text.is_empty() && text.len() <= CLIENT_VERSION_BYTES_MAX)
            .and_then(|text| std::str::from_utf8(text).ok())
            .unwrap_or(UNKNOWN_VERSION);
        let versions = &mut *lock(&self.versions);
        let at = match versions.iter().position(|known| *known.text == *text) {
            Some(at) => at,
            None => {
                let text = match versions.len() < CLIENT_VERSIONS_MAX {
                    true => text,
                    false => UNKNOWN_VERSION,
                };
                match versions.iter().position(|known| *known.text == *text) {
                    Some(at) => at,
                    None => {
                        versions.push(Version {
                            text: text.into(),
                            unary: 0,
                            stream: 0,
                        });
                        versions.len() - 1
                    }
                }
            }
        };
        match method.kind() {
            Kind::Unary => versions[at].unary += 1,
            Kind::ServerStream | Kind::BidiStream => versions[at].stream += 1,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// This executor's counts, and whose they are.
    static OWN: Cell<Option<(u64, &'static CoreCalls)>> = const { Cell::new(None) };
}

/// The calls of all executors.
pub struct Calls {
    id: u64,
    extensive: bool,
    cores: Mutex<Vec<&'static CoreCalls>>,
}

impl Calls {
    pub fn new(extensive: bool) -> Calls {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Calls {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            extensive,
            cores: Mutex::default(),
        }
    }

    /// This executor's counts.
    pub fn here(&self) -> &'static CoreCalls {
        match OWN.get() {
            Some((id, own)) if id == self.id => own,
            _ => {
                let own: &CoreCalls = Box::leak(Box::new(CoreCalls::new(self.extensive)));
                lock(&self.cores).push(own);
                OWN.set(Some((self.id, own)));
                own
            }
        }
    }

    pub fn render(&self, out: &mut Text) {
        // A method exists from the start, whether or not anybody has called anything.
        self.here();
        let cores = lock(&self.cores);
        let bytes = |pick: fn(&CoreCalls) -> u64| cores.iter().map(|core| pick(core)).sum();
        out.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "Message bytes from clients.",
            bytes(|core| core.received_bytes.get()),
        );
        out.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "Message bytes to clients.",
            bytes(|core| core.sent_bytes.get()),
        );
        type Pick = fn(&MethodCounts) -> u64;
        let families: [(&str, &str, Pick); 3] = [
            ("grpc_server_started_total", "RPCs started.", |counts| {
                counts.started.get()
            }),
            (
                "grpc_server_msg_received_total",
                "Messages received.",
                |counts| counts.received.get(),
            ),
            ("grpc_server_msg_sent_total", "Messages sent.", |counts| {
                counts.sent.get()
            }),
        ];
        for (name, help, pick) in families {
            out.head(name, "counter", help);
            for &method in Method::ALL {
                let sum: u64 = cores.iter().map(|core| pick(core.method(method))).sum();
                out.line(format_args!("{name}{{{}}} {sum}", labels(method)));
            }
        }
        render_handled(out, &cores);
        render_times(out, &cores, self.extensive);
        render_versions(out, &cores);
    }
}

fn render_handled(out: &mut Text, cores: &[&CoreCalls]) {
    let name = "grpc_server_handled_total";
    out.head(name, "counter", "RPCs ended, by code.");
    for &method in Method::ALL {
        let labels = labels(method);
        for (code, code_name) in CODE_NAMES.iter().enumerate() {
            let count: u64 = cores
                .iter()
                .map(|core| core.method(method).handled[code].get())
                .sum();
            out.line(format_args!(
                "{name}{{grpc_code=\"{code_name}\",{labels}}} {count}"
            ));
        }
    }
}

fn render_times(out: &mut Text, cores: &[&CoreCalls], extensive: bool) {
    let name = "etcd_server_request_duration_seconds";
    out.head(
        name,
        "histogram",
        "Time from a request's arrival to its answer; gets from the value cache are left out.",
    );
    for &method in Method::ALL {
        let Some(kind) = request_type(method) else {
            continue;
        };
        for (at, success) in [(1, "true"), (0, "false")] {
            let counts = cores.iter().map(|core| core.method(method));
            let parts: Vec<_> = counts
                .filter_map(|c| Some(&c.request.as_ref()?[at]))
                .collect();
            let labels = format!("success=\"{success}\",type=\"{kind}\"");
            write_series(out, name, &labels, &parts);
        }
    }
    if !extensive {
        return;
    }
    let name = "grpc_server_handling_seconds";
    out.head(name, "histogram", "Time from an RPC's start to its end.");
    for &method in Method::ALL {
        let counts = cores.iter().map(|core| core.method(method));
        let parts: Vec<_> = counts.filter_map(|c| c.handling.as_ref()).collect();
        write_series(out, name, &labels(method), &parts);
    }
}

fn render_versions(out: &mut Text, cores: &[&CoreCalls]) {
    let name = "etcd_server_client_requests_total";
    out.head(
        name,
        "counter",
        "RPCs by what their clients say they speak.",
    );
    let mut sums: Vec<(String, u64, u64)> = Vec::new();
    for core in cores {
        for version in lock(&core.versions).iter() {
            match sums.iter_mut().find(|(text, ..)| *text == *version.text) {
                Some((_, unary, stream)) => {
                    *unary += version.unary;
                    *stream += version.stream;
                }
                None => sums.push((version.text.to_string(), version.unary, version.stream)),
            }
        }
    }
    for (text, unary, stream) in sums {
        let text = escaped(&text);
        for (kind, count) in [("unary", unary), ("stream", stream)] {
            out.line(format_args!(
                "{name}{{client_api_version=\"{text}\",type=\"{kind}\"}} {count}"
            ));
        }
    }
}

fn labels(method: Method) -> String {
    let kind = match method.kind() {
        Kind::Unary => "unary",
        Kind::ServerStream => "server_stream",
        Kind::BidiStream => "bidi_stream",
    };
    let (service, name) = (method.service(), method.name());
    format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up() {
        let calls = std::sync::Arc::new(Calls::new(true));
        let count = |calls: &Calls| {
            let here = calls.here();
            here.method(Method::Put).started.add(2);
            here.method(Method::Put).handled(Code::Unavailable);
            here.method(Method::Put)
                .took(Duration::from_millis(7), false);
            here.client(Method::Put, Some(b"3.5"));
        };
        count(&calls);
        let other = std::sync::Arc::clone(&calls);
        std::thread::spawn(move || count(&other)).join().unwrap();
        let mut out = Text::default();
        calls.render(&mut out);
        let text = out.into_string();
        let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{put}}} 4"),
            format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{put}}} 2"),
            format!("grpc_server_handling_seconds_bucket{{{put},le=\"0.005\"}} 0"),
            format!("grpc_server_handling_seconds_bucket{{{put},le=\"0.01\"}} 2"),
            "etcd_server_client_requests_total{client_api_version=\"3.5\",type=\"unary\"} 2".into(),
            "etcd_server_request_duration_seconds_count{success=\"false\",type=\"Put\"} 2".into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} missing in\n{text}");
        }
    }

    #[test]
    fn clients_cannot_make_up_versions_without_end() {
        let calls = Calls::new(false);
        for number in 0..1000 {
            calls
                .here()
                .client(Method::Put, Some(format!("{number}").as_bytes()));
        }
        calls.here().client(Method::Watch, Some(&[b'x'; 100]));
        let mut out = Text::default();
        render_versions(&mut out, &lock(&calls.cores));
        let lines = out.into_string().lines().count();
        assert!(lines <= 2 + 2 * (CLIENT_VERSIONS_MAX + 1), "{lines}");
    }
}
