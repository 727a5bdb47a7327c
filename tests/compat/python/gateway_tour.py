"""What a Python program can do with a cluster of three over TLS with users, in JSON through etcd3gw, and how it goes on
when the leader dies. Ends with "all well" or an exception."""

import os
import socket
import threading
import time
from urllib.parse import urlsplit

import etcd3gw
from etcd3gw import exceptions
from etcd3gw.utils import _encode

URLS = os.environ["KVNODE_ENDPOINTS"].split(",")


def connect(user, url=URLS[0]):
    where = urlsplit(url)
    client = etcd3gw.client(
        host=where.hostname,
        port=where.port,
        protocol="https",
        ca_cert=os.environ["KVNODE_CACERT"],
        cert_cert=os.environ["KVNODE_CERT"],
        cert_key=os.environ["KVNODE_KEY"],
        timeout=10,
    )
    # It has no log-in of its own; programs do this.
    answer = client.post(client.get_url("/auth/authenticate"), json={"name": user, "password": user})
    client.session.headers["Authorization"] = answer["token"]
    return client


def refused(call, *arguments):
    try:
        call(*arguments)
    except exceptions.Etcd3Exception as error:
        return error.detail_text
    raise AssertionError("it was not refused")


def keys_and_ranges(root, limited):
    first = None
    for number in range(4):
        root.put("/range/%d" % number, str(9 - number))
        first = first or int(root.get("/range/0", metadata=True)[0][1]["mod_revision"])
    span = {"range_end": "/range0"}
    assert root.get("/range/", **span) == [b"9", b"8", b"7", b"6"]
    assert root.get("/range/", limit=2, **span) == [b"9", b"8"]
    assert root.get("/range/", keys_only=True, **span) == [b""] * 4
    assert root.get("/range/", count_only=True, **span) == []
    assert root.get("/range/", sort_order="descend", sort_target="mod", **span) == [b"6", b"7", b"8", b"9"]
    assert root.get("/range/", sort_order="ascend", sort_target="value", **span) == [b"6", b"7", b"8", b"9"]
    assert root.get("/range/", revision=first, serializable=True, **span) == [b"9"]
    assert root.get("/range/", min_mod_revision=first + 2, **span) == [b"7", b"6"]
    assert root.get("/range/", max_create_revision=first, **span) == [b"9"]
    assert root.create("/range/0", "x") is False
    assert root.replace("/range/0", "9", "nine") is True
    assert root.delete("/range/0") is True
    assert root.delete_prefix("/range/") is True
    limited.put("limited/a", "1")
    assert "permission denied" in refused(limited.put, "other", "1")
    assert "permission denied" in refused(limited.get, "other")


def transactions(root, _):
    key, other = _encode("/txn/a"), _encode("/txn/b")
    root.put("/txn/a", "1")
    answer = root.transaction(
        {
            "compare": [
                {"key": key, "result": "EQUAL", "target": "VALUE", "value": _encode("1")},
                {"key": other, "result": "EQUAL", "target": "CREATE", "create_revision": 0},
                {"key": key, "result": "GREATER", "target": "MOD", "mod_revision": 0},
                {"key": key, "result": "EQUAL", "target": "LEASE", "lease": 0},
            ],
            "success": [
                {"request_put": {"key": other, "value": _encode("2")}},
                {"request_txn": {"success": [{"request_delete_range": {"key": key, "prev_kv": True}}]}},
            ],
            "failure": [{"request_range": {"key": key}}],
        }
    )
    assert answer["succeeded"], answer
    inner = answer["responses"][1]["response_txn"]["responses"][0]["response_delete_range"]
    assert inner["deleted"] == "1" and inner["prev_kvs"][0]["value"] == _encode("1"), answer


def watches(root, limited):
    root.put("/watch/a", "0")
    first = int(root.get("/watch/a", metadata=True)[0][1]["mod_revision"])
    root.put("/watch/a", "1")
    root.delete("/watch/a")
    events, cancel = root.watch_prefix("/watch/", start_revision=first, prev_kv=True)
    seen = [next(events) for _ in range(3)]
    cancel()
    kinds = [event.get("type", "PUT") for event in seen]
    assert kinds == ["PUT", "PUT", "DELETE"], seen
    events, cancel = root.watch("/watch/a", start_revision=first, filters=["NOPUT"])
    assert next(events)["type"] == "DELETE"
    cancel()
    threading.Timer(0.2, lambda: limited.put("limited/w", "v")).start()
    assert limited.watch_once("limited/w", timeout=10)["kv"]["value"] == b"v"


def leases(_, limited):
    lease = limited.lease(60)
    limited.put("limited/lease", "v", lease=lease)
    assert 55 <= lease.ttl() <= 60 and lease.keys() == [b"limited/lease"]
    assert lease.refresh() == 60
    assert lease.revoke() is True
    assert limited.get("limited/lease") == []


def locks(root, limited):
    with root.lock("shared", ttl=30) as lock:
        assert lock.is_acquired() and lock.refresh() == 30
        assert root.lock("shared", ttl=30).acquire() is False
    # Its locks lie under a name that this user has no right to.
    assert "permission denied" in refused(limited.lock("shared", ttl=30).acquire)


def upkeep(root, limited):
    assert root.status()["version"].startswith("3.")
    urls = {url for member in limited.members() for url in member["clientURLs"]}
    assert urls == set(URLS), urls
    # The rest of the API has no calls of its own, but its way to ask for anything.
    ask = lambda path, **body: root.post(root.get_url(path), json=body)
    assert set(ask("/auth/user/list")["users"]) == {"root", "limited"}
    ask("/auth/role/add", name="more")
    ask("/auth/role/grant", name="more", perm={"permType": "READ", "key": _encode("other")})
    ask("/auth/user/grant", user="limited", role="more")
    assert limited.get("other") == []
    ask("/auth/role/delete", role="more")
    assert "permission denied" in refused(limited.get, "other")
    assert ask("/maintenance/hashkv")["hash"] > 0
    assert "alarms" not in ask("/maintenance/alarm", action="GET")
    ask("/maintenance/defragment")
    lease = root.lease(30)
    won = ask("/election/campaign", name=_encode("office"), lease=lease.id, value=_encode("me"))
    assert ask("/election/leader", name=_encode("office"))["kv"]["value"] == _encode("me")
    ask("/election/proclaim", leader=won["leader"], value=_encode("still me"))
    ask("/election/resign", leader=won["leader"])
    key = ask("/lock/lock", name=_encode("door"), lease=lease.id)["key"]
    ask("/lock/unlock", key=key)
    revision = ask("/kv/range", key=_encode("none"))["header"]["revision"]
    ask("/kv/compaction", revision=revision, physical=True)
    assert "compacted" in refused(lambda: ask("/kv/compaction", revision=revision))


def patiently(call):
    """The same until it works: the cluster may be between leaders."""
    end = time.time() + 60
    while True:
        try:
            return call()
        except exceptions.Etcd3Exception:
            if time.time() > end:
                raise
            time.sleep(0.1)


def failover(_, limited):
    control = socket.create_connection(os.environ["KVNODE_CONTROL"].split(":"))
    answers = control.makefile()

    def ask(line):
        control.sendall((line + "\n").encode())
        return answers.readline().split()

    lease = limited.lease(60)
    limited.put("limited/held", "v", lease=lease)
    written, killed, mine = [], None, URLS[0]
    for number in range(60):
        if number == 20:
            _, killed = ask("kill")
            if killed == mine:
                # It knows one address; its user has to know the others. Tokens are good on every member.
                mine = URLS[1]
                limited = patiently(lambda: connect("limited", mine))
        key = "limited/did/%03d" % number
        patiently(lambda: limited.put(key, str(number)))
        written.append(key.encode())
    found = limited.get_prefix("limited/did/")
    assert [meta["key"] for _, meta in found] == written
    begun = int(found[0][1]["create_revision"])
    events, cancel = limited.watch_prefix("limited/did/", start_revision=begun)
    told = []
    while told[-1:] != written[-1:]:
        key = next(events)["kv"]["key"]
        if told[-1:] != [key]:
            told.append(key)
    cancel()
    assert told == written, told
    held = etcd3gw.lease.Lease(lease.id, limited)
    assert held.ttl() > 20 and held.keys() == [b"limited/held"]
    said, back = ask("restart")
    assert said == "serving" and back == killed, (said, back)
    again = connect("limited", back)
    assert [meta["key"] for _, meta in again.get_prefix("limited/did/")] == written


def main():
    root, limited = connect("root"), connect("limited")
    for step in (keys_and_ranges, transactions, watches, leases, locks, upkeep, failover):
        begun = time.time()
        step(root, limited)
        print(step.__name__, "ok after", round(time.time() - begun, 1), "s", flush=True)
    print("all well")


main()
