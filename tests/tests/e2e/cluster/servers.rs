//! A service on more than one server: orders move from one to another while they are made.

use anyhow::{Result, ensure};
use souk_tests::cluster::Cluster;
use souk_tests::process::{Data, Process, binary};
use sqlx::{Connection, PgConnection, Row};
use tokio::process::Command;

use super::crowd::Crowd;

/// How many entities of slots below 2048, and of the others, a database has.
async fn halves(url: &str) -> Result<(i64, i64)> {
    let mut connection = PgConnection::connect(url).await?;
    let query =
        "select count(*) filter (where slot < 2048), count(*) filter (where slot >= 2048) from entity";
    let row = sqlx::query(query).fetch_one(&mut connection).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

async fn move_slots(cluster: &Cluster, list: &str, slots: &str) -> Result<String> {
    let output = Command::new(binary()?)
        .args(["cluster", "move-slots", "--service", "order", "--from", "0", "--to", "1", "--slots", slots])
        .env("SOUK__DATABASE__URL", cluster.server())
        .env("SOUK__DATABASE__ORDER_URL", list)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

#[tokio::test]
async fn orders_move_to_another_server_while_they_are_made() -> Result<()> {
    let (data, other) = (Data::new("servers")?, Data::new("second-server")?);
    let mut cluster = Cluster::start(&data, 2, &[]).await?;
    let mut crowd = Crowd::gather(&cluster.url()).await?;
    let rush = crowd.rush();
    rush.more(60).await?;

    // Every node is started with the new server in its list, one after the other: it holds nothing yet.
    let second = Process::postgres(&other).await?;
    let (from, to) = (data.database("order_db")?, other.database("order_db")?);
    let list = format!("{from} {to}");
    cluster.set("SOUK__DATABASE__ORDER_URL", &list);
    for name in ["node-1", "node-2"] {
        assert_eq!(cluster.take(name)?.process.stop().await?, 0);
        cluster.join(name, &[]).await?;
        cluster.settled(2).await?;
    }
    crowd.orders = vec![from.clone(), to.clone()];
    rush.more(30).await?;
    assert_eq!(halves(&to).await?, (0, 0));

    let said = move_slots(&cluster, &list, "0-2047").await?;
    print!("move-slots: {said}");
    rush.more(60).await?;
    crowd.judge("move-slots", rush, &data).await?;
    let ((gone, kept), (moved, others)) = (halves(&from).await?, halves(&to).await?);
    ensure!((gone, others) == (0, 0), "{gone} are still where they were, {others} came along");
    ensure!(kept > 0 && moved > 0, "{kept} kept, {moved} moved");
    println!("{kept} orders on one server, {moved} on the other");

    // Once more is no harm, and what makes no sense is refused.
    move_slots(&cluster, &list, "0-2047").await?;
    ensure!(move_slots(&cluster, &list, "9-1").await.is_err());
    assert_eq!(cluster.stop().await?, 0);
    assert_eq!(second.stop().await?, 0);
    Ok(())
}
