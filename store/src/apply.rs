//! The front door: decode an entry's command and send it to its part of the store.

use std::sync::Arc;

use bytes::Bytes;
use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::check::{
    delete_range as check_delete_range, put as check_put, range as check_range,
};
use kvnode_api::request_op::Request;
use kvnode_api::{
    AlarmRequest, AlarmResponse, AlarmType, AuthenticateRequest, Code, CompactionRequest,
    CompactionResponse, DeleteRangeRequest, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, Message, PutRequest,
    ResponseHeader, Status, TxnRequest,
};

use crate::auth::{AuthCommand, Gate, Identity, TokenChange};
use crate::command::{Command, Kind};
use crate::compact::compact;
use crate::engine::{Engine, Reader};
use crate::error::{Error, Failure};
use crate::lease::{LeaseChange, Leases, attached};
use crate::mvcc::Write;
use crate::quota::{self, LEASE_GRANT_COST, put_cost, txn_cost};
use crate::schema::USER_KEY_BYTES_MAX;
use crate::source::{Moment, Source};
use crate::store::{Committed, Reply, Response, Store};
use crate::txn::{self, Run};

impl<E: Engine> Store<E> {
    /// One entry with a command. Errors end the store; everything else is in the reply.
    pub(crate) fn execute(&mut self, entry: &Committed) -> Result<Reply, Error> {
        let index = entry.index;
        let command = match Command::decode(entry.command.clone()) {
            Ok(command) => command,
            Err(error) => {
                log::error!("entry {index} refused: {error}");
                let status = Status::new(Code::Internal, "kvnode: unreadable log entry");
                return Ok(Reply {
                    index,
                    request: error.request(),
                    result: Err(status),
                });
            }
        };
        let asker = Identity {
            user: &command.header.user,
            revision: command.header.auth_revision,
        };
        let result = match self.dispatch(index, command.kind, asker, command.message) {
            Ok(response) => Ok(response),
            Err(Failure::Refused(status)) => Err(status),
            Err(Failure::Fatal(error)) => return Err(error),
        };
        Ok(Reply {
            index,
            request: command.header.request,
            result,
        })
    }

    fn dispatch(
        &mut self,
        index: u64,
        kind: Kind,
        asker: Identity<'_>,
        message: Bytes,
    ) -> Result<Response, Failure> {
        match kind {
            Kind::Put => self.put(asker, &read(message)?),
            Kind::DeleteRange => self.delete_range(asker, &read(message)?),
            Kind::Txn => self.txn(asker, &read(message)?),
            Kind::Compaction => self.compaction(asker, &read(message)?),
            Kind::LeaseGrant => self.lease_grant(asker, &read(message)?),
            Kind::LeaseRevoke => self.lease_revoke(asker, &read(message)?),
            Kind::LeaseCheckpoint => self.lease_checkpoint(&read(message)?),
            Kind::Alarm => self.alarm(asker, &read(message)?),
            kind if kind.changes_members() => self.change_members(kind, message),
            Kind::Authenticate => self.authenticate(index, asker, read(message)?),
            kind => self.manage_auth(kind, asker, message),
        }
    }

    fn put(&mut self, asker: Identity<'_>, request: &PutRequest) -> Result<Response, Failure> {
        self.permit(asker, |gate, attached| gate.put(request, attached))?;
        let over = self.admit(put_cost(request))?;
        check_put_in(&self.source(), &self.leases, request)?;
        let response = self.write(|write| write.put(request))?;
        if over {
            Err(Status::no_space().into())
        } else {
            Ok(Response::Put(response))
        }
    }

    fn delete_range(
        &mut self,
        asker: Identity<'_>,
        request: &DeleteRangeRequest,
    ) -> Result<Response, Failure> {
        self.permit(asker, |gate, _| Ok(gate.delete_range(request)?))?;
        self.admit(0)?;
        check_delete_range(request)?;
        let response = self.write(|write| write.delete_range(request))?;
        Ok(Response::DeleteRange(response))
    }

    fn txn(&mut self, asker: Identity<'_>, request: &TxnRequest) -> Result<Response, Failure> {
        self.permit(asker, |gate, attached| gate.txn(request, attached))?;
        let over = self.admit(txn_cost(request))?;
        let path = txn::choose(&self.source(), request)?;
        txn::visit(request, &path, &mut |op| match op {
            Request::RequestPut(put) => check_put_in(&self.source(), &self.leases, put),
            Request::RequestDeleteRange(delete) => Ok(check_delete_range(delete)?),
            Request::RequestRange(range) => Ok(check_range(range)?),
            Request::RequestTxn(_) => Ok(()),
        })?;
        txn::check_reads(&self.source(), request, &path)?;
        let mut past = 0;
        txn::visit(request, &path, &mut |op| {
            if let Request::RequestRange(range) = op {
                past = past.max(range.revision);
            }
            Ok(())
        })?;
        if past > self.reader_revision {
            self.commit()?;
        }
        let response = self.write(|write| {
            let mut response = txn::run(write, request, &path)?;
            response.header = header(write.revision());
            Ok(response)
        })?;
        if over {
            Err(Status::no_space().into())
        } else {
            Ok(Response::Txn(response))
        }
    }

    fn compaction(
        &mut self,
        asker: Identity<'_>,
        request: &CompactionRequest,
    ) -> Result<Response, Failure> {
        self.auth.check_admin(asker)?;
        self.admit(0)?;
        if self.reader_revision != self.meta.revision {
            self.commit()?;
        }
        compact(&self.reader, &mut self.meta, request)?;
        Ok(Response::Compaction(CompactionResponse {
            header: header(self.meta.revision),
        }))
    }

    fn lease_grant(
        &mut self,
        asker: Identity<'_>,
        request: &LeaseGrantRequest,
    ) -> Result<Response, Failure> {
        self.auth.check_known(asker)?;
        let over = self.admit(LEASE_GRANT_COST)?;
        let ttl_min = self.config.lease_ttl_min_seconds;
        let (meta, batch) = (&mut self.meta, &mut self.pending.batch);
        let granted = self.leases.grant(request, ttl_min, meta, batch)?;
        self.lease_changes.push(granted);
        let ttl = request.ttl.max(ttl_min);
        let response = LeaseGrantResponse {
            header: header(self.meta.revision),
            id: request.id,
            ttl,
            error: String::new(),
        };
        if over {
            Err(Status::no_space().into())
        } else {
            Ok(Response::LeaseGrant(response))
        }
    }

    fn lease_revoke(
        &mut self,
        asker: Identity<'_>,
        request: &LeaseRevokeRequest,
    ) -> Result<Response, Failure> {
        self.permit(asker, |gate, attached| {
            gate.lease_write(request.id, attached)
        })?;
        self.admit(0)?;
        let id = request.id;
        if !self.leases.contains(id) {
            return Err(Status::lease_not_found().into());
        }
        let keys = attached(&self.reader, Some(&self.pending.attachments), id)?;
        self.write(|write| {
            for key in keys {
                let head = write
                    .source()
                    .head(&key)?
                    .filter(|head| head.live.is_some());
                let head = head.ok_or_else(|| Error::Attachment {
                    lease: id,
                    key: key.to_vec(),
                })?;
                write.delete(key, head);
            }
            Ok(())
        })?;
        let (meta, batch) = (&mut self.meta, &mut self.pending.batch);
        let revoked = self.leases.revoke(id, meta, batch)?;
        self.lease_changes.push(revoked);
        Ok(Response::LeaseRevoke(LeaseRevokeResponse {
            header: header(self.meta.revision),
        }))
    }

    fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) -> Result<Response, Failure> {
        let changes: Vec<LeaseChange> = self.leases.checkpoint(request, &mut self.pending.batch);
        self.lease_changes.extend(changes);
        Ok(Response::LeaseCheckpoint)
    }

    fn alarm(&mut self, asker: Identity<'_>, request: &AlarmRequest) -> Result<Response, Failure> {
        if request.action != AlarmAction::Get as i32 {
            self.auth.check_admin(asker)?;
        }
        let alarms = Arc::make_mut(&mut self.alarms).apply(request, &mut self.pending.batch);
        Ok(Response::Alarm(AlarmResponse {
            header: header(self.meta.revision),
            alarms,
        }))
    }

    fn change_members(&mut self, kind: Kind, message: Bytes) -> Result<Response, Failure> {
        Arc::make_mut(&mut self.members).change(kind, message, &mut self.pending.batch)?;
        Ok(Response::Member)
    }

    /// Notes a token for the members' token tables; the state itself does not change.
    fn authenticate(
        &mut self,
        index: u64,
        asker: Identity<'_>,
        request: AuthenticateRequest,
    ) -> Result<Response, Failure> {
        if !self.auth.is_enabled() {
            return Err(Status::auth_not_enabled().into());
        }
        // The password was checked at this revision; the proposer checks it again.
        if asker.revision < self.auth.revision() {
            return Err(Status::auth_old_revision().into());
        }
        if self.auth.user(&request.name).is_none() {
            return Err(Status::auth_failed().into());
        }
        // The index tells a member that is behind that the token is still to come.
        let token = format!("{}.{index}", request.password);
        self.token_changes.push(TokenChange::Issued {
            user: request.name,
            token: token.clone(),
        });
        Ok(Response::Token {
            revision: self.meta.revision,
            token,
        })
    }

    fn manage_auth(
        &mut self,
        kind: Kind,
        asker: Identity<'_>,
        message: Bytes,
    ) -> Result<Response, Failure> {
        self.auth.check_admin(asker)?;
        let command = AuthCommand::read(kind, message)
            .ok_or_else(|| Status::new(Code::Internal, "kvnode: unreadable log entry"))?;
        let dropped = command.tokens_dropped();
        Arc::make_mut(&mut self.auth).manage(command, &mut self.pending.batch)?;
        self.token_changes.extend(dropped);
        Ok(self.auth_response())
    }

    fn auth_response(&self) -> Response {
        Response::Auth {
            revision: self.meta.revision,
        }
    }

    /// Lets `check` look at what the asker may do; free of cost while auth is off.
    fn permit(
        &self,
        asker: Identity<'_>,
        check: impl FnOnce(&Gate<'_>, &mut AttachedKeys<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if !self.auth.is_enabled() {
            return Ok(());
        }
        let gate = self.auth.gate(asker)?;
        let mut keys = |lease| {
            let keys = attached(&self.reader, Some(&self.pending.attachments), lease)?;
            Ok(keys.into_iter().collect())
        };
        check(&gate, &mut keys)
    }

    /// Refuses what active alarms forbid: all changes of keys and leases under CORRUPT, what costs
    /// space under NOSPACE. Answers true if the request reaches the quota without an alarm being on
    /// yet: it is then applied (members may have different quotas, so the state must not depend on
    /// them), but answered as out of space, and whoever proposed it raises the alarm.
    fn admit(&self, cost: u64) -> Result<bool, Status> {
        if self.alarms.is_active(AlarmType::Corrupt) {
            return Err(Status::corrupt());
        }
        if cost > 0 && self.alarms.is_active(AlarmType::Nospace) {
            return Err(Status::no_space());
        }
        Ok(quota::exceeded(
            self.config.quota_bytes,
            self.meta.used_bytes(),
            cost,
        ))
    }

    fn source(&self) -> Source<'_, E::View> {
        Source {
            reader: &self.reader,
            overlay: Some(&self.pending.heads),
            known: Some(&self.heads),
            revision: self.meta.revision,
            compact_revision: self.meta.compact_revision,
        }
    }

    /// Runs the changes of one entry, which has passed its checks.
    fn write<T>(
        &mut self,
        run: impl FnOnce(&mut Write<'_, E::View>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let inline = self.config.hist_inline_new_value;
        let mut write = Write::new(
            (&self.reader, &self.heads),
            &mut self.pending,
            &mut self.meta,
            inline,
        );
        let result = run(&mut write);
        if let Err(Failure::Refused(status)) = &result {
            assert!(write.is_untouched(), "refused halfway: {status}");
        }
        self.changes.extend(write.finish());
        result
    }
}

/// Finds the keys that hang on a lease.
type AttachedKeys<'a> = dyn FnMut(i64) -> Result<Vec<Bytes>, Failure> + 'a;

/// What can refuse a put, in the protocol's order: its shape, its lease, its key.
fn check_put_in<V: Reader>(
    source: &Source<'_, V>,
    leases: &Leases,
    request: &PutRequest,
) -> Result<(), Failure> {
    check_put(request)?;
    if request.key.len() > USER_KEY_BYTES_MAX {
        return Err(Status::request_too_large().into());
    }
    if request.lease != 0 && !leases.contains(request.lease) {
        return Err(Status::lease_not_found().into());
    }
    if (request.ignore_value || request.ignore_lease)
        && source.find(&request.key, Moment::Newest)?.is_none()
    {
        return Err(Status::key_not_found().into());
    }
    Ok(())
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

pub(crate) fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        log::error!("unreadable message in a log entry: {error}");
        Status::new(Code::Internal, "kvnode: unreadable log entry")
    })
}
