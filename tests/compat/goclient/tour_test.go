package goclient

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
)

// TestTour is all a Go program can ask of a cluster of three with TLS and users, and goes on while the leader dies.
func TestTour(t *testing.T) {
	if os.Getenv("KVNODE_CONTROL") == "" {
		t.Skip("KVNODE_CONTROL names nobody to ask for a death")
	}
	nobody := dial(t, "")
	run := func(name string, step func(t *testing.T, root, limited *clientv3.Client)) {
		if t.Failed() {
			return
		}
		t.Run(name, func(t *testing.T) { step(t, dial(t, "root"), dial(t, "limited")) })
	}
	t.Run("users", func(t *testing.T) { users(t, nobody) })
	run("rights", rights)
	run("ranges", ranges)
	run("transactions", transactions)
	run("watches", watches)
	run("leases", leases)
	run("locks", locks)
	run("elections", elections)
	run("stm", stm)
	run("layers", layers)
	run("members", members)
	run("maintenance", maintenance)
	run("failover", failover)
}

func dial(t *testing.T, user string) *clientv3.Client {
	t.Helper()
	return dialOne(t, user, strings.Split(os.Getenv("KVNODE_ENDPOINTS"), ",")...)
}

func dialOne(t *testing.T, user string, endpoints ...string) *clientv3.Client {
	t.Helper()
	pem, err := os.ReadFile(os.Getenv("KVNODE_CACERT"))
	must(t, err)
	roots := x509.NewCertPool()
	demand(t, roots.AppendCertsFromPEM(pem), "no authority in KVNODE_CACERT")
	pair, err := tls.LoadX509KeyPair(os.Getenv("KVNODE_CERT"), os.Getenv("KVNODE_KEY"))
	must(t, err)
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialTimeout:          10 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		TLS:                  &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
		Username:             user,
		Password:             user,
	})
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func users(t *testing.T, client *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	all := func(_ any, err error) { t.Helper(); must(t, err) }
	all(client.UserAdd(ctx, "root", "root"))
	all(client.RoleAdd(ctx, "root"))
	all(client.UserGrantRole(ctx, "root", "root"))
	all(client.UserAdd(ctx, "limited", "first"))
	all(client.UserChangePassword(ctx, "limited", "limited"))
	all(client.RoleAdd(ctx, "limited"))
	permission := clientv3.PermissionType(clientv3.PermReadWrite)
	all(client.RoleGrantPermission(ctx, "limited", "limited/", clientv3.GetPrefixRangeEnd("limited/"), permission))
	all(client.UserGrantRole(ctx, "limited", "limited"))
	_, err := client.UserAdd(ctx, "limited", "x")
	demand(t, errors.Is(err, rpctypes.ErrUserAlreadyExist), err)
	all(client.AuthEnable(ctx))
	_, err = client.Get(ctx, "k")
	demand(t, errors.Is(err, rpctypes.ErrUserEmpty), err)
}

func rights(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	status, err := root.AuthStatus(ctx)
	must(t, err)
	demand(t, status.Enabled && status.AuthRevision > 0, status)
	_, err = limited.Put(ctx, "limited/a", "1")
	must(t, err)
	_, err = limited.Put(ctx, "other", "1")
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	_, err = limited.Get(ctx, "limited", clientv3.WithPrefix())
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	_, err = limited.UserList(ctx)
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	self, err := limited.UserGet(ctx, "limited")
	must(t, err)
	demand(t, len(self.Roles) == 1, self)
	answer := <-limited.Watch(ctx, "other")
	demand(t, answer.Canceled && strings.Contains(answer.Err().Error(), "permission denied"), answer.Err())

	_, err = root.UserAddWithOptions(ctx, "cn", "", &clientv3.UserAddOptions{NoPassword: true})
	must(t, err)
	_, err = root.RoleAdd(ctx, "more")
	must(t, err)
	_, err = root.RoleGrantPermission(ctx, "more", "other", "", clientv3.PermissionType(clientv3.PermRead))
	must(t, err)
	_, err = root.UserGrantRole(ctx, "limited", "more")
	must(t, err)
	_, err = limited.Get(ctx, "other")
	must(t, err)
	role, err := root.RoleGet(ctx, "more")
	must(t, err)
	demand(t, len(role.Perm) == 1 && string(role.Perm[0].Key) == "other", role)
	_, err = root.RoleRevokePermission(ctx, "more", "other", "")
	must(t, err)
	_, err = limited.Get(ctx, "other")
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	_, err = root.UserRevokeRole(ctx, "limited", "more")
	must(t, err)
	_, err = root.RoleDelete(ctx, "more")
	must(t, err)
	_, err = root.UserDelete(ctx, "cn")
	must(t, err)
	names, err := root.UserList(ctx)
	must(t, err)
	roles, err := root.RoleList(ctx)
	must(t, err)
	demand(t, len(names.Users) == 2 && len(roles.Roles) == 2, names, roles)
}

func ranges(t *testing.T, root, _ *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	var first int64
	for n := range 4 {
		put, err := root.Put(ctx, "range/"+strconv.Itoa(n), strconv.Itoa(9-n))
		must(t, err)
		if n == 0 {
			first = put.Header.Revision
		}
	}
	keys := func(options ...clientv3.OpOption) string {
		t.Helper()
		got, err := root.Get(ctx, "range/", append([]clientv3.OpOption{clientv3.WithPrefix()}, options...)...)
		must(t, err)
		text := strconv.FormatInt(got.Count, 10) + strconv.FormatBool(got.More)
		for _, kv := range got.Kvs {
			text += " " + string(kv.Key[6:]) + "=" + string(kv.Value)
		}
		return text
	}
	for _, one := range []struct{ got, expected string }{
		{keys(), "4false 0=9 1=8 2=7 3=6"},
		{keys(clientv3.WithLimit(2)), "4true 0=9 1=8"},
		{keys(clientv3.WithKeysOnly()), "4false 0= 1= 2= 3="},
		{keys(clientv3.WithCountOnly()), "4false"},
		{keys(clientv3.WithSerializable(), clientv3.WithLimit(1)), "4true 0=9"},
		{keys(clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend), clientv3.WithLimit(1)), "4true 3=6"},
		{keys(clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)), "4false 3=6 2=7 1=8 0=9"},
		{keys(clientv3.WithMinModRev(first + 2)), "4false 2=7 3=6"},
		{keys(clientv3.WithMaxCreateRev(first)), "4false 0=9"},
		{keys(clientv3.WithRev(first)), "1false 0=9"},
	} {
		demand(t, one.got == one.expected, "got ", one.got, ", expected ", one.expected)
	}
	got, err := root.Get(ctx, "range/2", clientv3.WithFromKey(), clientv3.WithLimit(1))
	must(t, err)
	demand(t, string(got.Kvs[0].Key) == "range/2", got)
	got, err = root.Get(ctx, "range/1", clientv3.WithRange("range/3"))
	must(t, err)
	demand(t, len(got.Kvs) == 2, got)
	_, err = root.Put(ctx, "range/0", "", clientv3.WithIgnoreValue())
	must(t, err)
	_, err = root.Put(ctx, "range/absent", "", clientv3.WithIgnoreValue())
	demand(t, errors.Is(err, rpctypes.ErrKeyNotFound), err)
	gone, err := root.Delete(ctx, "range/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(t, err)
	demand(t, gone.Deleted == 4 && string(gone.PrevKvs[0].Value) == "9", gone)
}

func transactions(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	_, err := root.Put(ctx, "txn/a", "1")
	must(t, err)
	answer, err := root.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("txn/a"), "=", "1"),
			clientv3.Compare(clientv3.Version("txn/a"), "<", 2),
			clientv3.Compare(clientv3.CreateRevision("txn/absent"), "=", 0),
			clientv3.Compare(clientv3.LeaseValue("txn/a"), "=", 0),
			clientv3.Compare(clientv3.ModRevision("txn/"), ">", 0).WithPrefix()).
		Then(clientv3.OpPut("txn/b", "2"), clientv3.OpGet("txn/", clientv3.WithPrefix()),
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("txn/a", clientv3.WithPrevKV())}, nil)).
		Commit()
	must(t, err)
	demand(t, answer.Succeeded && answer.Responses[1].GetResponseRange().Count == 2, answer)
	gone := answer.Responses[2].GetResponseTxn().Responses[0].GetResponseDeleteRange()
	demand(t, gone.Deleted == 1 && string(gone.PrevKvs[0].Value) == "1", gone)
	// What is not taken counts too.
	_, err = limited.Txn(ctx).Then(clientv3.OpGet("limited/a")).Else(clientv3.OpGet("txn/b")).Commit()
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	many := make([]clientv3.Op, 129)
	for n := range many {
		many[n] = clientv3.OpGet("txn/b")
	}
	_, err = root.Txn(ctx).Then(many...).Commit()
	demand(t, errors.Is(err, rpctypes.ErrTooManyOps), err)
	did, err := root.Do(ctx, clientv3.OpPut("txn/b", "3", clientv3.WithPrevKV()))
	must(t, err)
	demand(t, string(did.Put().PrevKv.Value) == "2", did)
}

func watches(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	first, err := root.Put(ctx, "watch/a", "0")
	must(t, err)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	events := root.Watch(watching, "watch/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFragment(),
		clientv3.WithRev(first.Header.Revision), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	created := <-events
	demand(t, created.Created, created)
	deletes := root.Watch(watching, "watch/", clientv3.WithPrefix(), clientv3.WithFilterPut())
	own := limited.Watch(watching, "limited/w")
	_, err = root.Put(ctx, "watch/a", "1")
	must(t, err)
	last, err := root.Delete(ctx, "watch/a")
	must(t, err)
	seen := []string{}
	for len(seen) < 3 {
		answer := <-events
		must(t, answer.Err())
		for _, event := range answer.Events {
			before := ""
			if event.PrevKv != nil {
				before = string(event.PrevKv.Value)
			}
			seen = append(seen, event.Type.String()+" "+string(event.Kv.Value)+" "+before)
		}
	}
	demand(t, strings.Join(seen, ",") == "PUT 0 ,PUT 1 0,DELETE  1", seen)
	gone := <-deletes
	demand(t, len(gone.Events) == 1 && gone.Events[0].Type == clientv3.EventTypeDelete, gone)
	_, err = limited.Put(ctx, "limited/w", "v")
	must(t, err)
	mine := <-own
	demand(t, len(mine.Events) == 1 && mine.Events[0].IsCreate(), mine)
	must(t, root.RequestProgress(watching))
	for {
		answer := <-events
		must(t, answer.Err())
		if answer.IsProgressNotify() {
			demand(t, answer.Header.Revision >= last.Header.Revision, answer)
			break
		}
	}
	_, err = root.Compact(ctx, last.Header.Revision)
	must(t, err)
	late := <-root.Watch(ctx, "watch/a", clientv3.WithRev(first.Header.Revision))
	demand(t, errors.Is(late.Err(), rpctypes.ErrCompacted) && late.CompactRevision == last.Header.Revision, late)
}

func leases(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	lease, err := root.Grant(ctx, 60)
	must(t, err)
	_, err = root.Put(ctx, "lease/k", "v", clientv3.WithLease(lease.ID))
	must(t, err)
	_, err = root.Put(ctx, "lease/k", "w", clientv3.WithIgnoreLease())
	must(t, err)
	once, err := root.KeepAliveOnce(ctx, lease.ID)
	must(t, err)
	demand(t, once.TTL == 60, once)
	kept, err := root.KeepAlive(ctx, lease.ID)
	must(t, err)
	demand(t, (<-kept).TTL == 60, "kept")
	left, err := root.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, err)
	demand(t, left.GrantedTTL == 60 && len(left.Keys) == 1, left)
	all, err := root.Leases(ctx)
	must(t, err)
	demand(t, len(all.Leases) >= 1, all)
	// A lease that holds a foreign key is nobody else's to end.
	_, err = limited.Revoke(ctx, lease.ID)
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	_, err = root.Revoke(ctx, lease.ID)
	must(t, err)
	got, err := root.Get(ctx, "lease/k")
	must(t, err)
	demand(t, got.Count == 0, got)
	for range kept {
		// Ends once the lease is known to be gone.
	}
}

func session(t *testing.T, client *clientv3.Client) *concurrency.Session {
	t.Helper()
	session, err := concurrency.NewSession(client, concurrency.WithTTL(30))
	must(t, err)
	t.Cleanup(func() { session.Close() })
	return session
}

func locks(t *testing.T, _, limited *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	one := concurrency.NewMutex(session(t, limited), "limited/lock")
	two := concurrency.NewMutex(session(t, limited), "limited/lock")
	must(t, one.Lock(ctx))
	demand(t, errors.Is(two.TryLock(ctx), concurrency.ErrLocked), "held")
	got := make(chan error, 1)
	go func() { got <- two.Lock(ctx) }()
	owned, err := limited.Txn(ctx).If(one.IsOwner()).Then(clientv3.OpPut("limited/owned", "v")).Commit()
	must(t, err)
	demand(t, owned.Succeeded, owned)
	must(t, one.Unlock(ctx))
	must(t, <-got)
	must(t, two.Unlock(ctx))
	must(t, one.TryLock(ctx))
	must(t, one.Unlock(ctx))
	locker := concurrency.NewLocker(session(t, limited), "limited/locker")
	locker.Lock()
	locker.Unlock()
}

func elections(t *testing.T, _, limited *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	first, second := session(t, limited), session(t, limited)
	one := concurrency.NewElection(first, "limited/election")
	two := concurrency.NewElection(second, "limited/election")
	must(t, one.Campaign(ctx, "one"))
	resumed := concurrency.ResumeElection(first, "limited/election", one.Key(), one.Rev())
	won := make(chan error, 1)
	go func() { won <- two.Campaign(ctx, "two") }()
	seen := two.Observe(ctx)
	demand(t, string((<-seen).Kvs[0].Value) == "one", "observed")
	must(t, resumed.Proclaim(ctx, "one again"))
	demand(t, string((<-seen).Kvs[0].Value) == "one again", "observed")
	must(t, resumed.Resign(ctx))
	must(t, <-won)
	leader, err := one.Leader(ctx)
	must(t, err)
	demand(t, string(leader.Kvs[0].Value) == "two", leader)
	must(t, two.Resign(ctx))
	_, err = one.Leader(ctx)
	demand(t, errors.Is(err, concurrency.ErrElectionNoLeader), err)
}

func stm(t *testing.T, _, limited *clientv3.Client) {
	ctx := within(t, 60*time.Second)
	const workers, times = 4, 5
	for _, isolation := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable,
		concurrency.RepeatableReads} {
		key := fmt.Sprintf("limited/stm%d", isolation)
		done := make(chan error, workers)
		for range workers {
			go func() {
				for range times {
					_, err := concurrency.NewSTM(limited, func(stm concurrency.STM) error {
						n, _ := strconv.Atoi(stm.Get(key))
						stm.Put(key, strconv.Itoa(n+1))
						return nil
					}, concurrency.WithAbortContext(ctx), concurrency.WithIsolation(isolation), concurrency.WithPrefetch(key))
					if err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range workers {
			must(t, <-done)
		}
		got, err := limited.Get(ctx, key)
		must(t, err)
		demand(t, string(got.Kvs[0].Value) == strconv.Itoa(workers*times), got)
	}
}

// layers are what the client's package puts on top of it.
func layers(t *testing.T, root, _ *clientv3.Client) {
	ctx := within(t, 30*time.Second)
	kv := namespace.NewKV(root.KV, "layer/")
	_, err := kv.Put(ctx, "a", "1")
	must(t, err)
	got, err := root.Get(ctx, "layer/a")
	must(t, err)
	demand(t, got.Count == 1, got)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	events := namespace.NewWatcher(root.Watcher, "layer/").Watch(watching, "a", clientv3.WithCreatedNotify())
	<-events
	_, err = kv.Put(ctx, "a", "2")
	must(t, err)
	demand(t, string((<-events).Events[0].Kv.Key) == "a", "in the namespace")

	syncer := mirror.NewSyncer(root, "layer/", 0)
	base, failures := syncer.SyncBase(ctx)
	count := 0
	for answer := range base {
		count += len(answer.Kvs)
	}
	must(t, <-failures)
	demand(t, count == 1, count)
	updates := syncer.SyncUpdates(watching)
	_, err = kv.Put(ctx, "b", "1")
	must(t, err)
	for update := range updates {
		if string(update.Events[len(update.Events)-1].Kv.Key) == "layer/b" {
			break
		}
	}
}

func members(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 60*time.Second)
	list, err := limited.MemberList(ctx)
	must(t, err)
	demand(t, len(list.Members) == 3 && strings.HasPrefix(list.Members[0].ClientURLs[0], "https://"), list)
	_, err = limited.MemberAdd(ctx, []string{"https://127.0.0.1:1"})
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	// A cluster counts its members as connected some seconds after they are.
	var added *clientv3.MemberAddResponse
	for {
		added, err = root.MemberAddAsLearner(ctx, []string{"https://127.0.0.1:1"})
		if err == nil || !strings.Contains(err.Error(), "unhealthy cluster") {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	must(t, err)
	demand(t, added.Member.IsLearner && len(added.Members) == 4, added)
	_, err = root.MemberUpdate(ctx, added.Member.ID, []string{"https://127.0.0.1:2"})
	must(t, err)
	_, err = root.MemberPromote(ctx, added.Member.ID)
	demand(t, errors.Is(err, rpctypes.ErrMemberLearnerNotReady), err)
	_, err = root.MemberRemove(ctx, added.Member.ID)
	must(t, err)
	_, err = root.MemberRemove(ctx, added.Member.ID)
	demand(t, errors.Is(err, rpctypes.ErrMemberNotFound), err)
	must(t, root.Sync(ctx))
	demand(t, len(root.Endpoints()) == 3, root.Endpoints())
}

func maintenance(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 60*time.Second)
	var leader, follower uint64
	var leads string
	hashes := map[uint32]bool{}
	put, err := root.Put(ctx, "maintenance", "v")
	must(t, err)
	for _, endpoint := range root.Endpoints() {
		_, err = root.Get(ctx, "maintenance")
		must(t, err)
		status, err := root.Status(ctx, endpoint)
		must(t, err)
		demand(t, strings.HasPrefix(status.Version, "3.") && len(status.Errors) == 0, status)
		if status.Leader == status.Header.MemberId {
			leader, leads = status.Leader, endpoint
		} else {
			follower = status.Header.MemberId
		}
		for {
			// This member may be a little behind.
			hash, err := root.HashKV(ctx, endpoint, put.Header.Revision)
			if errors.Is(err, rpctypes.ErrFutureRev) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			must(t, err)
			hashes[hash.Hash] = true
			break
		}
		_, err = root.Defragment(ctx, endpoint)
		must(t, err)
	}
	demand(t, len(hashes) == 1 && leader != 0, hashes, leader)
	_, err = limited.HashKV(ctx, leads, 0)
	demand(t, errors.Is(err, rpctypes.ErrPermissionDenied), err)
	alarms, err := root.AlarmList(ctx)
	must(t, err)
	demand(t, len(alarms.Alarms) == 0, alarms)
	_, err = root.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(t, err)

	stream, err := root.Snapshot(ctx)
	must(t, err)
	saved, err := io.ReadAll(stream)
	must(t, err)
	size := len(saved) - sha256.Size
	demand(t, size > 0 && size%512 == 0, size)
	demand(t, string(saved[size:]) == string(sum(saved[:size])), "the digest at the end")

	_, err = dialOne(t, "root", leads).MoveLeader(ctx, follower)
	must(t, err)
	status, err := root.Status(ctx, leads)
	must(t, err)
	demand(t, status.Leader == follower, status)
}

func sum(bytes []byte) []byte {
	digest := sha256.Sum256(bytes)
	return digest[:]
}

// failover is a program at work while the leader dies: nothing it was told was written is lost, its watch misses
// nothing and repeats nothing, its lease, lock and leadership stay its own.
func failover(t *testing.T, root, limited *clientv3.Client) {
	ctx := within(t, 120*time.Second)
	control, err := net.Dial("tcp", os.Getenv("KVNODE_CONTROL"))
	must(t, err)
	defer control.Close()
	answers := bufio.NewReader(control)
	ask := func(line string) string {
		fmt.Fprintln(control, line)
		answer, err := answers.ReadString('\n')
		must(t, err)
		return strings.TrimSpace(answer)
	}
	held := session(t, limited)
	mutex := concurrency.NewMutex(held, "limited/held")
	must(t, mutex.Lock(ctx))
	watching, stop := context.WithCancel(ctx)
	defer stop()
	events := limited.Watch(watching, "limited/did/", clientv3.WithPrefix())
	written := map[string]bool{}
	var killed string
	for n := range 60 {
		if n == 20 {
			killed = ask("kill")
		}
		key := fmt.Sprintf("limited/did/%03d", n)
		for {
			attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, err = limited.Put(attempt, key, "v")
			cancel()
			if err == nil {
				break
			}
			must(t, ctx.Err())
			time.Sleep(50 * time.Millisecond)
		}
		written[key] = true
	}
	seen, last := map[string]int{}, int64(0)
	for len(seen) < len(written) {
		answer, open := <-events
		demand(t, open, "the watch ended")
		must(t, answer.Err())
		for _, event := range answer.Events {
			demand(t, event.Kv.ModRevision > last, "order", event)
			last = event.Kv.ModRevision
			seen[string(event.Kv.Key)]++
		}
	}
	got, err := limited.Get(ctx, "limited/did/", clientv3.WithPrefix())
	must(t, err)
	demand(t, int(got.Count) == len(written), got.Count)
	select {
	case <-held.Done():
		t.Fatal("the session ended")
	default:
	}
	owned, err := limited.Txn(ctx).If(mutex.IsOwner()).Commit()
	must(t, err)
	demand(t, owned.Succeeded, "the lock is still held")
	must(t, mutex.Unlock(ctx))
	back := ask("restart")
	demand(t, strings.HasPrefix(killed, "killed https://") && strings.HasPrefix(back, "serving https://"), killed, back)
	one := dialOne(t, "root", strings.TrimPrefix(back, "serving "))
	again, err := one.Get(ctx, "limited/did/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(t, err)
	demand(t, int(again.Count) == len(written), again.Count)
}
