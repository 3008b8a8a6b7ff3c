//! A service with several databases: divided once, found again, and one journal to whoever uses it.

use std::sync::Arc;

use souk_persistence::databases::{DatabaseUrls, Databases, DatabasesError, Hold, ReadOnly};
use souk_persistence::embedded::{Embedded, EmbeddedSettings};
use souk_persistence::journal::{Committed, ListQuery, Row, SLOTS};
use souk_persistence::memory::MemoryJournal;
use souk_persistence::migrate::Service;
use souk_persistence::partitioned::{PartitionedJournal, Spread};
use souk_persistence::slots::{Holding, SlotTable, Word};
use sqlx::Row as _;
use uuid::Uuid;

use crate::folder::Folder;
use crate::journal::{Shared, commit, contract, load, row, stream};
use crate::server::Postgres;

/// Products on databases of these names; the other services share theirs among all tests of a server.
pub fn products(postgres: &Postgres, names: &[&str]) -> DatabaseUrls {
    let url = |name: &str| postgres.server.url().replace("/postgres", &format!("/{name}"));
    let product = names.iter().map(|name| url(name)).collect();
    let [account, order, payment] = ["aside_a", "aside_o", "aside_p"].map(|name| vec![url(name)]);
    DatabaseUrls { account, product, order, payment, ..DatabaseUrls::default() }
}

pub async fn open(urls: &DatabaseUrls) -> Result<Databases, DatabasesError> {
    Databases::open(urls, Hold::Shared, 2).await
}

fn halves() -> SlotTable {
    let held = |first, last| vec![Holding { first, last, generation: 1, given_to: None }];
    let word = |id, holdings| Word { id: Uuid::from_u128(id), holdings };
    SlotTable::resolve(&[word(1, held(0, 2047)), word(2, held(2048, 4095))]).expect("covers")
}

#[tokio::test]
async fn journals_in_memory_keep_the_contract_together() {
    let parts: Vec<Shared> = vec![MemoryJournal::open("one"), MemoryJournal::open("two")];
    let spread = Spread::of(Service::Product, Vec::new());
    let journal: Shared = PartitionedJournal::over(parts.clone(), halves(), spread);
    contract(&journal, 1 << 20).await;
    // The contract's streams lie in the slots 0 to 5,003 modulo 4,096.
    for part in parts {
        assert!(part.scan(None, 100).await.expect("scans").len() > 5);
    }
}

#[tokio::test]
async fn what_an_owner_has_is_asked_of_one_database_where_ids_say_so() {
    let parts = [MemoryJournal::open("one"), MemoryJournal::open("two")];
    let shared: Vec<Shared> = parts.iter().map(|part| Arc::clone(part) as Shared).collect();
    let spread = Spread::of(Service::Order, Vec::new());
    let journal: Shared = PartitionedJournal::over(shared, halves(), spread);
    // Owner and order have one slot, in the second half.
    let owner = Some(stream((7 << 12) + 3_000));
    for number in 1..=3 {
        let order = Row { owner, ..row((number << 12) + 3_000, 1) };
        assert_eq!(commit(&journal, order).await, Committed::Taken);
    }
    parts[0].away(true);
    let query = ListQuery { kind: 5, owner, limit: 2, ..ListQuery::default() };
    assert_eq!(journal.list(query.clone()).await.expect("lists").len(), 2);
    assert!(journal.list(ListQuery { owner: None, ..query }).await.is_err());
}

#[tokio::test]
async fn several_databases_are_divided_once_and_keep_the_contract_together() {
    let postgres = Postgres::start().await;
    let names = ["half_1", "half_2"];
    let both = products(&postgres, &names);
    // Two nodes at once, as a new cluster does.
    let (one, two) = tokio::join!(open(&both), open(&both));
    let (one, two) = (one.expect("opens"), two.expect("opens"));
    contract(&one.product, 1 << 20).await;
    assert_eq!(load(&two.product, 1 << 20).await, (2, vec![1, 2]));
    for (name, held) in names.into_iter().zip(["0-2047", "2048-4095"]) {
        let holding = "select first_slot || '-' || last_slot as held,
                         (select count(*) from entity) as rows,
                         (select count(*) from entity where slot not between first_slot and last_slot) as strays
                       from holding";
        let rows = postgres.sql(name, holding).await;
        assert_eq!((rows.len(), rows[0].get::<&str, _>(0)), (1, held));
        assert!(rows[0].get::<i64, _>(1) > 5, "{name} has its part");
        assert_eq!(rows[0].get::<i64, _>(2), 0);
    }
    drop((one, two));

    // Whoever forgets one is told, and nothing is divided anew.
    let half = open(&products(&postgres, &names[..1])).await.expect_err("a half").to_string();
    assert!(half.contains("2048 to 4095") && half.contains("product_db"), "{half}");
    let other = open(&products(&postgres, &["half_1", "half_3"])).await.expect_err("another").to_string();
    assert!(other.contains("/half_3") && !other.contains("souk:"), "{other}");
    // In another order, and with one more that holds nothing.
    let more = open(&products(&postgres, &["half_3", "half_2", "half_1"])).await;
    let more = more.expect("opens");
    assert_eq!(load(&more.product, 1 << 20).await, (2, vec![1, 2]));
    drop(more);

    let looked = ReadOnly::open(&both).await.expect("looks").expect("databases");
    assert!(looked.product.scan(None, 100).await.expect("scans").len() > 10);
    drop(looked);
    a_database_is_listed_once_and_for_its_own_service(&postgres).await;
    one_that_has_rows_already_holds_everything(&postgres).await;
    an_opening_that_is_cut_off_is_begun_again(&postgres).await;
    postgres.stop().await;
}

async fn a_database_is_listed_once_and_for_its_own_service(postgres: &Postgres) {
    let twice = open(&products(postgres, &["half_1", "half_1"])).await.expect_err("twice");
    assert!(matches!(twice, DatabasesError::Twice { .. }), "{twice}");
    let mut wrong = products(postgres, &["half_1", "half_2"]);
    std::mem::swap(&mut wrong.order, &mut wrong.product);
    let wrong = open(&wrong).await.expect_err("another service").to_string();
    assert!(wrong.contains("another service, order_db"), "{wrong}");
}

async fn one_that_has_rows_already_holds_everything(postgres: &Postgres) {
    drop(open(&products(postgres, &["old"])).await.expect("makes it"));
    // As it was before a service could have several.
    for back in [
        "drop table identity, holding",
        "drop function not_held, fence, pause, go_on, give, take cascade",
        "delete from _sqlx_migrations where version = 2",
        "insert into entity (stream, version, batch, kind, slot, created_at, updated_at, view)
         values (gen_random_uuid(), 1, gen_random_uuid(), 5, 9, now(), now(), '{}')",
    ] {
        postgres.sql("old", back).await;
    }
    let looked = ReadOnly::open(&products(postgres, &["old"])).await.expect("looks").expect("databases");
    assert_eq!(looked.product.scan(None, 9).await.expect("scans").len(), 1);
    drop(looked);
    // The new one is listed first, and still gets nothing.
    drop(open(&products(postgres, &["young", "old"])).await.expect("opens"));
    let held = "select first_slot, last_slot from holding";
    let rows = postgres.sql("old", held).await;
    assert_eq!((rows.len(), rows[0].get::<i16, _>(0), rows[0].get::<i16, _>(1)), (1, 0, SLOTS - 1));
    assert!(postgres.sql("young", held).await.is_empty());
    drop(open(&products(postgres, &["old"])).await.expect("opens alone"));
}

async fn an_opening_that_is_cut_off_is_begun_again(postgres: &Postgres) {
    let names = ["cut_1", "cut_2"];
    drop(open(&products(postgres, &names)).await.expect("opens"));
    // As if it had been cut off when only the first was founded, or none.
    for founded in ["false", "first"] {
        for (number, name) in names.into_iter().enumerate() {
            if founded == "false" || number > 0 {
                postgres.sql(name, "update identity set founded = false").await;
                postgres.sql(name, "delete from holding").await;
            }
        }
        let databases = open(&products(postgres, &names)).await.expect("opens again");
        let taken = commit(&databases.product, row(3_000, 1)).await;
        assert!(taken == Committed::Taken || founded == "first", "{taken:?}");
        drop(databases);
        let rows = postgres.sql("cut_2", "select first_slot from holding").await;
        assert_eq!((rows.len(), rows[0].get::<i16, _>(0)), (1, 2_048));
    }
    // What was meant and never founded is void for whoever has begun elsewhere.
    postgres.sql("cut_2", "update identity set founded = false, founding = gen_random_uuid()").await;
    postgres.sql("cut_2", "delete from holding").await;
    let gap = open(&products(postgres, &names)).await.expect_err("a gap").to_string();
    assert!(gap.contains("2048 to 4095"), "{gap}");
}

#[tokio::test]
async fn a_service_spreads_over_two_servers() {
    let one = Postgres::start().await;
    let folder = Folder::new();
    let settings = EmbeddedSettings { data: folder.path().to_owned(), binaries: None };
    let two = Embedded::start(&settings).await.expect("starts");
    let own = |server: &Embedded| server.url().replace("/postgres", "/spread");
    let product = vec![own(&one.server), own(&two)];
    let spread = DatabaseUrls { product, ..products(&one, &[]) };
    let databases = open(&spread).await.expect("opens");
    contract(&databases.product, 1 << 20).await;
    // One of them is away: what lies on the other goes on.
    two.stop().await;
    assert_eq!(commit(&databases.product, row(4_096 * 9 + 7, 1)).await, Committed::Taken);
    assert!(databases.product.scan(None, 9).await.is_err());
    drop(databases);
    one.stop().await;
}
