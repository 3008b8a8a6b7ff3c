//! What a purchase costs in an empty shop and in one with many purchases on disk, with keys and without.

use std::time::Duration;

use anyhow::{Context, Result};

use super::progress::note;
use super::report::{Growth, Run};
use super::scenario::{Scenario, named};
use super::stage::Stage;

/// The shop is filled in pieces of this length.
const PIECE: Duration = Duration::from_secs(10);

/// Measures, fills the shop half without keys and half with, and measures again.
pub async fn grow(stage: &mut Stage<'_>, fill: u64) -> Result<Growth> {
    let kinds = [scenario("uniform-256")?, scenario("keyed")?];
    let empty = both(stage, &kinds).await?;
    let mut growth = Growth { empty, ..Growth::default() };
    let (mut made, mut seconds) = (0, 0.0);
    for (kind, bytes_each) in kinds.iter().zip(&mut growth.bytes_per_purchase) {
        let before = stage.bytes().await?;
        let mut filled = 0;
        while filled < fill / 2 {
            note(&format!("growth: {} of {fill} purchases", made + filled));
            let run = stage.souk_for(kind, PIECE).await?;
            anyhow::ensure!(run.outcomes.completed > 0, "no purchase is completed: {:?}", run.outcomes);
            filled += run.outcomes.completed;
            seconds += run.outcomes.completed as f64 / run.per_second.max(1e-9);
        }
        if let (Some(before), Some(after)) = (before, stage.bytes().await?) {
            *bytes_each = (after - before) as f64 / filled as f64;
        }
        made += filled;
    }
    growth.filled_per_second = made as f64 / seconds.max(1e-9);
    growth.full = both(stage, &kinds).await?;
    growth.purchases = stage.told.completed;
    Ok(growth)
}

async fn both(stage: &mut Stage<'_>, [plain, keyed]: &[Scenario; 2]) -> Result<[Run; 2]> {
    Ok([stage.souk(plain).await?, stage.souk(keyed).await?])
}

fn scenario(name: &str) -> Result<Scenario> {
    named(name, 1)?.pop().context("a name is one scenario")
}
