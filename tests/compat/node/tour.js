// What a Node.js program can do with a cluster of three over TLS with users, through the package etcd3, and how it goes on
// when the leader dies. Ends with "all well" or an exception.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');

const { Etcd3, Range, EtcdPermissionDeniedError } = require('etcd3');

const env = process.env;
const urls = env.KVNODE_ENDPOINTS.split(',');
const open = [];

function connect(user, hosts = urls) {
  const client = new Etcd3({
    hosts,
    credentials: {
      rootCertificate: fs.readFileSync(env.KVNODE_CACERT),
      privateKey: fs.readFileSync(env.KVNODE_KEY),
      certChain: fs.readFileSync(env.KVNODE_CERT),
    },
    auth: user && { username: user, password: user },
    dialTimeout: 10000,
  });
  open.push(client);
  return client;
}

async function users(nobody) {
  const root = await nobody.user('root').create('root');
  await nobody.role('root').create();
  await root.addRole('root');
  const limited = await nobody.user('limited').create('first');
  await limited.setPassword('limited');
  const role = await nobody.role('limited').create();
  await role.grant({ permission: 'Readwrite', range: Range.prefix('limited/') });
  await role.addUser('limited');
  await nobody.auth.authEnable();
  await assert.rejects(nobody.get('k').exec(), /user name is empty/);
}

async function rights(root, limited) {
  await limited.put('limited/a').value('1');
  await assert.rejects(limited.put('other').value('1').exec(), EtcdPermissionDeniedError);
  await assert.rejects(limited.get('other').exec(), EtcdPermissionDeniedError);
  await assert.rejects(limited.getUsers(), EtcdPermissionDeniedError);
  assert.deepEqual((await root.getUsers()).map((user) => user.name).sort(), ['limited', 'root']);
  const more = await root.role('more').create();
  await more.grant({ permission: 'Read', key: 'other' });
  await more.addUser('limited');
  assert.equal(await limited.get('other'), null);
  assert.deepEqual((await root.user('limited').roles()).map((role) => role.name).sort(), ['limited', 'more']);
  assert.equal((await more.permissions())[0].permission, 'Read');
  await more.revoke({ permission: 'Read', key: 'other' });
  await assert.rejects(limited.get('other').exec(), EtcdPermissionDeniedError);
  await more.removeUser('limited');
  await more.delete();
  assert.equal((await root.getRoles()).length, 2);
  assert.equal((await root.auth.authStatus()).enabled, true);
}

async function keysAndRanges(root) {
  let first;
  for (let n = 0; n < 4; n++) {
    const put = await root.put(`range/${n}`).value(String(9 - n)).exec();
    first = first || put.header.revision;
  }
  const all = () => root.getAll().prefix('range/');
  assert.deepEqual(await all().strings(), { 'range/0': '9', 'range/1': '8', 'range/2': '7', 'range/3': '6' });
  assert.deepEqual(await all().numbers(), { 'range/0': 9, 'range/1': 8, 'range/2': 7, 'range/3': 6 });
  assert.deepEqual(await all().limit(2).keys(), ['range/0', 'range/1']);
  assert.equal(await all().count(), 4);
  assert.deepEqual(await all().sort('Value', 'Ascend').limit(1).keys(), ['range/3']);
  assert.deepEqual(await all().sort('Mod', 'Descend').keys(), ['range/3', 'range/2', 'range/1', 'range/0']);
  assert.deepEqual(await all().revision(first).keys(), ['range/0']);
  assert.deepEqual(await all().minModRevision(String(BigInt(first) + 2n)).keys(), ['range/2', 'range/3']);
  assert.deepEqual(await all().maxCreateRevision(first).keys(), ['range/0']);
  assert.deepEqual(await root.getAll().inRange({ start: 'range/1', end: 'range/3' }).keys(), ['range/1', 'range/2']);
  assert.equal(await root.get('range/0').serializable(true).number(), 9);
  assert.equal(await root.get('range/0').exists(), true);
  await root.put('range/json').value(JSON.stringify({ a: [1] }));
  assert.deepEqual(await root.get('range/json').json(), { a: [1] });
  assert.equal((await root.put('range/0').value('new').getPrevious()).value.toString(), '9');
  await root.put('range/0').touch();
  assert.equal(await root.get('range/0'), 'new');
  assert.equal((await root.delete().key('range/0').getPrevious())[0].value.toString(), 'new');
  assert.equal((await root.delete().range(Range.prefix('range/')).exec()).deleted, '4');
}

async function transactions(root, limited) {
  await root.put('txn/a').value('1');
  const answer = await root
    .if('txn/a', 'Value', '==', '1')
    .and('txn/a', 'Version', '<', 2)
    .and('txn/b', 'Create', '==', 0)
    .then(root.put('txn/b').value('2'), root.get('txn/b'), root.delete().key('txn/a'))
    .else(root.get('txn/a'))
    .commit();
  assert.equal(answer.succeeded, true);
  assert.equal(answer.responses[1].response_range.kvs[0].value.toString(), '2');
  const space = limited.namespace('limited/');
  // SerializableSnapshot, Serializable, RepeatableReads: the names exist for TypeScript alone.
  for (const isolation of [0, 1, 2]) {
    const key = `stm${isolation}`;
    const add = () =>
      space.stm({ isolation, retries: 50 }).transact(async (tx) => {
        const value = Number((await tx.get(key)) || 0);
        await tx.put(key).value(value + 1);
      });
    await Promise.all([1, 2, 3, 4].map(add));
    assert.equal(await limited.get(`limited/${key}`).number(), 4);
  }
}

async function watches(root, limited) {
  const first = (await root.put('watch/a').value('0').exec()).header.revision;
  const watcher = await root.watch().prefix('watch/').withPreviousKV().startRevision(first).create();
  const seen = [];
  watcher.on('put', (kv, before) => seen.push(`put ${kv.value} ${before ? before.value : ''}`));
  watcher.on('delete', (kv, before) => seen.push(`delete ${before.value}`));
  const deletes = await root.watch().key('watch/a').only('delete').create();
  const deleted = once(deletes, 'delete');
  const own = await limited.watch().prefix('limited/').only('put').create();
  const mine = once(own, 'put');
  await root.put('watch/a').value('1');
  await root.delete().key('watch/a');
  await limited.put('limited/w').value('v');
  assert.equal((await deleted)[0].key.toString(), 'watch/a');
  assert.equal((await mine)[0].key.toString(), 'limited/w');
  await until(() => seen.length >= 3);
  assert.deepEqual(seen, ['put 0 ', 'put 1 0', 'delete 1']);
  await Promise.all([watcher, deletes, own].map((each) => each.cancel()));
}

async function leases(root, limited) {
  const lease = limited.lease(60, { autoKeepAlive: false });
  await lease.put('limited/lease').value('v');
  assert.equal((await lease.keepaliveOnce()).TTL, '60');
  const id = await lease.grant();
  const left = await limited.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  assert.equal(left.grantedTTL, '60');
  assert.equal(left.keys[0].toString(), 'limited/lease');
  assert.ok((await root.leaseClient.leaseLeases()).leases.some((each) => each.ID === id));
  await lease.revoke();
  assert.equal(await limited.get('limited/lease'), null);
  const kept = limited.lease(5);
  await kept.grant();
  const [answer] = await once(kept, 'keepaliveSucceeded');
  assert.equal(answer.TTL, '5');
  await kept.revoke();
}

async function locksAndElections(root, limited) {
  const lock = limited.lock('limited/lock').ttl(30);
  await lock.acquire();
  await assert.rejects(limited.lock('limited/lock').ttl(30).acquire(), /acquire a lock/);
  await lock.release();
  assert.equal(await limited.lock('limited/lock').do(async () => 'held'), 'held');

  const election = limited.namespace('limited/').election('office', 30);
  const observer = await election.observe();
  const one = election.campaign('one');
  await one.wait();
  await until(() => observer.leader() === 'one');
  const two = election.campaign('two');
  await one.proclaim('one again');
  await until(() => observer.leader() === 'one again');
  assert.equal(await election.leader(), 'one again');
  const won = two.wait();
  await one.resign();
  await won;
  await until(() => observer.leader() === 'two');
  await two.resign();
  await observer.cancel();
}

async function upkeep(root, limited) {
  const { members } = await limited.cluster.memberList({});
  assert.deepEqual(members.flatMap((member) => member.clientURLs).sort(), [...urls].sort());
  const { member } = await patiently(() => root.cluster.memberAdd({ peerURLs: ['https://127.0.0.1:1'], isLearner: true }));
  assert.equal(member.isLearner, true);
  await root.cluster.memberUpdate({ ID: member.ID, peerURLs: ['https://127.0.0.1:2'] });
  await assert.rejects(root.cluster.memberPromote({ ID: member.ID }), /in sync with leader/);
  await root.cluster.memberRemove({ ID: member.ID });
  const status = await root.maintenance.status();
  assert.match(status.version, /^3\./);
  assert.ok((await root.maintenance.hash()).hash > 0);
  assert.deepEqual((await root.maintenance.alarm({ action: 'Get' })).alarms, []);
  await root.maintenance.defragment();
  // It sends no token with this one.
  await assert.rejects(once(await root.maintenance.snapshot(), 'data'), /user name is empty/);
  const { header } = await root.get('none').exec();
  await root.kv.compact({ revision: header.revision, physical: true });
  await assert.rejects(root.kv.compact({ revision: header.revision }), /compacted/);
  const leader = members.find((each) => each.ID === status.leader);
  const follower = members.find((each) => each.ID !== status.leader);
  const beside = connect('root', leader.clientURLs);
  await beside.maintenance.moveLeader({ targetID: follower.ID });
  assert.equal((await beside.maintenance.status()).leader, follower.ID);
}

async function failover(root, limited) {
  const control = net.connect(...env.KVNODE_CONTROL.split(':').reverse());
  const answers = readline.createInterface({ input: control })[Symbol.asyncIterator]();
  const ask = async (line) => {
    control.write(`${line}\n`);
    return (await answers.next()).value.split(' ')[1];
  };
  const lock = limited.lock('limited/held').ttl(60);
  await lock.acquire();
  const watcher = await limited.watch().prefix('limited/did/').create();
  const told = [];
  let lastRevision = 0n;
  watcher.on('put', (kv) => {
    const revision = BigInt(kv.mod_revision);
    // A write that was repeated since its answer was lost is told twice, with two revisions.
    assert.ok(revision > lastRevision, 'in order, and nothing twice');
    lastRevision = revision;
    if (told.at(-1) !== kv.key.toString()) told.push(kv.key.toString());
  });
  const written = [];
  let killed;
  for (let n = 0; n < 60; n++) {
    if (n === 20) killed = await ask('kill');
    const key = `limited/did/${String(n).padStart(3, '0')}`;
    await patiently(() => limited.put(key).value('v').exec());
    written.push(key);
  }
  await until(() => told.length >= written.length);
  assert.deepEqual(told, written);
  assert.deepEqual(await limited.getAll().prefix('limited/did/').keys(), written);
  assert.ok(await lock.leaseId());
  await lock.release();
  await watcher.cancel();
  const back = await ask('restart');
  assert.equal(back, killed);
  assert.deepEqual(await connect('limited', back).getAll().prefix('limited/did/').keys(), written);
  control.destroy();
}

async function until(happens) {
  for (const end = Date.now() + 30000; !happens(); await sleep(20)) {
    assert.ok(Date.now() < end, `waited for ${happens}`);
  }
}

async function patiently(call) {
  for (const end = Date.now() + 60000; ; await sleep(100)) {
    try {
      return await call();
    } catch (error) {
      if (Date.now() > end) throw error;
    }
  }
}

async function main() {
  // This client does not ask again when a member that is a moment behind calls its log-in old, so users are changed through
  // one member, and the others are waited for.
  const first = urls.slice(0, 1);
  await users(connect(undefined, first));
  await rights(connect('root', first), connect('limited', first));
  for (const url of urls) {
    await patiently(() => connect('root', url).put('settled').value('v').exec());
  }
  const [root, limited] = [connect('root'), connect('limited')];
  const steps = [keysAndRanges, transactions, watches, leases, locksAndElections, upkeep, failover];
  for (const step of steps) {
    await step(root, limited);
    console.log(step.name, 'ok');
  }
  open.forEach((client) => client.close());
  console.log('all well');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
