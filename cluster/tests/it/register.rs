//! What the register promises, on a real PostgreSQL: leases end by its clock, a shard has one owner, and whoever was
//! buried begins anew.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use souk_cluster::map::{ClusterMap, Role};
use souk_cluster::register::{Introduction, Register, Standing, migrations};
use souk_persistence::databases::prepare;
use souk_persistence::embedded::{Embedded, EmbeddedSettings};
use souk_persistence::migrate::migrate_by;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);
/// No give comes too late.
const LATER: i64 = i64::MAX;
const SHORT: Duration = Duration::from_millis(300);

struct Place {
    server: Embedded,
    folder: PathBuf,
    options: sqlx::postgres::PgConnectOptions,
}

impl Place {
    async fn open() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("souk-register-{}-{number}", std::process::id()));
        let settings = EmbeddedSettings { data: folder.clone(), binaries: None };
        let server = Embedded::start(&settings).await.expect("a server");
        let options = prepare("cluster_db", None, Some(&server.url())).await.expect("a database");
        migrate_by(migrations(), &options).await.expect("migrates");
        Self { server, folder, options }
    }

    fn register(&self) -> Register {
        Register::new(self.options.clone(), Duration::from_secs(5))
    }

    async fn close(self) {
        self.server.stop().await;
        std::fs::remove_dir_all(&self.folder).expect("is removed");
    }
}

fn node(number: u128) -> Introduction {
    Introduction {
        incarnation: Uuid::from_u128(number),
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{number}"),
        http: format!("http://127.0.0.1:{number}"),
        role: Role::Both,
        version: "test".to_owned(),
    }
}

async fn overview(register: &mut Register) -> ClusterMap {
    register.overview().await.expect("is read").expect("there is a cluster")
}

#[tokio::test]
async fn a_shard_has_one_owner_and_whoever_was_buried_begins_anew() {
    let place = Place::open().await;
    let (mut one, mut two) = (place.register(), place.register());
    assert_eq!(one.found(8).await.expect("is made"), 8);
    assert_eq!(two.found(16).await.expect("is there"), 8, "the number is fixed when it is made");
    let (first, second) = (node(1), node(2));
    one.join(&first, SHORT).await.expect("joins");
    two.join(&second, LONG).await.expect("joins");
    assert_eq!(one.take(first.incarnation, &[0, 1, 2]).await.expect("takes"), 3);
    assert_eq!(two.take(second.incarnation, &[2, 3]).await.expect("takes"), 1, "2 is the other's");
    let map = overview(&mut two).await;
    assert_eq!(
        (map.shards_of(first.incarnation), map.shards_of(second.incarnation)),
        (vec![0, 1, 2], vec![3])
    );

    // A lease that is renewed in time goes on; one that is not ends, by the database's clock.
    assert!(one.renew(first.incarnation, SHORT, Standing::default()).await.expect("renews").is_some());
    tokio::time::sleep(SHORT + Duration::from_millis(50)).await;
    assert_eq!(two.take(second.incarnation, &[0, 2]).await.expect("takes"), 2, "what the buried one had");
    assert!(
        one.renew(first.incarnation, SHORT, Standing::default()).await.expect("is told").is_none(),
        "it was buried"
    );
    let epoch = overview(&mut two).await.owner(0).epoch;
    assert_eq!(
        one.give(first.incarnation, &[0], None, LATER).await.expect("is told"),
        0,
        "it is not its own"
    );

    one.join(&first, LONG).await.expect("joins anew");
    one.take(first.incarnation, &[4]).await.expect("takes");
    one.join(&first, LONG).await.expect("comes late");
    assert_eq!(overview(&mut one).await.shards_of(first.incarnation), [4], "it had joined by another call");
    one.give(first.incarnation, &[4], None, LATER).await.expect("gives");
    let map = overview(&mut one).await;
    assert_eq!(map.shards_of(first.incarnation), Vec::<u16>::new());
    assert_eq!(map.owner(0).epoch, epoch);
    // The one that nobody took is nobody's.
    assert_eq!(map.owner(1).owner, None);
    place.close().await;
}

#[tokio::test]
async fn shards_are_given_to_who_can_take_them_or_to_nobody() {
    let place = Place::open().await;
    let mut register = place.register();
    register.found(8).await.expect("is made");
    let (first, second) = (node(1), node(2));
    register.join(&first, LONG).await.expect("joins");
    register.join(&second, LONG).await.expect("joins");
    register.take(first.incarnation, &[0, 1, 2, 3]).await.expect("takes");
    let version = overview(&mut register).await.version;
    let (giver, taker) = (first.incarnation, Some(second.incarnation));
    assert_eq!(register.give(giver, &[0, 1], taker, LATER).await.expect("gives"), 2);
    let map = overview(&mut register).await;
    assert_eq!(map.owner(0).owner, taker);
    assert!(map.version > version);
    let now = overview(&mut register).await.now_us;
    assert_eq!(register.give(giver, &[2], taker, now).await.expect("is told"), 0, "it comes too late");
    assert!(register.settle(now).await.expect("is told"), "and never will");
    assert!(!register.settle(LATER).await.expect("is told"), "it may yet come");

    // One that cannot serve says so, and no longer when it can.
    for is_stuck in [true, false] {
        let standing = Standing { is_stuck, ..Standing::default() };
        let map = register.renew(giver, LONG, standing).await.expect("renews").expect("is a member");
        assert_eq!(map.node(giver).expect("is there").is_stuck, is_stuck);
    }
    // To one that drains nothing is given, nor to one that is gone.
    assert_eq!(register.drain("node-2", true).await.expect("drains"), 1);
    register.give(giver, &[2], taker, LATER).await.expect("gives");
    assert_eq!(overview(&mut register).await.owner(2).owner, None);
    register.leave(second.incarnation).await.expect("leaves");
    register.give(giver, &[3], taker, LATER).await.expect("gives");
    let map = overview(&mut register).await;
    assert_eq!((map.owner(3).owner, map.owner(0).owner), (None, None));
    assert_eq!(register.drain("nobody", true).await.expect("is told"), 0);

    register.hold(LONG).await.expect("holds");
    assert!(overview(&mut register).await.is_held);
    register.hold(Duration::ZERO).await.expect("goes on");
    assert!(!overview(&mut register).await.is_held);
    // Two moves of the same slots, of two services: the end of one leaves the other frozen.
    let (one, other) = (Uuid::from_u128(11), Uuid::from_u128(12));
    register.freeze(one, 100, 200).await.expect("freezes");
    let frozen = register.freeze(other, 100, 150).await.expect("freezes");
    let map = overview(&mut register).await;
    assert_eq!((map.version, map.frozen.len()), (frozen, 2));
    let announced = register.announce().await.expect("announces");
    let holds = overview(&mut register).await;
    assert_eq!((holds.version, holds.frozen.len(), holds.holdings), (announced, 2, map.holdings + 1));
    register.thaw(one).await.expect("thaws");
    assert_eq!(overview(&mut register).await.frozen.len(), 1);
    register.thaw(other).await.expect("thaws");
    assert!(overview(&mut register).await.frozen.is_empty());
    place.close().await;
}
