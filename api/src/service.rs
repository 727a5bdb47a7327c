//! Every method there is: its path, its kind, and what a client hears when there is none.

use crate::status::{Code, Status};

/// Who sends how many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One request, one answer.
    Unary,
    /// One request, many answers.
    ServerStream,
    /// Many requests, many answers.
    BidiStream,
}

/// A service and its methods.
#[derive(Debug)]
pub struct Service {
    /// Package and name, as in the path.
    pub name: &'static str,
    pub methods: &'static [Method],
}

macro_rules! services {
    ($($service:literal { $($variant:ident = $method:literal, $kind:ident;)* })*) => {
        /// A method of a service.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Method {
            $($(#[doc = concat!("`/", $service, "/", $method, "`")] $variant,)*)*
        }

        impl Method {
            /// Every method, in the order of the services.
            pub const ALL: &'static [Method] = &[$($(Method::$variant,)*)*];

            /// The gRPC path.
            pub const fn path(self) -> &'static str {
                match self {
                    $($(Method::$variant => concat!("/", $service, "/", $method),)*)*
                }
            }

            /// The method's own name.
            pub const fn name(self) -> &'static str {
                match self { $($(Method::$variant => $method,)*)* }
            }

            /// The service's name with its package.
            pub const fn service(self) -> &'static str {
                match self { $($(Method::$variant => $service,)*)* }
            }

            /// Who sends how many messages.
            pub const fn kind(self) -> Kind {
                match self { $($(Method::$variant => Kind::$kind,)*)* }
            }
        }

        /// Every service.
        pub const SERVICES: &[Service] = &[
            $(Service { name: $service, methods: &[$(Method::$variant,)*] },)*
        ];

        /// `Some(Some(method))`, `Some(None)` for an unknown method of a known service, or `None`.
        fn find(service: &str, method: &str) -> Option<Option<Method>> {
            match service {
                $($service => Some(match method {
                    $($method => Some(Method::$variant),)*
                    _ => None,
                }),)*
                _ => None,
            }
        }
    };
}

services! {
    "etcdserverpb.KV" {
        Range = "Range", Unary;
        RangeStream = "RangeStream", ServerStream;
        Put = "Put", Unary;
        DeleteRange = "DeleteRange", Unary;
        Txn = "Txn", Unary;
        Compact = "Compact", Unary;
    }
    "etcdserverpb.Watch" {
        Watch = "Watch", BidiStream;
    }
    "etcdserverpb.Lease" {
        LeaseGrant = "LeaseGrant", Unary;
        LeaseRevoke = "LeaseRevoke", Unary;
        LeaseKeepAlive = "LeaseKeepAlive", BidiStream;
        LeaseTimeToLive = "LeaseTimeToLive", Unary;
        LeaseLeases = "LeaseLeases", Unary;
    }
    "etcdserverpb.Cluster" {
        MemberAdd = "MemberAdd", Unary;
        MemberRemove = "MemberRemove", Unary;
        MemberUpdate = "MemberUpdate", Unary;
        MemberList = "MemberList", Unary;
        MemberPromote = "MemberPromote", Unary;
    }
    "etcdserverpb.Maintenance" {
        Alarm = "Alarm", Unary;
        Status = "Status", Unary;
        Defragment = "Defragment", Unary;
        Hash = "Hash", Unary;
        HashKV = "HashKV", Unary;
        Snapshot = "Snapshot", ServerStream;
        MoveLeader = "MoveLeader", Unary;
        Downgrade = "Downgrade", Unary;
    }
    "etcdserverpb.Auth" {
        AuthEnable = "AuthEnable", Unary;
        AuthDisable = "AuthDisable", Unary;
        AuthStatus = "AuthStatus", Unary;
        Authenticate = "Authenticate", Unary;
        UserAdd = "UserAdd", Unary;
        UserGet = "UserGet", Unary;
        UserList = "UserList", Unary;
        UserDelete = "UserDelete", Unary;
        UserChangePassword = "UserChangePassword", Unary;
        UserGrantRole = "UserGrantRole", Unary;
        UserRevokeRole = "UserRevokeRole", Unary;
        RoleAdd = "RoleAdd", Unary;
        RoleGet = "RoleGet", Unary;
        RoleList = "RoleList", Unary;
        RoleDelete = "RoleDelete", Unary;
        RoleGrantPermission = "RoleGrantPermission", Unary;
        RoleRevokePermission = "RoleRevokePermission", Unary;
    }
    "v3lockpb.Lock" {
        Lock = "Lock", Unary;
        Unlock = "Unlock", Unary;
    }
    "v3electionpb.Election" {
        Campaign = "Campaign", Unary;
        Proclaim = "Proclaim", Unary;
        Leader = "Leader", Unary;
        Observe = "Observe", ServerStream;
        Resign = "Resign", Unary;
    }
    "grpc.health.v1.Health" {
        HealthCheck = "Check", Unary;
        HealthWatch = "Watch", ServerStream;
    }
}

/// The method a request path names.
///
/// # Errors
/// UNIMPLEMENTED with the texts Go's gRPC uses.
pub fn lookup(path: &str) -> Result<Method, Status> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let Some((service, method)) = trimmed.rsplit_once('/') else {
        return Err(unimplemented(format!("malformed method name: {path:?}")));
    };
    match find(service, method) {
        Some(Some(found)) => Ok(found),
        Some(None) => Err(unimplemented(format!(
            "unknown method {method} for service {service}"
        ))),
        None => Err(unimplemented(format!("unknown service {service}"))),
    }
}

fn unimplemented(message: String) -> Status {
    Status::new(Code::Unimplemented, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_finds_its_method_and_no_two_share_one() {
        let mut paths: Vec<_> = Method::ALL.iter().map(|method| method.path()).collect();
        for method in Method::ALL {
            assert_eq!(lookup(method.path()), Ok(*method));
            assert_eq!(
                method.path(),
                format!("/{}/{}", method.service(), method.name()),
                "{method:?}"
            );
        }
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), Method::ALL.len());
        assert_eq!(
            SERVICES
                .iter()
                .map(|service| service.methods.len())
                .sum::<usize>(),
            51
        );
        assert_eq!(Method::ALL.len(), 51);
    }

    #[test]
    fn services_have_the_protocols_number_of_methods() {
        let counts: Vec<_> = SERVICES.iter().map(|s| (s.name, s.methods.len())).collect();
        assert_eq!(
            counts,
            [
                ("etcdserverpb.KV", 6),
                ("etcdserverpb.Watch", 1),
                ("etcdserverpb.Lease", 5),
                ("etcdserverpb.Cluster", 5),
                ("etcdserverpb.Maintenance", 8),
                ("etcdserverpb.Auth", 17),
                ("v3lockpb.Lock", 2),
                ("v3electionpb.Election", 5),
                ("grpc.health.v1.Health", 2),
            ]
        );
    }

    #[test]
    fn only_these_methods_stream() {
        let streams: Vec<_> = Method::ALL
            .iter()
            .filter(|method| method.kind() != Kind::Unary)
            .map(|method| (method.path(), method.kind()))
            .collect();
        assert_eq!(
            streams,
            [
                ("/etcdserverpb.KV/RangeStream", Kind::ServerStream),
                ("/etcdserverpb.Watch/Watch", Kind::BidiStream),
                ("/etcdserverpb.Lease/LeaseKeepAlive", Kind::BidiStream),
                ("/etcdserverpb.Maintenance/Snapshot", Kind::ServerStream),
                ("/v3electionpb.Election/Observe", Kind::ServerStream),
                ("/grpc.health.v1.Health/Watch", Kind::ServerStream),
            ]
        );
    }

    #[test]
    fn unknown_paths_say_what_is_unknown() {
        for (path, text) in [
            (
                "/etcdserverpb.KV/Nope",
                "unknown method Nope for service etcdserverpb.KV",
            ),
            (
                "/etcdserverpb.KV/",
                "unknown method  for service etcdserverpb.KV",
            ),
            (
                "/etcdserverpb.KV/range",
                "unknown method range for service etcdserverpb.KV",
            ),
            (
                "/etcdserverpb.Nope/Range",
                "unknown service etcdserverpb.Nope",
            ),
            (
                "/a/etcdserverpb.KV/Range",
                "unknown service a/etcdserverpb.KV",
            ),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                "unknown service grpc.reflection.v1.ServerReflection",
            ),
            ("/Range", "malformed method name: \"/Range\""),
            ("", "malformed method name: \"\""),
        ] {
            let status = lookup(path).unwrap_err();
            assert_eq!(
                (status.code, status.message.as_ref()),
                (Code::Unimplemented, text)
            );
        }
        assert_eq!(lookup("etcdserverpb.KV/Range"), Ok(Method::Range));
    }
}
