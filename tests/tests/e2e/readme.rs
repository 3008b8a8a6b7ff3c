//! The README's first purchase, as it stands there.

use std::path::Path;

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::open;

#[tokio::test]
async fn the_readmes_first_purchase_is_what_happens() -> Result<()> {
    let souk = open("readme").await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo.sh");
    let output = Command::new("bash").arg(script).arg(&souk.url).output().await?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{text}\n{errors}");
    for expected in [
        "\"status\":\"completed\"",
        "\"inventory\":996",
        "\"inventory\":995",
        // 4 at 125 and 5 at 150.
        "\"amount\":1250",
        "\"quantity\":4",
        "\"quantity\":5",
        "\"status\":\"captured\"",
        "event: step",
    ] {
        ensure!(text.contains(expected), "no {expected} in\n{text}\n{errors}");
    }
    Ok(())
}
