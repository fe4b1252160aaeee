use crate::backend::*;
use crate::channel::Address;
use crate::event::*;
use crate::mailbox::Mailbox;
use thiserror::Error;
#[derive(Debug)]
pub struct Redis;
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("not yet")]
    NotYet,
}
impl Redis {
    pub async fn connect(_: &str, _: &str, _: Mailbox) -> Result<Redis, ConnectError> {
        Err(ConnectError::NotYet)
    }
    pub async fn publish_batch(
        &self,
        _: AnnouncementId,
        _: Vec<Publication>,
    ) -> Result<Vec<Option<u64>>, BackendError> {
        Err(BackendError::Unavailable)
    }
    pub async fn listen(&self, _: &Address) -> Result<(), BackendError> {
        Err(BackendError::Unavailable)
    }
    pub fn unlisten(&self, _: &Address) {}
    pub async fn assert_subscriptions(&self, _: &Address, _: u64) -> Result<Asserted, BackendError> {
        Err(BackendError::Unavailable)
    }
    pub async fn count_subscriptions(&self, _: &Address) -> Result<u64, BackendError> {
        Err(BackendError::Unavailable)
    }
    pub async fn read_log(&self, _: &Address, _: AnnouncementId) -> Result<Log, BackendError> {
        Err(BackendError::Unavailable)
    }
    pub async fn read_heads(&self, _: &[Address]) -> Result<Vec<Option<Position>>, BackendError> {
        Err(BackendError::Unavailable)
    }
    pub async fn open_epoch(&self, _: &Address, _: u64, _: u64) -> Result<(), BackendError> {
        Err(BackendError::Unavailable)
    }
    pub fn unready(&self) -> Option<&'static str> {
        None
    }
    pub async fn leave(&self) {}
}
