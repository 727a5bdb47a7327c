//! Passwords and their hashes. Hashing takes tens of milliseconds by intention: never on an executor.

use kvnode_api::Status;

/// bcrypt looks at no more than this many bytes.
const PASSWORD_BYTES_MAX: usize = 72;

/// The hash to store for a password, in bcrypt's own text form. `salt` is random.
///
/// # Errors
/// The password is longer than bcrypt can tell apart.
pub fn hash(password: &str, cost: u32, salt: [u8; 16]) -> Result<String, Status> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Status::password_too_long());
    }
    let parts = bcrypt::hash_with_salt(password, cost, salt);
    let parts = parts.map_err(|error| {
        log::error!("hashing a password: {error}");
        Status::password_too_long()
    })?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

/// Whether the password belongs to the hash. Takes as long for a user that does not exist (`None`), so that names cannot
/// be probed by time.
pub fn verify(password: &str, hash: Option<&[u8]>, cost: u32) -> bool {
    let stored = hash.and_then(|hash| std::str::from_utf8(hash).ok());
    match stored {
        Some(stored) => bcrypt::verify(password, stored).unwrap_or(false),
        None => {
            // Only the time it takes matters.
            let _ = bcrypt::hash_with_salt(password, cost, [0; 16]);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: u32 = 4;

    #[test]
    fn a_password_opens_its_own_hash_only() {
        let hash = hash("secret", COST, [7; 16]).unwrap();
        assert!(hash.starts_with("$2a$04$"), "{hash}");
        assert!(verify("secret", Some(hash.as_bytes()), COST));
        assert!(!verify("Secret", Some(hash.as_bytes()), COST));
        assert!(!verify("", Some(b""), COST));
        assert!(!verify("secret", Some(b"no hash"), COST));
        assert!(!verify("secret", Some(&[0xff, 0xfe]), COST));
        assert!(!verify("secret", None, COST));
    }

    /// Made by the reference implementation.
    #[test]
    fn hashes_of_other_programs_are_understood() {
        let known = b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert!(verify("U*U", Some(known), COST));
        assert!(!verify("U*U*", Some(known), COST));
    }

    #[test]
    fn passwords_longer_than_bcrypt_sees_are_refused() {
        assert!(hash(&"x".repeat(72), COST, [0; 16]).is_ok());
        assert_eq!(
            hash(&"x".repeat(73), COST, [0; 16]),
            Err(Status::password_too_long())
        );
    }
}
