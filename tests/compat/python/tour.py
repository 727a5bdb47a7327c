"""What a Python program can do with a cluster of three over TLS with users, through etcd3, and how it goes on when the
leader dies. Ends with "all well" or an exception."""

import hashlib
import io
import os
import queue
import socket
import threading
import time
from urllib.parse import urlsplit

import etcd3

URLS = os.environ["KVNODE_ENDPOINTS"].split(",")


def client(host, port, user, password, **more):
    return etcd3.client(
        host=host,
        port=port,
        ca_cert=os.environ["KVNODE_CACERT"],
        cert_cert=os.environ["KVNODE_CERT"],
        cert_key=os.environ["KVNODE_KEY"],
        timeout=10,
        user=user,
        password=password,
        **more,
    )


def connect(user="root", url=URLS[0], password=None):
    where = urlsplit(url)
    return client(where.hostname, where.port, user, password or user)


def connect_to_all(user):
    """One channel over all members, as grpc itself offers it."""
    *others, last = [urlsplit(url).netloc for url in URLS]
    host, port = last.split(":")
    options = {"grpc.ssl_target_name_override": "localhost", "grpc.lb_policy_name": "round_robin"}
    return client("ipv4:" + ",".join(others + [host]), port, user, user, grpc_options=options.items())


def refused(call, *arguments, **more):
    try:
        call(*arguments, **more)
    except Exception as error:
        return str(error)
    raise AssertionError("it was not refused")


def keys_and_ranges(root, _):
    for number in range(4):
        root.put("/range/%d" % number, str(9 - number))
    names = lambda found: [meta.key[7:].decode() for _, meta in found]
    assert names(root.get_prefix("/range/")) == ["0", "1", "2", "3"]
    # It takes a limit, and sends none.
    assert len(list(root.get_prefix("/range/", limit=2))) == 4
    assert names(root.get_prefix("/range/", sort_order="descend")) == ["3", "2", "1", "0"]
    found = root.get_prefix("/range/", sort_order="ascend", sort_target="value")
    assert names(found) == ["3", "2", "1", "0"]
    assert [value for value, _ in root.get_prefix("/range/", keys_only=True)] == [b""] * 4
    assert names(root.get_range("/range/1", "/range/3")) == ["1", "2"]
    assert root.get_prefix_response("/range/").count == 4
    assert root.get("/range/1", serializable=True)[0] == b"8"
    assert root.get_response("/range/1").header.revision > 1
    assert len(list(root.get_all())) >= 4
    assert root.put("/range/0", "new", prev_kv=True).prev_kv.value == b"9"
    assert root.delete("/range/0", prev_kv=True, return_response=True).prev_kvs[0].value == b"new"
    assert root.put_if_not_exists("/range/1", "x") is False
    assert root.replace("/range/1", "8", "eight") is True
    assert root.delete_prefix("/range/").deleted == 3


def transactions(root, _):
    root.put("/txn/a", "1")
    t = root.transactions
    ok, answers = root.transaction(
        compare=[t.value("/txn/a") == "1", t.version("/txn/a") < 2, t.create("/txn/b") == 0, t.mod("/txn/a") > 0],
        success=[t.put("/txn/b", "2"), t.get("/txn/b"), t.txn([], [t.delete("/txn/a")], [])],
        failure=[],
    )
    assert ok and answers[1][0][0] == b"2", answers
    assert root.get("/txn/a")[0] is None


def rights(root, limited):
    limited.put("limited/a", "1")
    assert "permission denied" in refused(limited.put, "other", "1")
    assert "permission denied" in refused(limited.get, "other")
    assert "permission denied" in refused(limited.compact, 2)
    lease = root.lease(60)
    root.put("other", "1", lease=lease)
    assert "permission denied" in refused(limited.revoke_lease, lease.id)
    root.revoke_lease(lease.id)
    assert "authentication failed" in refused(connect, password="wrong")
    # It sends no token with this one, and so is told what it lacks.
    assert "user name is empty" in refused(root.hash)


def watches(root, limited):
    first = root.put("/watch/a", "0").header.revision
    events, cancel = root.watch_prefix("/watch/", start_revision=first, prev_kv=True, progress_notify=True)
    root.put("/watch/a", "1")
    root.delete("/watch/a")
    seen = [next(events) for _ in range(3)]
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["PutEvent", "PutEvent", "DeleteEvent"], kinds
    assert seen[2].prev_value == b"1", seen[2]
    cancel()
    threading.Timer(0.2, lambda: limited.put("limited/w", "v")).start()
    assert limited.watch_once("limited/w", timeout=10).value == b"v"
    responses, cancel = limited.watch_prefix_response("limited/")
    limited.put("limited/x", "v")
    assert next(responses).events[0].key == b"limited/x"
    cancel()
    root.compact(root.get_response("/none").header.revision, physical=True)
    events, _ = root.watch("/watch/a", start_revision=first)
    assert "RevisionCompacted" in refused_kind(next, events)


def refused_kind(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return type(error).__name__
    raise AssertionError("it was not refused")


def leases(_, limited):
    lease = limited.lease(60)
    limited.put("limited/lease", "v", lease=lease)
    assert lease.granted_ttl == 60 and 55 <= lease.remaining_ttl <= 60
    assert lease.keys == [b"limited/lease"]
    assert [answer.TTL for answer in lease.refresh()] == [60]
    assert limited.get_lease_info(lease.id).TTL > 50
    lease.revoke()
    assert limited.get("limited/lease")[0] is None


def locks(_, limited):
    # Its locks lie where no prefix of a name can be: the right is for the very key.
    lock = limited.lock("held", ttl=30)
    assert "permission denied" in refused(lock.acquire, timeout=1)
    with connect().lock("held", ttl=30) as held:
        assert held.is_acquired()
        assert [answer.TTL for answer in held.refresh()] == [30]
        assert connect(url=URLS[1]).lock("held", ttl=30).acquire(timeout=1) is False


def upkeep(root, limited):
    status = root.status()
    assert status.version.startswith("3.") and status.db_size > 0 and status.raft_term > 0
    assert {url for member in limited.members for url in member.client_urls} == set(URLS)
    assert status.leader.id in [member.id for member in root.members]
    member = patiently(lambda: root.add_member(["https://127.0.0.1:1"]))
    member.update(["https://127.0.0.1:2"])
    assert len(list(root.members)) == 4
    member.remove()
    assert len(list(root.members)) == 3
    assert list(root.list_alarms()) == []
    target = next(iter(root.members))
    raised = root.create_alarm(target.id)
    assert [alarm.member_id for alarm in raised] == [target.id]
    assert [alarm.member_id for alarm in target.active_alarms] == [target.id]
    root.disarm_alarm(target.id)
    assert list(root.list_alarms()) == []
    root.defragment()
    saved = io.BytesIO()
    root.snapshot(saved)
    saved = saved.getvalue()
    assert hashlib.sha256(saved[:-32]).digest() == saved[-32:]


def patiently(call):
    """The same until it works; a cluster may be between leaders, or count its members' connections."""
    end = time.time() + 60
    while True:
        try:
            return call()
        except Exception:
            if time.time() > end:
                raise
            time.sleep(0.1)


def failover(root, _):
    control = socket.create_connection(os.environ["KVNODE_CONTROL"].split(":"))
    answers = control.makefile()

    def ask(line):
        control.sendall((line + "\n").encode())
        return answers.readline().split()

    limited = connect_to_all("limited")
    lease = limited.lease(60)
    limited.put("limited/held", "v", lease=lease)
    written, killed = [], None
    for number in range(60):
        if number == 20:
            _, killed = ask("kill")
        key = "limited/did/%03d" % number
        patiently(lambda: limited.put(key, str(number)))
        written.append(key.encode())
    survivor = connect("limited", next(url for url in URLS if url != killed))
    assert [meta.key for _, meta in survivor.get_prefix("limited/did/")] == written
    # A watch from where the work began tells all of it, once and in order.
    events, cancel = survivor.watch_prefix(
        "limited/did/", start_revision=survivor.get(written[0])[1].create_revision
    )
    told = []
    while told[-1:] != written[-1:]:
        event = next(events)
        if told[-1:] != [event.key]:
            told.append(event.key)
    cancel()
    assert told == written, told
    assert survivor.get_lease_info(lease.id).TTL > 20
    said, back = ask("restart")
    assert said == "serving" and back == killed, (said, back)
    again = connect("limited", back)
    assert [meta.key for _, meta in again.get_prefix("limited/did/")] == written


def main():
    root, limited = connect(), connect("limited")
    for step in (keys_and_ranges, transactions, rights, watches, leases, locks, upkeep, failover):
        step(root, limited)
        print(step.__name__, "ok", flush=True)
    print("all well")


main()
