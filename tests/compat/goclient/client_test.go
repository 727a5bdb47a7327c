// What Go programs do with the store: the plain client, and the recipes built on it.
package goclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func connect(t *testing.T) (*clientv3.Client, context.Context) {
	t.Helper()
	endpoint := os.Getenv("KVNODE_ENDPOINT")
	if endpoint == "" {
		t.Skip("KVNODE_ENDPOINT names no server")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            []string{endpoint},
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
	})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(func() { cancel(); client.Close() })
	return client, ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func demand(t *testing.T, ok bool, what ...any) {
	t.Helper()
	if !ok {
		t.Fatal(what...)
	}
}

func TestPutGetDelete(t *testing.T) {
	client, ctx := connect(t)
	put, err := client.Put(ctx, "kv/a", "1")
	must(t, err)
	_, err = client.Put(ctx, "kv/b", "2")
	must(t, err)
	got, err := client.Get(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	must(t, err)
	demand(t, len(got.Kvs) == 2 && string(got.Kvs[0].Key) == "kv/b", got)
	past, err := client.Get(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision))
	must(t, err)
	demand(t, past.Count == 1, past)
	again, err := client.Put(ctx, "kv/a", "3", clientv3.WithPrevKV())
	must(t, err)
	demand(t, string(again.PrevKv.Value) == "1", again)
	gone, err := client.Delete(ctx, "kv/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(t, err)
	demand(t, gone.Deleted == 2 && len(gone.PrevKvs) == 2, gone)
}

func TestErrorsAreRecognised(t *testing.T) {
	client, ctx := connect(t)
	_, err := client.Put(ctx, "", "v")
	demand(t, errors.Is(err, rpctypes.ErrEmptyKey), err)
	_, err = client.Get(ctx, "k", clientv3.WithRev(1<<40))
	demand(t, errors.Is(err, rpctypes.ErrFutureRev), err)
	_, err = client.Put(ctx, "k", "v", clientv3.WithLease(12345))
	demand(t, errors.Is(err, rpctypes.ErrLeaseNotFound), err)
	_, err = client.Revoke(ctx, 12345)
	demand(t, errors.Is(err, rpctypes.ErrLeaseNotFound), err)
	_, err = client.Put(ctx, "k", string(make([]byte, 1600*1024)))
	demand(t, errors.Is(err, rpctypes.ErrRequestTooLarge), err)
	one, two := clientv3.OpPut("d", "1"), clientv3.OpPut("d", "2")
	_, err = client.Txn(ctx).Then(one, two).Commit()
	demand(t, errors.Is(err, rpctypes.ErrDuplicateKey), err)
}

func TestTxn(t *testing.T) {
	client, ctx := connect(t)
	_, err := client.Put(ctx, "txn", "old")
	must(t, err)
	attempt := func() *clientv3.TxnResponse {
		answer, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.Value("txn"), "=", "old")).
			Then(clientv3.OpPut("txn", "new"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("txn")}, nil)).
			Else(clientv3.OpGet("txn")).
			Commit()
		must(t, err)
		return answer
	}
	first := attempt()
	demand(t, first.Succeeded, first)
	inner := first.Responses[1].GetResponseTxn().Responses[0].GetResponseRange()
	demand(t, string(inner.Kvs[0].Value) == "new", first)
	second := attempt()
	demand(t, !second.Succeeded, second)
}

func TestWatch(t *testing.T) {
	client, ctx := connect(t)
	first, err := client.Put(ctx, "watch/0", "before")
	must(t, err)
	watching, stop := context.WithCancel(ctx)
	events := client.Watch(clientv3.WithRequireLeader(watching), "watch/", clientv3.WithPrefix(),
		clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV(), clientv3.WithProgressNotify())
	for n := 1; n <= 20; n++ {
		_, err = client.Put(ctx, "watch/"+strconv.Itoa(n), "v")
		must(t, err)
	}
	_, err = client.Delete(ctx, "watch/0")
	must(t, err)
	seen, last := 0, int64(0)
	for seen < 22 {
		answer, open := <-events
		demand(t, open, "the watch ended")
		must(t, answer.Err())
		for _, event := range answer.Events {
			demand(t, event.Kv.ModRevision > last, "order", event)
			last = event.Kv.ModRevision
			seen++
			if event.Type == clientv3.EventTypeDelete {
				demand(t, string(event.PrevKv.Value) == "before", event)
			}
		}
	}
	must(t, client.RequestProgress(watching))
	stop()
	for range events {
	}
}

func TestLeases(t *testing.T) {
	client, ctx := connect(t)
	lease, err := client.Grant(ctx, 2)
	must(t, err)
	_, err = client.Put(ctx, "lease/k", "v", clientv3.WithLease(lease.ID))
	must(t, err)
	keeping, stop := context.WithCancel(ctx)
	answers, err := client.KeepAlive(keeping, lease.ID)
	must(t, err)
	time.Sleep(3500 * time.Millisecond)
	demand(t, len(answers) > 0, "keepalives were answered")
	kept, err := client.Get(ctx, "lease/k")
	must(t, err)
	demand(t, kept.Count == 1, "kept alive beyond its TTL")
	stop()
	left, err := client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, err)
	demand(t, left.GrantedTTL == 2 && len(left.Keys) == 1, left)
	_, err = client.Revoke(ctx, lease.ID)
	must(t, err)
	gone, err := client.Get(ctx, "lease/k")
	must(t, err)
	demand(t, gone.Count == 0, gone)
}

func TestMutex(t *testing.T) {
	client, ctx := connect(t)
	var holders, worst, count int
	var guard sync.Mutex
	var all sync.WaitGroup
	for n := 0; n < 5; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
			if err != nil {
				t.Error(err)
				return
			}
			defer session.Close()
			mutex := concurrency.NewMutex(session, "mutex/")
			for range 3 {
				if err := mutex.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				guard.Lock()
				holders++
				worst = max(worst, holders)
				count++
				guard.Unlock()
				time.Sleep(5 * time.Millisecond)
				guard.Lock()
				holders--
				guard.Unlock()
				if err := mutex.Unlock(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	all.Wait()
	demand(t, worst == 1 && count == 15, "holders at once:", worst, "times:", count)
}

func TestElection(t *testing.T) {
	client, ctx := connect(t)
	session, err := concurrency.NewSession(client)
	must(t, err)
	defer session.Close()
	election := concurrency.NewElection(session, "election/")
	must(t, election.Campaign(ctx, "me"))
	leader, err := election.Leader(ctx)
	must(t, err)
	demand(t, string(leader.Kvs[0].Value) == "me", leader)
	must(t, election.Proclaim(ctx, "still me"))
	observed := <-election.Observe(ctx)
	demand(t, string(observed.Kvs[0].Value) == "still me", observed)
	must(t, election.Resign(ctx))
	_, err = election.Leader(ctx)
	demand(t, errors.Is(err, concurrency.ErrElectionNoLeader), err)
}

func TestSTMKeepsTheSum(t *testing.T) {
	client, ctx := connect(t)
	const accounts, workers, moves = 5, 6, 15
	for n := range accounts {
		_, err := client.Put(ctx, fmt.Sprintf("stm/%d", n), "100")
		must(t, err)
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Add(1)
		go func() {
			defer all.Done()
			for m := range moves {
				from, to := fmt.Sprintf("stm/%d", (w+m)%accounts), fmt.Sprintf("stm/%d", (w+2*m+1)%accounts)
				if from == to {
					continue
				}
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					a, _ := strconv.Atoi(stm.Get(from))
					b, _ := strconv.Atoi(stm.Get(to))
					stm.Put(from, strconv.Itoa(a-1))
					stm.Put(to, strconv.Itoa(b+1))
					return nil
				}, concurrency.WithAbortContext(ctx))
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	all.Wait()
	got, err := client.Get(ctx, "stm/", clientv3.WithPrefix())
	must(t, err)
	sum := 0
	for _, kv := range got.Kvs {
		value, err := strconv.Atoi(string(kv.Value))
		must(t, err)
		sum += value
	}
	demand(t, len(got.Kvs) == accounts && sum == 100*accounts, "sum", sum)
}

func TestMaintenance(t *testing.T) {
	client, ctx := connect(t)
	endpoint := client.Endpoints()[0]
	status, err := client.Status(ctx, endpoint)
	must(t, err)
	demand(t, status.Leader == status.Header.MemberId && status.DbSize > 0, status)
	members, err := client.MemberList(ctx)
	must(t, err)
	demand(t, len(members.Members) == 1, members)
	hash, err := client.HashKV(ctx, endpoint, 0)
	must(t, err)
	demand(t, hash.Hash != 0, hash)
	put, err := client.Put(ctx, "maintenance", "v")
	must(t, err)
	_, err = client.Compact(ctx, put.Header.Revision)
	must(t, err)
	_, err = client.Get(ctx, "maintenance", clientv3.WithRev(put.Header.Revision-1))
	demand(t, errors.Is(err, rpctypes.ErrCompacted), err)
	_, err = client.Defragment(ctx, endpoint)
	must(t, err)
	alarms, err := client.AlarmList(ctx)
	must(t, err)
	demand(t, len(alarms.Alarms) == 0, alarms)
}
