#!/usr/bin/env python3
"""Patroni keeps two PostgreSQL servers on a kvnode cluster of three, through the death of a kvnode leader and of a primary.

  cargo build --release --bin kvnode
  sudo tests/patroni/run.py [target/release/kvnode]

On Debian or Ubuntu, as root: packages that are missing (patroni, python3-etcd, postgresql) are installed with apt-get, the
databases run as the user postgres. Everything listens on 127.0.0.1, lives in one temporary directory and is gone at the end,
at the latest after five minutes. Exit code 0 if all held; the steps and their times are printed.
"""

import glob
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode

PATRONI = "/usr/bin/patroni"
PACKAGES = ["patroni", "python3-etcd", "postgresql"]
# Seconds. Patroni wants ttl >= loop_wait + 2 * retry_timeout.
LOOP_WAIT, RETRY_TIMEOUT, TTL = 2, 4, 10
LIMIT = 300

begun = time.monotonic()
started = []


def say(text):
    print("%6.1f s  %s" % (time.monotonic() - begun, text), flush=True)


def until(what, look, limit=60):
    """Waits until `look` gives something; says how long it took."""
    since = time.monotonic()
    while True:
        found = look()
        if found:
            say("%s after %.1f s" % (what, time.monotonic() - since))
            return found
        if time.monotonic() - since > limit:
            raise SystemExit("waited %d s in vain until %s" % (limit, what))
        time.sleep(0.1)


def start(name, command, home, **more):
    log = open(os.path.join(home, name + ".log"), "ab")
    child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=home, **more)
    started.append(child)
    return child


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, body=None):
    """JSON from a url; None if nobody answers well."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=3) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


class Store:
    def __init__(self, program, home):
        names = ["kv1", "kv2", "kv3"]
        self.ports = {name: free_port() for name in names}
        peers = {name: free_port() for name in names}
        founders = ",".join("%s=http://127.0.0.1:%d" % pair for pair in peers.items())
        self.members = {
            name: start(
                name,
                [
                    program,
                    "--name=" + name,
                    "--data-dir=" + os.path.join(home, name),
                    "--listen-client-urls=http://127.0.0.1:%d" % self.ports[name],
                    "--advertise-client-urls=http://127.0.0.1:%d" % self.ports[name],
                    "--listen-peer-urls=http://127.0.0.1:%d" % peers[name],
                    "--initial-advertise-peer-urls=http://127.0.0.1:%d" % peers[name],
                    "--initial-cluster=" + founders,
                    "--wal-segment-bytes=8MiB",
                ],
                home,
            )
            for name in names
        }

    def url(self, name):
        return "http://127.0.0.1:%d" % self.ports[name]

    def leader(self):
        for name, member in self.members.items():
            status = member.poll() is None and ask(self.url(name) + "/v3/maintenance/status", {})
            if status and status.get("leader") == status["header"]["member_id"]:
                return name

    def value(self, key):
        for name, member in self.members.items():
            answer = member.poll() is None and ask(
                self.url(name) + "/v3/kv/range", {"key": b64encode(key.encode()).decode()}
            )
            if answer:
                return b64decode(answer["kvs"][0]["value"]).decode() if answer.get("kvs") else None


class Database:
    def __init__(self, name, store, home, user, binaries):
        self.name, self.port, self.rest = name, free_port(), free_port()
        self.data = os.path.join(home, name, "data")
        self.home, self.user = os.path.join(home, name), user
        os.mkdir(self.home, 0o700)
        os.chown(self.home, user.pw_uid, user.pw_gid)
        self.config = os.path.join(self.home, "patroni.yml")
        settings = {
            "scope": "demo",
            "name": name,
            "restapi": {"listen": "127.0.0.1:%d" % self.rest, "connect_address": "127.0.0.1:%d" % self.rest},
            "etcd3": {"hosts": ["127.0.0.1:%d" % port for port in store.ports.values()]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": LOOP_WAIT,
                    "retry_timeout": RETRY_TIMEOUT,
                    # The row below must survive whoever dies: the replica has it before the client is told.
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True},
                },
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
            },
            "postgresql": {
                "listen": "127.0.0.1:%d" % self.port,
                "connect_address": "127.0.0.1:%d" % self.port,
                "data_dir": self.data,
                "bin_dir": binaries,
                "pgpass": os.path.join(self.home, "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "postgres"},
                    "replication": {"username": "replicator", "password": "replicator"},
                },
                "parameters": {"unix_socket_directories": self.home},
            },
        }
        # JSON is YAML.
        with open(self.config, "w") as out:
            json.dump(settings, out)

    def start(self):
        self.patroni = start(
            "patroni", [PATRONI, self.config], self.home, user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[]
        )

    def state(self):
        """(role, state) as Patroni's own port tells it."""
        try:
            answer = urllib.request.urlopen("http://127.0.0.1:%d/patroni" % self.rest, timeout=3)
        except urllib.error.HTTPError as error:
            answer = error
        except OSError:
            return None, None
        told = json.load(answer)
        return told.get("role"), told.get("state")

    def sql(self, text):
        """The first column of the answer; None if it failed."""
        command = ["psql", "-qtAX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-U", "postgres", "-c", text, "postgres"]
        environment = dict(os.environ, PGPASSWORD="postgres", PGCONNECT_TIMEOUT="3")
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)
        return ran.stdout.strip() if ran.returncode == 0 else None

    def kill(self):
        """Patroni and its PostgreSQL at once, as a machine dies."""
        if self.patroni.poll() is None:
            self.patroni.kill()
            self.patroni.wait()
        try:
            with open(os.path.join(self.data, "postmaster.pid")) as file:
                pid = int(file.readline())
            # Ours only: the working directory of a postmaster is its data directory.
            if os.readlink("/proc/%d/cwd" % pid) == self.data:
                os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            pass


def install():
    present = shutil.which("psql") and os.path.exists(PATRONI) and glob.glob("/usr/lib/postgresql/*/bin/postgres")
    if not present:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", *command], check=True, env=environment, stdout=subprocess.DEVNULL)
    return sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]


def scenario(program, home, databases, store, user, binaries):
    leader = until("kvnode has a leader", store.leader)
    databases += [Database(name, store, home, user, binaries) for name in ("pg1", "pg2")]
    first, second = databases
    first.start()
    until("pg1 is primary", lambda: first.state() == ("master", "running") or first.state() == ("primary", "running"))
    until("the leader key names pg1", lambda: store.value("/service/demo/leader") == "pg1")
    second.start()
    until("pg2 follows", lambda: second.state()[1] in ("running", "streaming") and second.state()[0] == "replica")
    until("pg2 is synchronous", lambda: '"sync_standby":"pg2"' in (store.value("/service/demo/sync") or ""))
    until("a table is made", lambda: first.sql("create table if not exists t (n int primary key)") is not None)
    assert first.sql("insert into t values (1)") is not None, "the row is written"
    until("the row is on pg2", lambda: second.sql("select n from t") == "1")

    leader = store.leader()
    store.members[leader].kill()
    store.members[leader].wait()
    say("killed the kvnode leader, %s" % leader)
    until("kvnode has another leader", lambda: (store.leader() or leader) != leader)
    since = time.monotonic()
    while time.monotonic() - since < TTL + LOOP_WAIT:
        assert store.value("/service/demo/leader") in ("pg1", None), "the primary stays who it is"
        assert first.sql("insert into t select max(n) + 1 from t returning n") is not None, "writes go on"
        time.sleep(0.5)
    assert store.value("/service/demo/leader") == "pg1"
    rows = int(first.sql("select count(*) from t"))
    say("pg1 stayed primary and took %d writes meanwhile" % (rows - 1))

    first.kill()
    say("killed pg1: Patroni and PostgreSQL")
    until("the leader key names pg2", lambda: store.value("/service/demo/leader") == "pg2")
    until("pg2 takes writes", lambda: second.sql("insert into t values (-1)") is not None)
    found = int(second.sql("select count(*) from t where n > 0"))
    assert found == rows, "%d rows of %d" % (found, rows)
    say("all %d rows are there" % rows)

    first.start()
    until("pg1 follows", lambda: first.state()[0] == "replica" and first.sql("select 1 from t where n = -1") == "1", 90)


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/kvnode")
    if os.geteuid() != 0:
        raise SystemExit("run it as root: it installs packages and starts PostgreSQL as the user postgres")
    if not os.access(program, os.X_OK):
        raise SystemExit("%s: no such program; cargo build --release --bin kvnode makes it" % program)
    binaries = install()
    user = pwd.getpwnam("postgres")
    signal.alarm(LIMIT)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("it took more than %d s" % LIMIT))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    home, databases = tempfile.mkdtemp(prefix="kvnode-patroni-"), []
    os.chmod(home, 0o755)
    well = False
    try:
        for version in ([program, "--version"], [PATRONI, "--version"], [binaries + "/postgres", "--version"]):
            say(subprocess.run(version, capture_output=True, text=True).stdout.splitlines()[0])
        scenario(program, home, databases, Store(program, home), user, binaries)
        well = True
    finally:
        if not well:
            for log in glob.glob(home + "/*.log") + glob.glob(home + "/*/*.log"):
                print("---", log)
                with open(log) as lines:
                    print("".join(lines.readlines()[-15:]))
        for database in databases:
            database.kill()
        for child in started:
            if child.poll() is None:
                child.kill()
                child.wait()
        # Children of a killed postmaster need a moment to notice.
        time.sleep(1)
        shutil.rmtree(home, ignore_errors=True)
    say("all well")


main()
