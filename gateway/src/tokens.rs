//! Access and refresh tokens: PASETO v4.local, sealed and opened here and nowhere else.
//!
//! The first key seals, every key opens, so a key is changed by putting the new one first. What a token is
//! for is bound into it as implicit assertion: a refresh token cannot be used as an access token.
//! Source: the PASETO specification, version 4.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use pasetors::Local;
use pasetors::keys::SymmetricKey;
use pasetors::token::UntrustedToken;
use pasetors::version4::{LocalToken, V4};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use souk_persistence::Timestamp;
use std::time::Duration;
use uuid::Uuid;

const ISSUER: &str = "souk";
const AUDIENCE: &str = "souk-api";
/// Ours have 500 bytes.
const LENGTH_MAX: usize = 2_048;

/// A key and the name that tokens know it by.
#[derive(Clone)]
struct Key {
    id: String,
    key: SymmetricKey<V4>,
}

/// So many access tokens stay open: a token is opened once, not at every request that it comes with.
const OPENED_MAX: u64 = 20_000;

/// Seals and opens tokens.
#[derive(Clone)]
pub struct Tokens {
    keys: Vec<Key>,
    opened: Cache<String, Opened>,
}

/// What a whole token, to its last byte, was found to say.
#[derive(Clone, Copy)]
struct Opened {
    access: Access,
    expires: Timestamp,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Use {
    Access,
    Refresh,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    typ: Use,
    sid: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num: Option<u32>,
    iat: Timestamp,
    exp: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    kid: String,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whose token it is.
    pub account: Uuid,
    /// The session it comes from.
    pub session: Uuid,
}

/// A refresh token that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// The session.
    pub session: Uuid,
    /// The token's number in it.
    pub number: u32,
}

/// The token is not ours, not for this, or over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid")]
pub struct InvalidToken;

/// No key can be made of it.
#[derive(Debug, thiserror::Error)]
#[error("a token key has 32 bytes, and there is at least one")]
pub struct InvalidKey;

impl Tokens {
    /// The first key seals, all of them open.
    pub fn new(keys: &[[u8; 32]]) -> Result<Self, InvalidKey> {
        let key = |bytes: &[u8; 32]| {
            let id = URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..9]);
            Ok(Key { id, key: SymmetricKey::from(bytes).map_err(|_| InvalidKey)? })
        };
        let keys: Vec<_> = keys.iter().map(key).collect::<Result<_, _>>()?;
        let opened = Cache::new(OPENED_MAX);
        if keys.is_empty() { Err(InvalidKey) } else { Ok(Self { keys, opened }) }
    }

    /// An access token of `account`, valid from `now` for `ttl`.
    pub fn seal_access(&self, access: Access, now: Timestamp, ttl: Duration) -> String {
        self.seal(Use::Access, access.account, access.session, None, now, ttl)
    }

    /// A refresh token, valid from `now` for `ttl` unless its session says otherwise.
    pub fn seal_refresh(&self, account: Uuid, refresh: Refresh, now: Timestamp, ttl: Duration) -> String {
        self.seal(Use::Refresh, account, refresh.session, Some(refresh.number), now, ttl)
    }

    /// Who calls.
    pub fn open_access(&self, token: &str, now: Timestamp) -> Result<Access, InvalidToken> {
        if let Some(Opened { access, expires }) = self.opened.get(token) {
            return if now < expires { Ok(access) } else { Err(InvalidToken) };
        }
        let claims = self.open(Use::Access, token, now)?;
        let access = Access { account: claims.sub, session: claims.sid };
        self.opened.insert(token.to_owned(), Opened { access, expires: claims.exp });
        Ok(access)
    }

    /// Which refresh token this is.
    pub fn open_refresh(&self, token: &str, now: Timestamp) -> Result<Refresh, InvalidToken> {
        let claims = self.open(Use::Refresh, token, now)?;
        Ok(Refresh { session: claims.sid, number: claims.num.ok_or(InvalidToken)? })
    }

    fn seal(
        &self,
        typ: Use,
        sub: Uuid,
        sid: Uuid,
        num: Option<u32>,
        now: Timestamp,
        ttl: Duration,
    ) -> String {
        let (iss, aud) = (ISSUER.to_owned(), AUDIENCE.to_owned());
        let claims = Claims { iss, aud, sub, typ, sid, num, iat: now, exp: now + ttl };
        let Key { id, key } = &self.keys[0];
        let payload = serde_json::to_vec(&claims).expect("claims are plain values");
        let footer = serde_json::to_vec(&Footer { kid: id.clone() }).expect("a footer is a string");
        LocalToken::encrypt(key, &payload, Some(&footer), Some(assertion(typ)))
            .expect("a payload is not empty, and the system has randomness")
    }

    fn open(&self, typ: Use, token: &str, now: Timestamp) -> Result<Claims, InvalidToken> {
        if token.len() > LENGTH_MAX {
            return Err(InvalidToken);
        }
        let token = UntrustedToken::<Local, V4>::try_from(token).map_err(|_| InvalidToken)?;
        let footer: Footer = serde_json::from_slice(token.untrusted_footer()).map_err(|_| InvalidToken)?;
        let Key { key, .. } = self.keys.iter().find(|key| key.id == footer.kid).ok_or(InvalidToken)?;
        let trusted =
            LocalToken::decrypt(key, &token, None, Some(assertion(typ))).map_err(|_| InvalidToken)?;
        let claims: Claims = serde_json::from_str(trusted.payload()).map_err(|_| InvalidToken)?;
        let is_valid =
            claims.iss == ISSUER && claims.aud == AUDIENCE && claims.typ == typ && now < claims.exp;
        if is_valid { Ok(claims) } else { Err(InvalidToken) }
    }
}

fn assertion(typ: Use) -> &'static [u8] {
    match typ {
        Use::Access => b"souk-api access",
        Use::Refresh => b"souk-api refresh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);
    const ACCESS: Access = Access { account: Uuid::from_u128(1), session: Uuid::from_u128(2) };
    const REFRESH: Refresh = Refresh { session: Uuid::from_u128(2), number: 3 };

    fn now() -> Timestamp {
        Timestamp::from_micros(1_764_000_000_000_000)
    }

    fn tokens(keys: &[[u8; 32]]) -> Tokens {
        Tokens::new(keys).expect("keys")
    }

    #[test]
    fn a_token_opens_to_what_was_sealed_until_it_is_over() {
        let tokens = tokens(&[[1; 32]]);
        let access = tokens.seal_access(ACCESS, now(), TTL);
        assert_eq!(tokens.open_access(&access, now()), Ok(ACCESS));
        assert_eq!(tokens.open_access(&access, now() + TTL), Err(InvalidToken));
        let refresh = tokens.seal_refresh(ACCESS.account, REFRESH, now(), TTL);
        assert_eq!(tokens.open_refresh(&refresh, now()), Ok(REFRESH));
    }

    #[test]
    fn a_token_is_for_one_thing_only() {
        let tokens = tokens(&[[1; 32]]);
        let access = tokens.seal_access(ACCESS, now(), TTL);
        let refresh = tokens.seal_refresh(ACCESS.account, REFRESH, now(), TTL);
        assert_eq!(tokens.open_refresh(&access, now()), Err(InvalidToken));
        assert_eq!(tokens.open_access(&refresh, now()), Err(InvalidToken));
    }

    #[test]
    fn a_token_with_any_byte_changed_is_refused() {
        let tokens = tokens(&[[1; 32]]);
        let token = tokens.seal_access(ACCESS, now(), TTL);
        for place in 0..token.len() {
            for other in [b'A', b'.', b'-'] {
                let mut bytes = token.clone().into_bytes();
                if bytes[place] == other {
                    continue;
                }
                bytes[place] = other;
                let forged = String::from_utf8(bytes).expect("ASCII");
                assert_eq!(tokens.open_access(&forged, now()), Err(InvalidToken), "{forged}");
            }
        }
        for garbage in ["", "v4.local.", "v2.local.AAAA", &"v4.local.A".repeat(100_000)] {
            assert_eq!(tokens.open_access(garbage, now()), Err(InvalidToken));
        }
    }

    #[test]
    fn a_key_is_changed_by_putting_the_new_one_first() {
        let (old, new) = (tokens(&[[1; 32]]), tokens(&[[2; 32], [1; 32]]));
        let token = old.seal_access(ACCESS, now(), TTL);
        assert_eq!(new.open_access(&token, now()), Ok(ACCESS));
        assert_eq!(old.open_access(&new.seal_access(ACCESS, now(), TTL), now()), Err(InvalidToken));
        assert!(Tokens::new(&[]).is_err());
    }
}
