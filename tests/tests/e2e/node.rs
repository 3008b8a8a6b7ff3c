use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use souk_tests::cluster::counted;
use souk_tests::process::{Data, binary};
use souk_tests::shopper::Shopper;
use souk_tests::souk::Souk;
use tokio::time::Instant;

#[tokio::test]
async fn what_was_made_is_there_after_a_kill_and_after_a_stop() -> Result<()> {
    let data: Arc<Data> = Data::new("kept")?;
    let souk = Souk::start(&data, &[]).await?;
    let shopper = Shopper::register(&souk.url).await?;
    let category = shopper.category().await?;
    let product = shopper.product(&category, 10).await?;
    shopper.buy(&[(&product, 4)], None).await?;
    souk.kill().await?;

    let souk = Souk::start(&data, &[]).await?;
    let shopper = shopper.at(&souk.url);
    assert_eq!(shopper.inventory(&product).await?, 6);
    assert_eq!(souk.stop().await?, 0);

    let souk = Souk::start(&data, &[]).await?;
    let shopper = shopper.at(&souk.url);
    assert_eq!(shopper.get("/purchases").await?.body["items"][0]["status"], "completed");
    assert_eq!(souk.stop().await?, 0);
    Ok(())
}

/// The suite runs with brokers in the environment, and without: this says that they are what makes the difference.
#[tokio::test]
async fn kafka_is_told_where_the_environment_names_brokers_and_nowhere_else() -> Result<()> {
    let souk = crate::open("told-or-not").await?;
    Shopper::register(&souk.url).await?;
    let told = r#"souk_relay_messages_total{db="account_db"}"#;
    if std::env::var_os("SOUK__KAFKA__BROKERS").is_none() {
        assert!(!reqwest::get(format!("{}/metrics", souk.url)).await?.text().await?.contains("souk_relay"));
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while counted(&souk.url, told).await? == 0.0 {
        ensure!(Instant::now() < deadline, "nothing is told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_souk_on_the_same_folder_or_the_same_databases_is_refused() -> Result<()> {
    let souk = crate::open("sole").await?;
    let serve = |data: &std::path::Path, url: Option<String>| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(binary()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        if let Some(url) = url {
            command.env("SOUK__DATABASE__URL", url);
        }
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, text) = serve(souk.data.path(), None)?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use by another Souk"), "{text}");
    let other = Data::new("other")?;
    let (code, text) = serve(other.path(), Some(souk.data.database("postgres")?))?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use by another Souk"), "{text}");
    assert!(Shopper::register(&souk.url).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn the_command_line_teaches_and_keeps_secrets() -> Result<()> {
    let run = |arguments: &[&str], variables: &[(&str, &str)]| -> Result<(Option<i32>, String)> {
        let output = Command::new(binary()?).args(arguments).envs(variables.iter().copied()).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    };
    let (code, text) = run(&["--help"], &[])?;
    assert!(code == Some(0) && text.contains("souk serve") && text.contains("Exit codes"), "{text}");
    let (code, text) = run(&["version"], &[])?;
    assert!(code == Some(0) && text.starts_with("souk "), "{text}");
    let secret = [("SOUK__DATABASE__URL", "postgres://souk:canary@127.0.0.1:1/postgres")];
    let (code, text) = run(&["config"], &secret)?;
    assert!(code == Some(0) && text.contains("souk:***@") && !text.contains("canary"), "{text}");
    assert_eq!(run(&["sell"], &[])?.0, Some(2));
    let (code, text) = run(&["config"], &[("SOUK__ACTORS__NO_SUCH_KEY", "1")])?;
    assert!(code == Some(2) && text.contains("no_such_key"), "{text}");
    Ok(())
}
