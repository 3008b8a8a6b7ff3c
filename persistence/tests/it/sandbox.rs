use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use souk_persistence::Timestamp;
use souk_persistence::provider::{ChargeRequest, Charged, PaymentProvider, ProviderUnknown, RefundRequest};
use souk_persistence::sandbox::{LedgerEntry, Pace, SandboxProvider, read_ledger};
use uuid::Uuid;

use crate::folder::Folder;

fn key(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn request(number: u128, amount: i64, token: &str) -> ChargeRequest {
    ChargeRequest { key: key(number), amount, currency: "VND".to_owned(), token: token.to_owned() }
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
async fn every_token_does_what_is_documented() {
    let folder = Folder::new();
    let provider = SandboxProvider::open(folder.path()).expect("opens");
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

#[tokio::test]
async fn a_key_is_one_charge_and_a_late_request_is_none() {
    let folder = Folder::new();
    let provider = SandboxProvider::open(folder.path()).expect("opens");
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

#[tokio::test]
async fn no_more_is_refunded_than_was_captured_and_a_refund_is_one() {
    let folder = Folder::new();
    let provider = SandboxProvider::open(folder.path()).expect("opens");
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
    assert_eq!(read_ledger(folder.path()).expect("books"), vec![entry]);
}

#[tokio::test]
async fn nodes_share_the_books_and_the_books_outlive_them() {
    let folder = Folder::new();
    let one = SandboxProvider::open(folder.path()).expect("opens");
    let two = SandboxProvider::open(folder.path()).expect("opens");
    let both = futures::future::join_all((0..50).map(|number| {
        let provider = if number % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&two) };
        async move { charge(&provider, number / 2, 5, "").await }
    }));
    assert!(both.await.iter().all(is_captured));
    drop((one, two));
    let books = read_ledger(folder.path()).expect("books");
    assert_eq!(books.iter().map(|entry| entry.captured).collect::<Vec<_>>(), vec![5; 25]);
    let again = SandboxProvider::open(folder.path()).expect("opens");
    assert!(again.find(key(24)).await.expect("answers").is_some());
}

#[tokio::test]
async fn what_was_not_known_for_a_while_is_known_after_it() {
    let folder = Folder::new();
    let pace = Pace { unknown_for: Duration::from_millis(200), ..Pace::default() };
    let provider = SandboxProvider::open_with(folder.path(), pace).expect("opens");
    let begun = std::time::Instant::now();
    let known = async { while !is_captured(&charge(&provider, 1, 5, "tok_unknown_for_a_while").await) {} };
    tokio::time::timeout(Duration::from_secs(10), known).await.expect("it becomes known");
    assert!(begun.elapsed() >= pace.unknown_for);
    let entry = LedgerEntry { key: key(1), captured: 5, refunded: 0 };
    assert_eq!(read_ledger(folder.path()).expect("books"), vec![entry]);
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_done_all_the_same() {
    let folder = Folder::new();
    let pace = Pace { latency: Duration::from_secs(600), ..Pace::default() };
    let provider = SandboxProvider::open_with(folder.path(), pace).expect("opens");
    let given_up = tokio::time::timeout(Duration::from_millis(20), charge(&provider, 1, 5, "")).await;
    assert!(given_up.is_err());
    let quick = SandboxProvider::open(folder.path()).expect("opens");
    let found = async { while quick.find(key(1)).await.expect("answers").is_none() {} };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("it was captured");
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
        assert_eq!(read_ledger(folder.path()).expect("books").len(), number - 1);
        assert!(is_captured(&charge(provider, number as u128, 5, "").await));
    }
    assert_eq!(read_ledger(folder.path()).expect("books").len(), 3);
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
