//! Passwords: argon2id at OWASP's parameters (19 MiB, two passes, one lane), on a bounded pool, so that
//! logins cannot starve purchases of cores or memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

/// Hashes and checks passwords.
#[derive(Clone, Debug)]
pub struct Passwords {
    pool: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
    /// What is checked where there is no account, so that it takes as long.
    dummy: Arc<str>,
}

/// Why a password was neither hashed nor checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordsError {
    /// Too many wait.
    #[error("too many passwords are being checked")]
    Overloaded,
    /// The library refused. Not the caller's fault.
    #[error("a password cannot be hashed")]
    Broken,
}

impl Passwords {
    /// A pool for `concurrency` at once, and so many more that wait.
    pub fn new(concurrency: usize, waiting_max: usize) -> Result<Self, PasswordsError> {
        let pool = Arc::new(Semaphore::new(concurrency));
        let dummy = hash(b"nobody's password")?.into();
        Ok(Self { pool, waiting: Arc::default(), waiting_max, dummy })
    }

    /// A PHC string.
    pub async fn hash(&self, password: String) -> Result<String, PasswordsError> {
        self.run(move || hash(password.as_bytes())).await
    }

    /// Whether the password is the one of the PHC string; without one it is not, and it takes as long.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, PasswordsError> {
        let is_known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy.to_string());
        self.run(move || {
            let stored = PasswordHash::new(&stored).map_err(|_| PasswordsError::Broken)?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &stored).is_ok() && is_known)
        })
        .await
    }

    /// The PHC string was made with other parameters than today's.
    pub fn needs_rehash(stored: &str) -> bool {
        !stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$")
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordsError> + Send + 'static,
    ) -> Result<T, PasswordsError> {
        let turn = Turn::take(&self.waiting, self.waiting_max)?;
        let permit =
            Arc::clone(&self.pool).acquire_owned().await.map_err(|_closed| PasswordsError::Broken)?;
        drop(turn);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_panicked| PasswordsError::Broken)?
    }
}

/// A place among those that wait, given back when it is dropped.
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn take(waiting: &Arc<AtomicUsize>, max: usize) -> Result<Self, PasswordsError> {
        let turn = Self(Arc::clone(waiting));
        match waiting.fetch_add(1, Ordering::AcqRel) < max {
            true => Ok(turn),
            false => Err(PasswordsError::Overloaded),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn hash(password: &[u8]) -> Result<String, PasswordsError> {
    Argon2::default().hash_password(password).map(|hash| hash.to_string()).map_err(|_| PasswordsError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_checked_against_its_own_hash_only() {
        let passwords = Passwords::new(2, 8).expect("a pool");
        let stored = passwords.hash("correct".to_owned()).await.expect("hashed");
        assert!(!Passwords::needs_rehash(&stored), "{stored}");
        assert!(Passwords::needs_rehash("$argon2id$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaA"));
        let verify = async |password: &str, stored| passwords.verify(password.to_owned(), stored).await;
        assert_eq!(verify("correct", Some(stored.clone())).await, Ok(true));
        assert_eq!(verify("wrong", Some(stored)).await, Ok(false));
        assert_eq!(verify("nobody's password", None).await, Ok(false));
    }

    #[tokio::test]
    async fn who_comes_when_too_many_wait_is_sent_away() {
        let passwords = Passwords::new(1, 1).expect("a pool");
        let all = (0..12).map(|_| passwords.hash("x".to_owned()));
        let all = futures::future::join_all(all).await;
        let is_away = |result: &&Result<String, _>| **result == Err(PasswordsError::Overloaded);
        assert!(all.iter().filter(is_away).count() > 5 && all.iter().any(Result::is_ok));
    }
}
