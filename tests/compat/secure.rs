//! A cluster as an operator runs it: three members, TLS on every port, a certificate asked of every client, and for
//! clients of any language a way to have the leader killed while they work.
//!
//! A tour learns from its environment where the members are (`KVNODE_ENDPOINTS`, urls with commas), which files to show
//! (`KVNODE_CACERT`, `KVNODE_CERT`, `KVNODE_KEY`) and where to ask for a death: to `KVNODE_CONTROL` (host:port, one
//! connection at a time) it sends a line and gets one back.
//!
//! | line | what happens | answer |
//! |---|---|---|
//! | `kill` | the leader is killed | `killed URL` |
//! | `restart` | whoever was killed starts again on its data | `serving URL`, once it does |

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_tests::certs::{Authority, Files, Wish, flag, pair_flags};
use kvnode_tests::{Cluster, Options, build, cluster, http};

use crate::tool::run;

pub struct Secure {
    pub files: Files,
    shared: Arc<Shared>,
    control: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    cluster: Mutex<Cluster>,
    over: AtomicBool,
}

impl Secure {
    /// Nobody is known to it yet. The clients' certificate has no common name, since that would be a user's.
    pub fn start() -> Secure {
        let files = Files::default();
        let authority = Authority::new("test authority");
        let ca = files.write("ca.pem", &authority.pem);
        let member = files.pair("member", &authority.issue(&Wish::local("member")));
        files.pair("client", &authority.issue(&Wish::holder("")));
        let mut options = Options::default().tls_clients().tls_peers();
        for side in ["", "peer-"] {
            options = options
                .args(pair_flags(side, &member))
                .arg(format!("--{side}client-cert-auth"))
                .arg(flag(&format!("{side}trusted-ca-file"), &ca));
        }
        // Hashing passwords is not what the tours are about.
        let options = options.arg("--bcrypt-cost=4");
        let shared = Arc::new(Shared {
            cluster: Mutex::new(Cluster::start(3, options)),
            over: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let control = listener.local_addr().expect("bound");
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&listener, &served));
        Secure {
            files,
            shared,
            control,
            thread: Some(thread),
        }
    }

    /// As [`Secure::start`], with users: `root` may do all, `limited` what begins with `limited/`, and each one's
    /// password is its name.
    pub fn start_with_users() -> Secure {
        let secure = Secure::start();
        for line in [
            "user add root:root",
            "role add root",
            "user grant-role root root",
            "user add limited:limited",
            "role add limited",
            "role grant-permission limited --prefix readwrite limited/",
            "user grant-role limited limited",
            "auth enable",
        ] {
            let mut command = Command::new(build::tool("kvctl"));
            command
                .arg(format!("--endpoints={}", secure.endpoints()))
                .args(secure.flags())
                .args(line.split(' '));
            run(command, "", Duration::from_secs(30)).ok();
        }
        secure
    }

    pub fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.shared.cluster()
    }

    /// All urls, with commas.
    pub fn endpoints(&self) -> String {
        let cluster = self.cluster();
        let urls = (0..cluster.count()).map(|number| cluster.member(number).url());
        urls.collect::<Vec<_>>().join(",")
    }

    /// What etcdctl and its like must be told to be let in.
    pub fn flags(&self) -> [String; 3] {
        [
            flag("cacert", &self.files.path("ca.pem")),
            flag("cert", &self.files.path("client.pem")),
            flag("key", &self.files.path("client.key")),
        ]
    }

    /// Puts what a tour must know into its environment.
    pub fn tell(&self, command: &mut Command) {
        command
            .env("KVNODE_ENDPOINTS", self.endpoints())
            .env("KVNODE_CACERT", self.files.path("ca.pem"))
            .env("KVNODE_CERT", self.files.path("client.pem"))
            .env("KVNODE_KEY", self.files.path("client.key"))
            .env("KVNODE_CONTROL", self.control.to_string());
    }

    /// Kills the leader; its url.
    pub fn kill(&self) -> String {
        self.shared.kill()
    }

    /// Starts whoever was killed; its url.
    pub fn restart(&self) -> String {
        self.shared.restart()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // Wakes the thread, if it waits for a connection.
        drop(TcpStream::connect(self.control));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "see above");
        }
    }
}

impl Shared {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) -> String {
        let mut cluster = self.cluster();
        let leader = leader(&cluster);
        cluster.kill(leader);
        cluster.member(leader).url()
    }

    fn restart(&self) -> String {
        let mut cluster = self.cluster();
        let running = cluster.running();
        let dead = (0..cluster.count()).find(|number| !running.contains(number));
        let dead = dead.expect("one was killed");
        cluster.restart(dead);
        cluster.member(dead).url()
    }
}

/// Waits for one that says it leads.
fn leader(cluster: &Cluster) -> usize {
    let leads = |number: &usize| {
        let metrics = http::get(cluster.member(*number).plain_address(), "/metrics");
        metrics.is_ok_and(|answer| answer.body.contains("\netcd_server_is_leader 1\n"))
    };
    let begun = Instant::now();
    loop {
        if let Some(leader) = cluster.running().into_iter().find(leads) {
            return leader;
        }
        assert!(begun.elapsed() < cluster::LIMIT, "nobody leads");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn serve(listener: &TcpListener, shared: &Shared) {
    for caller in listener.incoming() {
        if shared.over.load(Ordering::Acquire) {
            return;
        }
        let caller = caller.expect("accepted");
        // A tour that hangs is killed by its own limit, which closes its end.
        let mut answers = caller.try_clone().expect("a socket can be cloned");
        for line in BufReader::new(caller).lines().map_while(Result::ok) {
            let answer = match line.as_str() {
                "kill" => format!("killed {}\n", shared.kill()),
                "restart" => format!("serving {}\n", shared.restart()),
                other => panic!("a tour asks for {other:?}"),
            };
            if answers.write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
    }
}
