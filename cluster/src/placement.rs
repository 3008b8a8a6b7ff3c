//! Which shard belongs where, and what a node does about it. Pure: every node computes the same from the same
//! map, and acts only for itself; `cluster_db` decides where two disagree.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998) over the nodes' names, so that a node that is started again
//! gets back what it had; with a cap, so that of 64 shards on 3 nodes nobody has 30.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::map::{ClusterMap, Node};

/// The most shards that a node gives away for balance in one round.
const BALANCED_AT_ONCE: usize = 2;
/// The most that it gives away in one round when it drains: each is out of service for a moment.
const DRAINED_AT_ONCE: usize = 4;

/// What a node should do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Shards that nobody has and that belong here.
    pub take: Vec<u16>,
    /// Shards to give away, and to whom; `None`: to nobody, because there is nobody.
    pub give: Vec<(u16, Option<Uuid>)>,
}

/// The node that each shard belongs on; `None` where no node takes shards.
pub fn place(map: &ClusterMap) -> Vec<Option<Uuid>> {
    let nodes: Vec<&Node> = map.nodes.iter().filter(|node| node.takes_shards()).collect();
    let shards = usize::from(map.shards);
    let mut placed = vec![None; shards];
    if nodes.is_empty() {
        return placed;
    }
    let cap = shards.div_ceil(nodes.len());
    let mut wishes: Vec<(u64, usize, Uuid)> = (0..shards)
        .flat_map(|shard| nodes.iter().map(move |node| (weight(shard, &node.name), shard, node.incarnation)))
        .collect();
    wishes.sort_unstable_by(|one, other| other.cmp(one));
    let mut load: HashMap<Uuid, usize> = HashMap::new();
    for (_, shard, node) in wishes {
        let load = load.entry(node).or_default();
        if placed[shard].is_none() && *load < cap {
            placed[shard] = Some(node);
            *load += 1;
        }
    }
    placed
}

fn weight(shard: usize, name: &str) -> u64 {
    let digest = Sha256::new().chain_update((shard as u64).to_be_bytes()).chain_update(name).finalize();
    digest.iter().take(8).fold(0, |weight, byte| weight << 8 | u64::from(*byte))
}

/// What `me` should do, where `is_linked` says which nodes it can reach.
pub fn plan(map: &ClusterMap, me: Uuid, is_linked: impl Fn(Uuid) -> bool) -> Plan {
    let Some(myself) = map.node(me) else { return Plan::default() };
    let placed = place(map);
    let is_held_by_the_dead = |owner: Uuid| map.node(owner).is_none_or(|node| !node.is_live());
    let numbered = || (0..map.shards).zip(&map.owners).zip(&placed);
    let take = numbered()
        .filter(|((_, owner), placed)| **placed == Some(me) && owner.owner.is_none_or(is_held_by_the_dead))
        .map(|((shard, _), _)| shard)
        .collect();
    let mine = numbered().filter(|((_, owner), _)| owner.owner == Some(me));
    let must_go = !myself.takes_shards();
    // While somebody drains, or comes back within a rolling restart, balance waits.
    let may_move = !map.is_held && !map.nodes.iter().any(|node| node.is_live() && node.is_draining);
    let give = mine
        .filter(|(_, placed)| **placed != Some(me))
        .filter(|(_, placed)| match must_go {
            // Where nobody can serve, nothing is gained by giving it away.
            true => placed.is_some() || !myself.is_stuck,
            false => may_move && placed.is_some_and(&is_linked),
        })
        .map(|((shard, _), placed)| (shard, *placed))
        .take(if must_go { DRAINED_AT_ONCE } else { BALANCED_AT_ONCE })
        .collect();
    Plan { take, give }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Owner;
    use crate::map::tests::{map, node};

    fn settled(nodes: Vec<Node>) -> ClusterMap {
        let mut map = map(64, nodes);
        map.owners = place(&map).into_iter().map(|owner| Owner { owner, epoch: 1 }).collect();
        map
    }

    fn counts(map: &ClusterMap) -> Vec<usize> {
        map.nodes.iter().map(|node| map.shards_of(node.incarnation).len()).collect()
    }

    #[test]
    fn everybody_gets_an_equal_part() {
        assert_eq!(counts(&settled(vec![node(1)])), [64]);
        let three = counts(&settled((1..=3).map(node).collect()));
        assert!(three.iter().all(|count| (20..=22).contains(count)), "{three:?}");
        assert_eq!(place(&map(64, vec![])), vec![None; 64]);
    }

    #[test]
    fn who_comes_or_goes_moves_little_more_than_its_part() {
        let three = settled((1..=3).map(node).collect());
        let four = settled((1..=4).map(node).collect());
        let moved = (0..64).filter(|shard| three.owner(*shard).owner != four.owner(*shard).owner).count();
        assert!((16..=32).contains(&moved), "{moved} of 64 moved for a fourth node");
    }

    #[test]
    fn the_same_name_gets_the_same_shards_in_its_next_life() {
        let before = settled((1..=3).map(node).collect());
        let again = Node { incarnation: Uuid::from_u128(9), ..node(2) };
        let after = settled(vec![node(1), again, node(3)]);
        assert_eq!(before.shards_of(Uuid::from_u128(2)), after.shards_of(Uuid::from_u128(9)));
    }

    #[test]
    fn what_nobody_has_or_a_dead_node_had_is_taken_by_whom_it_belongs_to() {
        let mut map = settled((1..=3).map(node).collect());
        map.nodes[2].remaining_us = 0;
        let orphans = map.shards_of(map.nodes[2].incarnation);
        let (one, two) = (map.nodes[0].incarnation, map.nodes[1].incarnation);
        let mut taken = [plan(&map, one, |_| true).take, plan(&map, two, |_| true).take].concat();
        taken.sort_unstable();
        assert!(orphans.iter().all(|shard| taken.contains(shard)), "{orphans:?} {taken:?}");
    }

    #[test]
    fn who_drains_gives_a_few_at_a_time_to_whom_they_belong() {
        let mut map = settled((1..=3).map(node).collect());
        map.nodes[0].is_draining = true;
        let me = map.nodes[0].incarnation;
        let Plan { take, give } = plan(&map, me, |_| false);
        assert!(take.is_empty());
        assert_eq!(give.len(), DRAINED_AT_ONCE);
        assert!(give.iter().all(|(_, to)| to.is_some_and(|to| to != me)));
    }

    #[test]
    fn the_last_node_drains_to_nobody() {
        let mut map = settled(vec![node(1)]);
        map.nodes[0].is_draining = true;
        let give = plan(&map, Uuid::from_u128(1), |_| true).give;
        assert!(!give.is_empty() && give.iter().all(|(_, to)| to.is_none()));
    }

    #[test]
    fn who_is_new_is_given_shards_a_few_at_a_time_once_it_can_be_reached() {
        let mut map = settled((1..=2).map(node).collect());
        map.nodes.push(node(3));
        let me = map.nodes[0].incarnation;
        assert_eq!(plan(&map, me, |_| false).give, []);
        let give = plan(&map, me, |_| true).give;
        assert_eq!(give.len(), BALANCED_AT_ONCE);
        map.is_held = true;
        assert_eq!(plan(&map, me, |_| true).give, [], "a rolling restart is under way");
        map.is_held = false;
        map.nodes[1].is_draining = true;
        assert_eq!(plan(&map, me, |_| true).give, [], "somebody drains");
    }

    #[test]
    fn a_node_that_cannot_serve_gives_to_who_can_and_keeps_what_nobody_could_serve() {
        let mut map = settled((1..=2).map(node).collect());
        map.nodes[0].is_stuck = true;
        let me = map.nodes[0].incarnation;
        let Plan { take, give } = plan(&map, me, |_| true);
        assert!(take.is_empty() && give.len() == DRAINED_AT_ONCE);
        map.nodes[1].is_stuck = true;
        assert_eq!(plan(&map, me, |_| true), Plan::default(), "the database is away for everybody");
    }

    #[test]
    fn a_node_whose_clock_is_off_gives_away_what_it_has() {
        let mut map = settled((1..=2).map(node).collect());
        map.nodes[0].ahead_us = 6_000_000;
        let Plan { take, give } = plan(&map, map.nodes[0].incarnation, |_| true);
        assert!(take.is_empty() && !give.is_empty());
    }
}
