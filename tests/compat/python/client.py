"""What a Python program does with the store; ends with "all well" or an exception."""

import queue
import sys
import threading
import time

import etcd3


def put_and_get(client):
    client.put("/app/a", "1")
    client.put("/app/b", "2")
    value, meta = client.get("/app/a")
    assert value == b"1" and meta.version == 1, (value, meta)
    assert [v for v, _ in client.get_prefix("/app/")] == [b"1", b"2"]
    assert client.delete("/app/b") is True
    assert client.delete("/app/b") is False
    assert client.get("/app/b") == (None, None)
    assert client.put_if_not_exists("/app/once", "x") is True
    assert client.put_if_not_exists("/app/once", "y") is False
    assert client.replace("/app/a", "1", "one") is True
    assert client.replace("/app/a", "1", "two") is False


def transactions(client):
    client.put("/txn", "start")
    t = client.transactions
    ok, answers = client.transaction(
        compare=[t.value("/txn") == "start", t.version("/txn") > 0],
        success=[t.put("/txn", "done"), t.get("/txn")],
        failure=[t.delete("/txn")],
    )
    assert ok and answers[1][0][0] == b"done", answers
    ok, _ = client.transaction(
        compare=[t.create("/txn") == 0], success=[], failure=[t.delete("/txn")]
    )
    assert not ok and client.get("/txn")[0] is None


def watches(client):
    seen = queue.Queue()
    ids = [client.add_watch_callback("/watch/%d" % n, seen.put) for n in range(3)]
    client.put("/watch/1", "v")
    client.delete("/watch/1")
    kinds = []
    while len(kinds) < 2:
        kinds += [type(event).__name__ for event in seen.get(timeout=10).events]
    assert kinds == ["PutEvent", "DeleteEvent"], kinds
    for watch in ids:
        client.cancel_watch(watch)
    client.put("/watch/1", "unseen")
    time.sleep(0.2)
    assert seen.empty()


def leases(client):
    lease = client.lease(60)
    client.put("/lease/k", "v", lease=lease)
    assert lease.granted_ttl == 60 and 55 <= lease.remaining_ttl <= 60
    assert lease.keys == [b"/lease/k"]
    assert [answer.TTL for answer in lease.refresh()] == [60]
    lease.revoke()
    assert client.get("/lease/k")[0] is None


def locks(client, port):
    order = []

    def hold(name):
        with etcd3.client(port=port).lock("shared", ttl=10):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    threads = [threading.Thread(target=hold, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(order) == 6 and all(order[n] == order[n + 1] for n in (0, 2, 4)), order


def upkeep(client):
    status = client.status()
    assert status.version.startswith("3."), status.version
    assert len(list(client.members)) == 1
    assert list(client.list_alarms()) == []
    client.hash()
    _, meta = client.get("/app/a")
    client.compact(meta.mod_revision)
    client.defragment()
    with open("/dev/null", "wb") as sink:
        client.snapshot(sink)


def main():
    port = int(sys.argv[1])
    client = etcd3.client(host="127.0.0.1", port=port, timeout=10)
    for step in (put_and_get, transactions, watches, leases, upkeep):
        step(client)
        print(step.__name__, "ok", flush=True)
    locks(client, port)
    print("all well")


main()
