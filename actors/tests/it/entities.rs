use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use souk_actors::host::{AnyHost, Limits};
use souk_persistence::journal::Journal;
use souk_persistence::memory::Fault;

use crate::tally::{Command, LIMITS, Tallies, ask};

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), so).await.expect(what);
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_is_durable_before_it_is_answered() {
    let tallies = Tallies::open(LIMITS).await;
    let id = Tallies::id();
    assert_eq!(tallies.ask(id, Command::Add).await, Some(Ok(1)));
    tallies.journal.pause(true);
    let answers: Vec<_> = [Command::Add, Command::Read, Command::Refuse, Command::Add]
        .into_iter()
        .map(|command| tallies.host.ask(id, command, false))
        .collect();
    // The writer cannot commit, so neither a decision nor a read nor a refusal that rests on one may leave.
    // Paused time goes on only when everybody rests: what has not left by then does not leave.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut answers = answers;
    for answer in &mut answers {
        assert!(answer.try_recv().is_err(), "an answer left before its row");
    }
    tallies.journal.pause(false);
    let answers: Vec<_> = join_all(answers).await.into_iter().map(|answer| answer.ok()).collect();
    assert_eq!(answers, [Some(Ok(2)), Some(Ok(2)), Some(Err(2)), Some(Ok(3))]);
    // Three decisions behind the first were one row.
    assert_eq!(tallies.journal.load(id.uuid()).await.expect("loads").expect("is there").version, 3);
}

#[tokio::test]
async fn of_two_hosts_of_one_entity_one_loses_and_learns_the_truth() {
    let one = Tallies::open(LIMITS).await;
    let two = Tallies::over(&one.journal, LIMITS).await;
    let id = Tallies::id();
    assert_eq!(one.ask(id, Command::Add).await, Some(Ok(1)));
    assert_eq!(ask(&two, id, Command::Add).await, Some(Ok(2)));
    // The first still believes in 1: its row is refused, nobody is told a lie, and it is loaded again.
    assert_eq!(one.ask(id, Command::Add).await, None);
    until("loaded again", async || one.ask(id, Command::Read).await == Some(Ok(2))).await;
    assert_eq!(one.ask(id, Command::Add).await, Some(Ok(3)));
    assert!(one.host.quarantined().is_empty());
}

#[tokio::test]
async fn a_panic_is_answered_at_once_and_the_entity_comes_back() {
    let tallies = Tallies::open(LIMITS).await;
    let id = Tallies::id();
    tallies.ask(id, Command::Add).await;
    let queued =
        [Command::Panic, Command::Add, Command::Read].map(|command| tallies.host.ask(id, command, false));
    let answers = join_all(queued).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    until("it comes back", async || tallies.ask(id, Command::Read).await == Some(Ok(1))).await;
}

#[tokio::test]
async fn an_entity_that_keeps_failing_is_quarantined_with_its_cause_and_harms_nobody() {
    let tallies = Tallies::open(LIMITS).await;
    let (sick, well) = (Tallies::id(), Tallies::id());
    until("quarantined", async || {
        tallies.ask(sick, Command::Panic).await;
        !tallies.host.quarantined().is_empty()
    })
    .await;
    let quarantined = tallies.host.quarantined();
    assert_eq!((quarantined.len(), quarantined[0].id), (1, sick.uuid()));
    assert!(quarantined[0].cause.contains("asked to panic"), "{quarantined:?}");
    assert_eq!(tallies.ask(sick, Command::Read).await, None);
    assert_eq!(tallies.ask(well, Command::Add).await, Some(Ok(1)));
}

#[tokio::test]
async fn a_row_that_the_database_refuses_quarantines_its_entity() {
    let tallies = Tallies::open(LIMITS).await;
    let id = Tallies::id();
    tallies.journal.poison(id.uuid());
    assert_eq!(tallies.ask(id, Command::Add).await, None);
    until("quarantined", async || tallies.host.quarantined().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_entity_waits_for_its_journal_and_a_lost_answer_is_no_loss() {
    let tallies = Tallies::open(LIMITS).await;
    let id = Tallies::id();
    tallies.ask(id, Command::Add).await;
    tallies.journal.fail_next([Fault::LoseAnswer, Fault::LoseRequest, Fault::LoseAnswer]);
    assert_eq!(tallies.ask(id, Command::Add).await, Some(Ok(2)));
    tallies.journal.away(true);
    let fresh = Tallies::over(&tallies.journal, LIMITS).await;
    let waiting = fresh.ask(id, Command::Read, false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    tallies.journal.away(false);
    assert_eq!(waiting.await, Ok(Ok(2)));
}

#[tokio::test]
async fn idle_entities_leave_and_not_one_message_is_lost_between_two_lives() {
    let limits = Limits { idle: Duration::ZERO, ..LIMITS };
    let tallies = Arc::new(Tallies::open(limits).await);
    let ids: Vec<_> = (0..10).map(|_| Tallies::id()).collect();
    let rounds = 200;
    let asks = ids.iter().map(|id| {
        let tallies = Arc::clone(&tallies);
        async move {
            for expected in 1..=rounds {
                assert_eq!(tallies.ask(*id, Command::Add).await, Some(Ok(expected)));
                tallies.host.tidy();
            }
        }
    });
    join_all(asks).await;
    until("all have left", async || {
        tallies.host.tidy();
        tallies.host.residents() == 0
    })
    .await;
    // Loaded again, over snapshots, they are what they were.
    assert_eq!(tallies.ask(ids[3], Command::Read).await, Some(Ok(rounds)));
}

#[tokio::test]
async fn mailboxes_and_memory_are_bounded_and_whoever_comes_late_learns_it_at_once() {
    let tallies = Tallies::open(Limits { residents_max: 3, mailbox_max: 8, idle: LIMITS.idle }).await;
    let id = Tallies::id();
    tallies.ask(id, Command::Add).await;
    tallies.journal.pause(true);
    let asked: Vec<_> = (0..20).map(|_| tallies.host.ask(id, Command::Add, false)).collect();
    tallies.journal.pause(false);
    let answers = join_all(asked).await;
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!((taken, answers.len() - taken), (8, 12));
    assert_eq!(tallies.ask(id, Command::Read).await, Some(Ok(9)));

    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(tallies.ask(Tallies::id(), Command::Add).await);
    }
    assert_eq!(others, [Some(Ok(1)), Some(Ok(1)), None, None]);
}

#[tokio::test]
async fn an_id_of_nothing_and_an_id_of_another_kind_leave_no_trace() {
    let tallies = Tallies::open(LIMITS).await;
    assert_eq!(tallies.ask(Tallies::id(), Command::Read).await, Some(Ok(0)));
    until("it leaves at once", async || tallies.host.residents() == 0).await;
}
