"""What a Python program does with the store through JSON; ends with "all well" or an exception."""

import sys
import threading
import time

import etcd3gw
from etcd3gw import exceptions


def put_and_get(client):
    client.put("/app/a", "1")
    client.put("/app/b", b"2\x00\xff")
    assert client.get("/app/a") == [b"1"]
    assert client.get("/app/none") == []
    pairs = client.get_prefix("/app/", sort_order="descend", sort_target="key")
    assert [value for value, _ in pairs] == [b"2\x00\xff", b"1"], pairs
    assert pairs[1][1]["key"] == b"/app/a" and pairs[1][1]["version"] == "1", pairs
    assert client.get("/app/", range_end="/app0", limit=1, keys_only=True) == [b""]
    assert client.create("/app/once", "x") is True
    assert client.create("/app/once", "y") is False
    assert client.replace("/app/a", "1", "one") is True
    assert client.replace("/app/a", "1", "two") is False
    assert client.delete("/app/b") is True
    assert client.delete("/app/b") is False
    assert client.delete_prefix("/app/") is True
    assert client.get_all() == []


def transactions(client):
    key = etcd3gw.utils._encode("/txn")
    value = etcd3gw.utils._encode("v")
    answer = client.transaction(
        {
            "compare": [{"key": key, "result": "EQUAL", "target": "VERSION", "version": 0}],
            "success": [
                {"request_put": {"key": key, "value": value}},
                {"request_range": {"key": key}},
            ],
            "failure": [],
        }
    )
    assert answer["succeeded"], answer
    assert answer["responses"][1]["response_range"]["kvs"][0]["value"] == value, answer


def watches(client):
    seen = []
    events, cancel = client.watch("/watch/k")
    other, cancel_other = client.watch_prefix("/watch/")
    later = threading.Timer(0.1, lambda: [client.put("/watch/k", "v"), client.delete("/watch/k")])
    later.start()
    for event in events:
        seen.append(event.get("type", "PUT"))
        if len(seen) == 2:
            cancel()
    assert seen == ["PUT", "DELETE"], seen
    assert next(iter(other))["kv"]["value"] == b"v"
    cancel_other()
    threading.Timer(0.1, lambda: client.put("/watch/once", "1")).start()
    assert client.watch_once("/watch/once", timeout=10)["kv"]["value"] == b"1"
    try:
        client.watch_once("/watch/never", timeout=0.2)
        raise AssertionError("an event that nobody caused")
    except exceptions.WatchTimedOut:
        pass


def leases(client):
    lease = client.lease(60)
    client.put("/lease/k", "v", lease=lease)
    assert 55 <= lease.ttl() <= 60
    assert lease.keys() == [b"/lease/k"]
    assert lease.refresh() == 60
    assert lease.revoke() is True
    assert client.get("/lease/k") == []
    assert lease.refresh() == -1 and lease.ttl() == -1


def locks(client):
    with client.lock("shared", ttl=60) as lock:
        assert lock.is_acquired()
        assert lock.refresh() == 60
        assert client.lock("shared", ttl=60).acquire() is False
    assert client.lock("shared", ttl=60).acquire() is True


def upkeep(client):
    assert client.status()["version"].startswith("3.")
    assert len(client.members()) == 1
    try:
        client.put("", "no key")
        raise AssertionError("an empty key was taken")
    except exceptions.Etcd3Exception as error:
        assert "key is not provided" in error.detail_text, error


def main():
    client = etcd3gw.client(host="127.0.0.1", port=int(sys.argv[1]), timeout=10)
    assert client.api_path == "/v3/", client.api_path
    for step in (put_and_get, transactions, watches, leases, locks, upkeep):
        begun = time.time()
        step(client)
        print(step.__name__, "ok after", round(time.time() - begun, 1), "s", flush=True)
    print("all well")


main()
