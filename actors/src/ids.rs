//! Ids: every one carries its slot, so that where an entity lives can be read off its name.
//!
//! The layout is RFC 9562's, with the slot (0 to 4095) in the 12 bits after the version nibble. Fresh ids
//! are UUIDv7, in the order of their making; derived ones are UUIDv8 of a hash, so that the same name is
//! the same stream on every node and for ever.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use souk_persistence::Timestamp;
use souk_persistence::chance;
use souk_persistence::journal::SLOTS;
use uuid::Uuid;

/// One of 4096 parts that ids are spread over. Ranges of slots are the unit of ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// A slot drawn at random.
    pub fn random() -> Self {
        Self(chance::draw::<u16>() & 0x0fff)
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS.unsigned_abs()).map(Self)
    }

    /// As the journal stores it.
    pub fn number(self) -> i16 {
        i16::try_from(self.0).expect("a slot has 12 bits")
    }
}

/// The id of an `A`.
pub struct Id<A> {
    uuid: Uuid,
    of: PhantomData<fn() -> A>,
}

impl<A> Id<A> {
    /// A new id, made at `now`, in `slot`.
    pub fn fresh(now: Timestamp, slot: Slot) -> Self {
        let millis = u64::try_from(now.micros() / 1_000).unwrap_or(0);
        let random: u64 = chance::draw();
        let high = (millis & 0xffff_ffff_ffff) << 16 | 0x7000 | u64::from(slot.0);
        Self::from(Uuid::from_u64_pair(high, variant(random)))
    }

    /// The id of the thing that `parts` name within `namespace`. Parts are length-prefixed, so no two
    /// lists of parts are one name. Without `slot` the name decides that too.
    pub fn named(namespace: &str, parts: &[&[u8]], slot: Option<Slot>) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(namespace.as_bytes()).chain(parts.iter().copied()) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let (high, low) = halves(&digest);
        let slot = slot.map_or(high & 0x0fff, |slot| u64::from(slot.0));
        Self::from(Uuid::from_u64_pair(high & !0xffff | 0x8000 | slot, variant(low)))
    }

    /// The slot that the id carries.
    pub fn slot(self) -> Slot {
        let (high, _) = self.uuid.as_u64_pair();
        Slot((high & 0x0fff) as u16)
    }

    /// The id of another aggregate under the same number: an order's payment has the order's id.
    pub fn same<B>(self) -> Id<B> {
        Id::from(self.uuid)
    }

    /// The bare number.
    pub fn uuid(self) -> Uuid {
        self.uuid
    }
}

fn halves(digest: &[u8]) -> (u64, u64) {
    let mut high = [0; 8];
    let mut low = [0; 8];
    high.copy_from_slice(&digest[..8]);
    low.copy_from_slice(&digest[8..16]);
    (u64::from_be_bytes(high), u64::from_be_bytes(low))
}

fn variant(random: u64) -> u64 {
    random >> 2 | 1 << 63
}

impl<A> From<Uuid> for Id<A> {
    fn from(uuid: Uuid) -> Self {
        Self { uuid, of: PhantomData }
    }
}

impl<A> Clone for Id<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Id<A> {}

impl<A> PartialEq for Id<A> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}

impl<A> Eq for Id<A> {}

impl<A> PartialOrd for Id<A> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<A> Ord for Id<A> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uuid.cmp(&other.uuid)
    }
}

impl<A> Hash for Id<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

impl<A> fmt::Display for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uuid, f)
    }
}

impl<A> fmt::Debug for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uuid, f)
    }
}

impl<A> Serialize for Id<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.uuid.serialize(serializer)
    }
}

impl<'de, A> Deserialize<'de> for Id<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Uuid::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Thing {}

    #[test]
    fn a_fresh_id_is_a_v7_that_carries_its_slot_and_its_time() {
        let now = Timestamp::from_micros(1_764_000_000_123_456);
        let id = Id::<Thing>::fresh(now, Slot(0xabc));
        assert_eq!(id.uuid().get_version_num(), 7);
        assert_eq!(id.uuid().get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id.slot(), Slot(0xabc));
        assert_eq!(id.uuid().as_u64_pair().0 >> 16, 1_764_000_000_123);
    }

    #[test]
    fn a_name_is_one_id_and_no_two_lists_of_parts_are_one_name() {
        let one = Id::<Thing>::named("email", &[b"ab", b"c"], None);
        assert_eq!(one, Id::named("email", &[b"ab", b"c"], None));
        assert_ne!(one, Id::named("email", &[b"a", b"bc"], None));
        assert_ne!(one, Id::named("mail", &[b"ab", b"c"], None));
        assert_eq!(one.uuid().get_version_num(), 8);
        assert_eq!(Id::<Thing>::named("email", &[b"ab"], Some(Slot(7))).slot(), Slot(7));
    }
}
