//! Who asks: from a token or a certificate to a user name. What that user may do is the store's business.

pub mod attempts;
pub mod jwt;
pub mod passwords;
pub mod tokens;
