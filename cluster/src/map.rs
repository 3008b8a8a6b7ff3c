//! Who is in the cluster and who has which shard, as `cluster_db` said at one moment.

use serde::{Deserialize, Serialize};
use souk_actors::Slot;
use souk_actors::territory::SlotSet;
use souk_persistence::journal::SLOTS;
use uuid::Uuid;

/// A node whose clock is further off takes no shards: it would expire what is not late.
pub const CLOCK_OFF_MAX_US: i64 = 5_000_000;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes requests and has no shards.
    Gateway,
    /// Has shards and takes no requests of clients.
    Worker,
    /// Both.
    Both,
}

impl Role {
    /// As `cluster_db` stores it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Both => "both",
        }
    }

    /// It may have shards.
    pub fn has_shards(self) -> bool {
        match self {
            Self::Gateway => false,
            Self::Worker | Self::Both => true,
        }
    }

    /// It takes requests of clients.
    pub fn takes_requests(self) -> bool {
        match self {
            Self::Worker => false,
            Self::Gateway | Self::Both => true,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Of this start.
    pub incarnation: Uuid,
    /// Through all its starts.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Where clients reach it.
    pub http: String,
    /// What it does.
    pub role: Role,
    /// Its build.
    pub version: String,
    /// It gives its shards away.
    pub is_draining: bool,
    /// It cannot serve: rows of its shards are not durable, or it cannot read the databases.
    #[serde(default)]
    pub is_stuck: bool,
    /// How far its clock is ahead of the database's, in microseconds.
    pub ahead_us: i64,
    /// The version of the map that it acts upon.
    pub seen: i64,
    /// When it was started, in microseconds since 1970.
    pub started_us: i64,
    /// How long its lease had when this was read, in microseconds.
    pub remaining_us: i64,
}

impl Node {
    /// Its lease has not ended.
    pub fn is_live(&self) -> bool {
        self.remaining_us > 0
    }

    /// Its clock is right enough to have shards.
    pub fn has_right_time(&self) -> bool {
        self.ahead_us.abs() <= CLOCK_OFF_MAX_US
    }

    /// Shards may be placed on it.
    pub fn takes_shards(&self) -> bool {
        self.is_live()
            && self.role.has_shards()
            && !self.is_draining
            && !self.is_stuck
            && self.has_right_time()
    }
}

/// Who has a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The incarnation; `None`: nobody.
    pub owner: Option<Uuid>,
    /// Grows whenever the shard changes hands.
    pub epoch: i64,
}

/// A range of slots that nobody may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The first slot.
    pub first: i16,
    /// The last slot.
    pub last: i16,
}

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Which cluster.
    pub id: Uuid,
    /// How many shards there are.
    pub shards: u16,
    /// Grows with every change.
    pub version: i64,
    /// Grows when databases hold other slots than before.
    pub holdings: i64,
    /// Shards are not moved for balance.
    pub is_held: bool,
    /// The database's time, in microseconds since 1970.
    pub now_us: i64,
    /// Every node that has not been buried.
    pub nodes: Vec<Node>,
    /// By the number of the shard.
    pub owners: Vec<Owner>,
    /// What is being moved from one database to another.
    pub frozen: Vec<Frozen>,
}

impl ClusterMap {
    /// The shard of a slot.
    pub fn shard_of(&self, slot: Slot) -> u16 {
        let (slot, shards) = (u32::from(slot.number().unsigned_abs()), u32::from(self.shards));
        let shard = slot * shards / u32::from(SLOTS.unsigned_abs());
        u16::try_from(shard).unwrap_or(u16::MAX)
    }

    /// The slots of shards.
    pub fn slots_of(&self, shards: &[u16]) -> SlotSet {
        Slot::all().filter(|slot| shards.contains(&self.shard_of(*slot))).collect()
    }

    /// Who has the shard.
    pub fn owner(&self, shard: u16) -> Owner {
        self.owners.get(usize::from(shard)).copied().unwrap_or_default()
    }

    /// The shards of a node.
    pub fn shards_of(&self, incarnation: Uuid) -> Vec<u16> {
        let numbered = (0..self.shards).zip(&self.owners);
        numbered.filter(|(_, owner)| owner.owner == Some(incarnation)).map(|(shard, _)| shard).collect()
    }

    /// The slots that nobody may serve.
    pub fn frozen_slots(&self) -> SlotSet {
        let is_frozen = |slot: &Slot| {
            self.frozen.iter().any(|frozen| (frozen.first..=frozen.last).contains(&slot.number()))
        };
        Slot::all().filter(is_frozen).collect()
    }

    /// A node.
    pub fn node(&self, incarnation: Uuid) -> Option<&Node> {
        self.nodes.iter().find(|node| node.incarnation == incarnation)
    }

    /// The others that are alive.
    pub fn peers(&self, me: Uuid) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.is_live() && node.incarnation != me)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(number: u128) -> Node {
        Node {
            incarnation: Uuid::from_u128(number),
            name: format!("node-{number}"),
            address: format!("10.0.0.{number}:7000"),
            http: format!("10.0.0.{number}:8080"),
            role: Role::Both,
            version: "1".to_owned(),
            is_draining: false,
            is_stuck: false,
            ahead_us: 0,
            seen: 0,
            started_us: 0,
            remaining_us: 5_000_000,
        }
    }

    pub(crate) fn map(shards: u16, nodes: Vec<Node>) -> ClusterMap {
        ClusterMap {
            id: Uuid::nil(),
            shards,
            version: 1,
            holdings: 1,
            is_held: false,
            now_us: 0,
            nodes,
            owners: vec![Owner::default(); usize::from(shards)],
            frozen: Vec::new(),
        }
    }

    #[test]
    fn every_slot_is_in_one_shard_and_shards_are_ranges_of_like_size() {
        for shards in [1, 3, 64, 100, 4096] {
            let map = map(shards, vec![]);
            let mut all = SlotSet::NOTHING;
            for shard in 0..shards.min(128) {
                let slots = map.slots_of(&[shard]);
                let ranges = slots.ranges();
                assert_eq!(ranges.len(), 1, "shard {shard} of {shards} is one range");
                let size = i32::from(*ranges[0].end()) - i32::from(*ranges[0].start()) + 1;
                assert!((4096 / i32::from(shards) - size).abs() <= 1, "{size} slots in one of {shards}");
                all = all.with(&slots);
            }
            assert!(shards > 128 || all == SlotSet::EVERYTHING, "{shards} shards are everything");
        }
    }

    #[test]
    fn only_a_live_worker_with_the_right_time_takes_shards() {
        assert!(node(1).takes_shards());
        let not = [
            Node { role: Role::Gateway, ..node(1) },
            Node { is_draining: true, ..node(1) },
            Node { is_stuck: true, ..node(1) },
            Node { ahead_us: -5_000_001, ..node(1) },
            Node { remaining_us: 0, ..node(1) },
        ];
        assert!(not.iter().all(|node| !node.takes_shards()));
    }
}
