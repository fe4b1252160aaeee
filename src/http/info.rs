//! The attributes that a query asks for (protocol.md 1.6): on a `GET`, one that
//! a channel does not have is an error.

use super::ApiError;
use super::signed::Signed;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) subscription_count: bool,
    pub(super) user_count: bool,
    pub(super) cache: bool,
}

impl Wanted {
    /// `info=a,b`; unknown names are refused.
    pub(super) fn of(query: &Signed) -> Result<Wanted, ApiError> {
        let mut wanted = Wanted::default();
        let names = query.query.get("info").map_or("", String::as_str);
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "subscription_count" => wanted.subscription_count = true,
                "user_count" => wanted.user_count = true,
                "cache" => wanted.cache = true,
                _ => {
                    return Err(ApiError::invalid_info(format!("{name:?} is not an attribute of a channel")));
                }
            }
        }
        Ok(wanted)
    }

    /// Fails unless whoever is asked has users, and a last event, as far as they
    /// are wanted.
    pub(super) fn check(self, has_users: bool, has_cache: bool) -> Result<Wanted, ApiError> {
        if self.user_count && !has_users {
            return Err(ApiError::invalid_info("`user_count` is only there on presence channels"));
        }
        if self.cache && !has_cache {
            return Err(ApiError::invalid_info("`cache` is only there on a single cache channel"));
        }
        Ok(self)
    }
}
