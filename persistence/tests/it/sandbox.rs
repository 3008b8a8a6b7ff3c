//! What the sandbox does, written once, and kept over both kinds of books.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use souk_persistence::Timestamp;
use souk_persistence::provider::{ChargeRequest, Charged, PaymentProvider, ProviderUnknown, RefundRequest};
use souk_persistence::sandbox::{BooksAt, LedgerEntry, Pace, SandboxProvider};
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use crate::folder::Folder;
use crate::server::Postgres;

fn key(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn request(number: u128, amount: i64, token: &str) -> ChargeRequest {
    ChargeRequest { key: key(number), amount, currency: "VND".to_owned(), token: token.to_owned() }
}

async fn open(books: &BooksAt) -> Arc<SandboxProvider> {
    SandboxProvider::open_at(books, Pace::default()).await.expect("opens")
}

async fn ledger(books: &BooksAt) -> Vec<LedgerEntry> {
    books.read().await.expect("reads").expect("books")
}

async fn charge(
    provider: &Arc<SandboxProvider>,
    number: u128,
    amount: i64,
    token: &str,
) -> Result<Charged, ProviderUnknown> {
    let expires = Timestamp::parse("2999-01-01T00:00:00Z").expect("a moment");
    provider.charge(request(number, amount, token), expires).await
}

async fn refund(provider: &Arc<SandboxProvider>, name: &str, amount: i64) -> Result<(), ProviderUnknown> {
    let refund_key = name.to_owned();
    provider.refund(RefundRequest { key: key(1), refund_key, amount, currency: "VND".to_owned() }).await
}

fn is_captured(answer: &Result<Charged, ProviderUnknown>) -> bool {
    matches!(answer, Ok(Charged::Captured { .. }))
}

fn declined(reason: &str) -> Result<Charged, ProviderUnknown> {
    Ok(Charged::Declined { reason: reason.to_owned() })
}

#[tokio::test]
async fn the_sandbox_over_files_does_what_is_documented() {
    let folders: Vec<_> = (0..7).map(|_| Folder::new()).collect();
    contract(|number| BooksAt::Folder(folders[number].path().to_owned())).await;
    let nowhere = BooksAt::Folder(folders[0].path().join("nowhere"));
    assert_eq!(nowhere.read().await.expect("looks"), None);
}

#[tokio::test]
async fn the_sandbox_over_tables_does_what_is_documented() {
    let Postgres { server, databases, _folder } = Postgres::start().await;
    contract(|number| {
        let name = format!("sandbox_{number}");
        let options: PgConnectOptions = server.url().parse().expect("a URL");
        BooksAt::Database(Box::new(options.database(&name)))
    })
    .await;
    let books = BooksAt::server(Some(&server.url())).expect("a URL");
    assert_eq!(books.read().await.expect("looks"), None);
    drop(open(&books).await);
    assert_eq!(books.read().await.expect("reads"), Some(Vec::new()));
    assert!(!format!("{books:?}").contains("password"));
    drop(databases);
    server.stop().await;
}

/// `at`: empty books, others for each number.
async fn contract(at: impl Fn(usize) -> BooksAt) {
    every_token_does_what_is_documented(&at(0)).await;
    a_key_is_one_charge_and_a_late_request_is_none(&at(1)).await;
    no_more_is_refunded_than_was_captured_and_a_refund_is_one(&at(2)).await;
    nodes_share_the_books_and_the_books_outlive_them(&at(3)).await;
    what_was_not_known_for_a_while_is_known_after_it(&at(4)).await;
    an_answer_that_nobody_waits_for_is_done_all_the_same(&at(5)).await;
    of_nodes_that_decide_one_key_at_once_one_decides(&at(6)).await;
}

async fn every_token_does_what_is_documented(books: &BooksAt) {
    let provider = open(books).await;
    assert!(is_captured(&charge(&provider, 1, 5, "tok_approve").await));
    assert!(is_captured(&charge(&provider, 2, 5, "").await));
    for _ in 0..2 {
        assert_eq!(charge(&provider, 3, 5, "tok_declined").await, declined("card_declined"));
        let short = charge(&provider, 4, 5, "tok_insufficient_funds").await;
        assert_eq!(short, declined("insufficient_funds"));
    }
    assert!(charge(&provider, 5, 5, "tok_timeout_then_success").await.is_err());
    assert_eq!(provider.find(key(5)).await, Ok(None));
    assert!(is_captured(&charge(&provider, 5, 5, "tok_timeout_then_success").await));

    assert!(charge(&provider, 6, 5, "tok_unknown_for_a_while").await.is_err());
    assert!(provider.find(key(6)).await.expect("answers").is_some());
    assert!(charge(&provider, 6, 5, "tok_unknown_for_a_while").await.is_err());

    let never = charge(&provider, 7, 5, "tok_never_answers");
    assert!(tokio::time::timeout(Duration::from_millis(200), never).await.is_err());
    assert_eq!(provider.find(key(7)).await, Ok(None));

    assert_eq!(charge(&provider, 8, 5, "tok_captured_but_declined").await, declined("card_declined"));
    assert_eq!(provider.find(key(8)).await.expect("answers").map(|found| found.amount), Some(5));
}

async fn a_key_is_one_charge_and_a_late_request_is_none(books: &BooksAt) {
    let provider = open(books).await;
    assert!(is_captured(&charge(&provider, 1, 5, "").await));
    assert!(is_captured(&charge(&provider, 1, 5, "").await));
    assert!(charge(&provider, 1, 6, "").await.is_err());
    assert_eq!(charge(&provider, 3, 5, "tok_declined").await, declined("card_declined"));
    assert!(charge(&provider, 3, 6, "").await.is_err());
    assert!(charge(&provider, 4, -5, "").await.is_err());
    let late = provider.charge(request(2, 5, ""), Timestamp::from_micros(1)).await;
    assert!(late.is_err());
    assert_eq!(provider.find(key(2)).await, Ok(None));
}

async fn no_more_is_refunded_than_was_captured_and_a_refund_is_one(books: &BooksAt) {
    let provider = open(books).await;
    assert!(refund(&provider, "a", 3).await.is_err());
    assert!(is_captured(&charge(&provider, 1, 5, "").await));
    for _ in 0..2 {
        assert_eq!(refund(&provider, "a", 3).await, Ok(()));
    }
    assert!(refund(&provider, "a", 2).await.is_err());
    assert!(refund(&provider, "b", 3).await.is_err());
    assert!(refund(&provider, "c", -3).await.is_err());
    assert_eq!(refund(&provider, "b", 2).await, Ok(()));
    let entry = LedgerEntry { key: key(1), captured: 5, refunded: 5 };
    assert_eq!(ledger(books).await, vec![entry]);
}

async fn nodes_share_the_books_and_the_books_outlive_them(books: &BooksAt) {
    let one = open(books).await;
    let two = open(books).await;
    let both = futures::future::join_all((0..50).map(|number| {
        let provider = if number % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&two) };
        async move { charge(&provider, number / 2, 5, "").await }
    }));
    assert!(both.await.iter().all(is_captured));
    drop((one, two));
    let ledger = ledger(books).await;
    assert_eq!(ledger.iter().map(|entry| entry.captured).collect::<Vec<_>>(), vec![5; 25]);
    let again = open(books).await;
    assert!(again.find(key(24)).await.expect("answers").is_some());
}

async fn what_was_not_known_for_a_while_is_known_after_it(books: &BooksAt) {
    let pace = Pace { unknown_for: Duration::from_millis(200), ..Pace::default() };
    let provider = SandboxProvider::open_at(books, pace).await.expect("opens");
    let begun = std::time::Instant::now();
    let known = async { while !is_captured(&charge(&provider, 1, 5, "tok_unknown_for_a_while").await) {} };
    tokio::time::timeout(Duration::from_secs(10), known).await.expect("it becomes known");
    assert!(begun.elapsed() >= pace.unknown_for);
    let entry = LedgerEntry { key: key(1), captured: 5, refunded: 0 };
    assert_eq!(ledger(books).await, vec![entry]);
}

async fn an_answer_that_nobody_waits_for_is_done_all_the_same(books: &BooksAt) {
    let pace = Pace { latency: Duration::from_secs(600), ..Pace::default() };
    let provider = SandboxProvider::open_at(books, pace).await.expect("opens");
    let given_up = tokio::time::timeout(Duration::from_millis(20), charge(&provider, 1, 5, "")).await;
    assert!(given_up.is_err());
    let quick = open(books).await;
    let found = async { while quick.find(key(1)).await.expect("answers").is_none() {} };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("it was captured");
}

async fn of_nodes_that_decide_one_key_at_once_one_decides(books: &BooksAt) {
    let nodes = [open(books).await, open(books).await];
    let both = |number: u128, tokens: [&'static str; 2]| {
        let charges = nodes.iter().zip(tokens).map(move |(node, token)| charge(node, number, 5, token));
        futures::future::join_all(charges)
    };
    for number in 1..40 {
        let answers = both(number, ["tok_declined", ""]).await;
        assert_eq!(answers[0], answers[1], "{number}");
        let answers = both(100 + number, ["tok_timeout_then_success", "tok_timeout_then_success"]).await;
        assert_eq!(answers.iter().filter(|answer| is_captured(answer)).count(), 1, "{number}: {answers:?}");
    }
    // Whoever gives back, and under whatever names: no more than was captured.
    assert!(is_captured(&charge(&nodes[0], 1_000, 100, "").await));
    let refunds = (0..60).map(|number| {
        let (refund_key, currency) = (format!("refund {}", number / 2), "VND".to_owned());
        let request = RefundRequest { key: key(1_000), refund_key, amount: 7, currency };
        nodes[number % 2].refund(request)
    });
    let given = futures::future::join_all(refunds).await.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(given, 28, "14 refunds, each asked for twice");
    let entry = ledger(books).await.into_iter().find(|entry| entry.key == key(1_000)).expect("is there");
    assert_eq!((entry.captured, entry.refunded), (100, 98));
}

#[tokio::test]
async fn a_line_that_was_torn_takes_no_other_with_it() {
    let folder = Folder::new();
    let books = folder.path().join("payments.log");
    let one = SandboxProvider::open(folder.path()).expect("opens");
    let two = SandboxProvider::open(folder.path()).expect("opens");
    assert!(is_captured(&charge(&one, 1, 5, "").await));
    for (provider, number) in [(&one, 2), (&two, 3)] {
        let mut file = std::fs::File::options().append(true).open(&books).expect("books");
        file.write_all(b"{\"what\":\"captured\",\"key\":\"0000").expect("a torn line");
        assert_eq!(ledger(&BooksAt::Folder(folder.path().to_owned())).await.len(), number - 1);
        assert!(is_captured(&charge(provider, number as u128, 5, "").await));
    }
    assert_eq!(ledger(&BooksAt::Folder(folder.path().to_owned())).await.len(), 3);
    assert!(one.find(key(3)).await.expect("answers").is_some());
}

#[tokio::test]
async fn what_could_not_be_written_did_not_happen() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("payments.log")).expect("a full disk");
    let provider = SandboxProvider::open(folder.path()).expect("opens");
    for _ in 0..2 {
        assert!(charge(&provider, 1, 5, "").await.is_err());
        assert_eq!(provider.find(key(1)).await, Ok(None));
    }
}
