//! What happens when ten times more is asked than can be done: how the shop answers, whether what it accepts
//! comes to its end, what memory it takes, and whether it is as fast as before when the storm is over.

use anyhow::{Context, Result, ensure};

use super::progress::note;
use super::report::Overload;
use super::scenario::{Load, Scenario, named};
use super::stage::Stage;

/// So many times what was done just before.
const TIMES: f64 = 10.0;
const RATE_MAX: u32 = 100_000;

/// Measures before, in the storm, and after it.
pub async fn storm(stage: &mut Stage<'_>) -> Result<Overload> {
    let calm = scenario("uniform-256")?;
    let before = stage.souk(&calm).await?;
    ensure!(before.per_second > 0.0, "no purchase is completed: {:?}", before.outcomes);
    let rate = ((before.per_second * TIMES) as u32).clamp(1, RATE_MAX);
    let open = scenario("open")?;
    let connections = open.connections();
    // Nobody waits for the end: how much is asked must not depend on how fast it is done.
    let storm = Scenario { load: Load::Open { rate, connections }, is_patient: false, ..open };
    note("overload");
    let during = stage.souk(&storm).await?;
    let after = stage.souk(&calm).await?;
    Ok(Overload { asked_per_second: rate, before, during, after })
}

fn scenario(name: &str) -> Result<Scenario> {
    named(name, 1)?.pop().context("a name is one scenario")
}
