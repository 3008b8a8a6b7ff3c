//! A value that must not be seen: it prints as `***` wherever it is printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

const MASK: &str = "***";

/// A secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for whoever must use it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// A URL whose password must not be seen.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl SecretUrl {
    /// The URL with its password, for whoever must use it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Everything but the password, and no parameters: they may hold one too.
    fn masked(&self) -> String {
        let url = self.0.split(['?', '#']).next().unwrap_or_default();
        let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
        match rest.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:{MASK}@{host}")
            }
            // A password that holds a ? or # of its own: what stands before it is a part of the password.
            None if self.0.contains('@') => format!("{scheme}://{MASK}"),
            None => format!("{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::from("canary".to_owned())), "***");
    }

    #[test]
    fn of_a_url_everything_but_the_password_is_printed() {
        let masked = |url: &str| SecretUrl(url.to_owned()).masked();
        assert_eq!(masked("postgres://souk:canary@db:5432/x"), "postgres://souk:***@db:5432/x");
        assert_eq!(masked("postgres://souk:can@ary@db/x?password=canary"), "postgres://souk:***@db/x");
        assert_eq!(masked("postgres://souk:can?ary@db/x"), "postgres://***");
        assert_eq!(masked("postgres://souk:can#ary@db/x"), "postgres://***");
        assert_eq!(masked("postgres://db/x"), "postgres://db/x");
        assert_eq!(masked("canary"), "***");
    }
}
