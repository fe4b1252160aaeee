//! The requested attributes of a query (protocol.md 1.6). On a `GET`, an attribute that the
//! channel does not have is an error.

use super::ApiError;
use super::signed::SignedRequest;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attributes {
    pub(super) subscription_count: bool,
    pub(super) user_count: bool,
    pub(super) cache: bool,
}

impl Attributes {
    /// Parses `info=a,b`. Fails on an unknown name.
    pub(super) fn of(query: &SignedRequest) -> Result<Attributes, ApiError> {
        let mut attributes = Attributes::default();
        let names = query.query.get("info").map_or("", String::as_str);
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "subscription_count" => attributes.subscription_count = true,
                "user_count" => attributes.user_count = true,
                "cache" => attributes.cache = true,
                _ => {
                    return Err(ApiError::invalid_info(format!("{name:?} is not an attribute of a channel")));
                }
            }
        }
        Ok(attributes)
    }

    /// Fails if an attribute requires users or a cached event and the queried channels have none.
    pub(super) fn check(self, has_users: bool, has_cache: bool) -> Result<Attributes, ApiError> {
        if self.user_count && !has_users {
            return Err(ApiError::invalid_info("`user_count` is an attribute of presence channels only"));
        }
        if self.cache && !has_cache {
            return Err(ApiError::invalid_info("`cache` is an attribute of a single cache channel only"));
        }
        Ok(self)
    }
}
