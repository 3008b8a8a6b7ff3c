//! One URL, or several of which each holds a part.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::SecretUrl;

/// The URLs of a service's databases, in their order. In a file: a text, or an array of texts; in the
/// environment: a text with white space or commas between the URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretUrls(Vec<SecretUrl>);

impl SecretUrls {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &SecretUrl> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<SecretUrl> for SecretUrls {
    fn from_iter<I: IntoIterator<Item = SecretUrl>>(urls: I) -> Self {
        Self(urls.into_iter().collect())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl<'de> Deserialize<'de> for SecretUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(text) => apart(&text).map(str::to_owned).collect(),
            OneOrMore::More(texts) => texts,
        };
        Ok(texts.into_iter().map(SecretUrl::from).collect())
    }
}

impl Serialize for SecretUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            more => more.serialize(serializer),
        }
    }
}

/// A comma or a space parts two URLs only where another one begins: a password may hold either.
fn apart(text: &str) -> impl Iterator<Item = &str> {
    let is_between = |c: char| c == ',' || c.is_whitespace();
    let begins = |at: usize| {
        let rest = &text[at..];
        (rest.starts_with("postgres://") || rest.starts_with("postgresql://"))
            && text[..at].chars().next_back().is_some_and(is_between)
    };
    let mut cuts: Vec<_> =
        text.match_indices("postgres").map(|(at, _)| at).filter(|at| begins(*at)).collect();
    cuts.insert(0, 0);
    cuts.push(text.len());
    let pieces: Vec<_> = cuts.windows(2).map(|cut| text[cut[0]..cut[1]].trim_matches(is_between)).collect();
    pieces.into_iter().filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parted_where_another_one_begins() {
        let parted = |text| apart(text).collect::<Vec<_>>();
        assert_eq!(parted("postgres://a/x"), ["postgres://a/x"]);
        assert_eq!(
            parted(" postgres://a/x, postgresql://b/y\npostgres://c/z,"),
            ["postgres://a/x", "postgresql://b/y", "postgres://c/z"]
        );
        assert_eq!(
            parted("postgres://u:p,w@a/postgres,postgres://b/y"),
            ["postgres://u:p,w@a/postgres", "postgres://b/y"]
        );
        assert_eq!(parted("nonsense"), ["nonsense"]);
        assert_eq!(parted(""), [] as [&str; 0]);
    }
}
