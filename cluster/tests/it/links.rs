//! Two ends of a link in one process: what passes, what is refused, and what ends it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use souk_cluster::link::{Asked, Handler, LinkSettings, Links, Peer, Responder, TlsFiles};
use souk_proto::node::request::Body;
use souk_proto::node::response::Outcome;
use souk_proto::node::{Ask, Follow, Request, Standing, Unknown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(10);
const COOKIE: &str = "a cookie of more than thirty-two bytes";

fn settings(number: u128) -> LinkSettings {
    LinkSettings {
        cluster: Uuid::from_u128(1),
        // Never used twice in a process, as in life.
        incarnation: Uuid::from_u128(number << 64 | u128::from(rand_u64())),
        version: "test".to_owned(),
        cookie: COOKIE.to_owned(),
        ..LinkSettings::default()
    }
}

fn rand_u64() -> u64 {
    Uuid::now_v7().as_u64_pair().1
}

fn ask(command: &[u8]) -> Request {
    Request {
        body: Some(Body::Ask(Ask { command: Bytes::copy_from_slice(command), is_new: false })),
        ..Request::default()
    }
}

fn follow() -> Request {
    Request { body: Some(Body::Follow(Follow {})), ..Request::default() }
}

/// Answers an ask with what it was asked.
fn echo() -> Handler {
    Arc::new(|request: Request, responder: Responder| match request.body {
        Some(Body::Ask(Ask { command, .. })) => responder.answer(Outcome::Answer(command)),
        Some(Body::Follow(_) | Body::Forget(_)) | None => {}
    })
}

/// Two ends that expect each other; the first dials.
async fn pair(one: LinkSettings, other: LinkSettings, handler: Handler) -> (Links, Links, Uuid) {
    let (first, second) = (one.incarnation, other.incarnation);
    let (one, other) =
        (Links::open(one, echo()).await.expect("opens"), Links::open(other, handler).await.expect("opens"));
    one.expect(vec![Peer { incarnation: second, address: format!("localhost:{}", other.address().port()) }]);
    other.expect(vec![Peer { incarnation: first, address: one.address().to_string() }]);
    (one, other, second)
}

async fn linked(links: &Links, peer: Uuid) {
    let deadline = Instant::now() + SOON;
    while !links.is_linked(peer) {
        assert!(Instant::now() < deadline, "they do not link");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn never_linked(links: &Links, peer: Uuid) {
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!links.is_linked(peer));
    assert_eq!(links.request(peer, ask(b"hello"), SOON).await, Asked::NotSent);
}

#[tokio::test]
async fn many_requests_are_answered_each_with_its_own_answer() {
    let (one, other, peer) = pair(settings(1), settings(2), echo()).await;
    linked(&one, peer).await;
    let asks = (0..2_000).map(|number: u32| {
        let (one, command) = (&one, number.to_be_bytes());
        async move {
            let answer = one.request(peer, ask(&command), SOON).await;
            assert_eq!(answer, Asked::Answered(Outcome::Answer(Bytes::copy_from_slice(&command))));
        }
    });
    futures::future::join_all(asks).await;
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_follower_is_told_before_what_was_asked_after_it_and_until_it_wants_no_more() {
    let follower: Arc<Mutex<Option<Responder>>> = Arc::default();
    let kept = Arc::clone(&follower);
    // An ask makes the news that a follower is told.
    let handler: Handler = Arc::new(move |request: Request, responder: Responder| {
        let mut kept = kept.lock().expect("nobody panics");
        match request.body {
            Some(Body::Follow(_)) => *kept = Some(responder),
            Some(Body::Ask(_)) => {
                let followed = kept.as_ref().map_or(0, |follower| {
                    follower.push(Outcome::Standing(Standing { version: 1, ..Standing::default() }));
                    1
                });
                responder.answer(Outcome::Answer(Bytes::from(vec![followed])));
            }
            Some(Body::Forget(_)) | None => {}
        }
    });
    let (one, other, peer) = pair(settings(1), settings(2), handler).await;
    linked(&one, peer).await;
    let mut subscription = one.follow(peer, follow(), SOON).expect("is linked");
    let answer = one.request(peer, ask(b""), SOON).await;
    assert_eq!(answer, Asked::Answered(Outcome::Answer(Bytes::from_static(&[1]))), "the follow came first");
    assert_eq!(subscription.next().await.map(|standing| standing.version), Some(1));
    drop(subscription);
    let mut follower = follower.lock().expect("nobody panics").take().expect("is followed");
    timeout(SOON, follower.closed()).await.expect("is told that nobody follows");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_request_that_is_dropped_unanswered_is_unknown_and_one_too_large_is_never_sent() {
    let dropping: Handler = Arc::new(|_, responder| drop(responder));
    let (one, other, peer) = pair(settings(1), settings(2), dropping).await;
    linked(&one, peer).await;
    let answer = one.request(peer, ask(b"hello"), SOON).await;
    assert_eq!(answer, Asked::Answered(Outcome::Unknown(Unknown {})));
    assert_eq!(one.request(peer, ask(&vec![0; 300 * 1024]), SOON).await, Asked::NotSent);
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn whoever_follows_takes_no_place_of_whoever_asks() {
    let kept: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let handler: Handler = Arc::new(move |request: Request, responder: Responder| match request.body {
        Some(Body::Ask(Ask { command, .. })) => responder.answer(Outcome::Answer(command)),
        Some(Body::Follow(_) | Body::Forget(_)) | None => keep.lock().expect("nobody panics").push(responder),
    });
    let few = LinkSettings { in_flight_max: 4, follows_max: 8, ..settings(1) };
    let (one, other, peer) = pair(few, settings(2), handler).await;
    linked(&one, peer).await;
    let following: Vec<_> = (0..10).map(|_| one.follow(peer, follow(), SOON)).collect();
    assert_eq!(following.iter().flatten().count(), 8);
    let answer = one.request(peer, ask(b"x"), SOON).await;
    assert_eq!(answer, Asked::Answered(Outcome::Answer(Bytes::from_static(b"x"))));
    drop(following);
    assert!(one.follow(peer, follow(), SOON).is_some(), "their places are free");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn what_is_unanswered_keeps_its_place_so_that_a_slow_peer_fills_nothing() {
    let kept: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let handler: Handler = Arc::new(move |_, responder| keep.lock().expect("nobody panics").push(responder));
    let few = LinkSettings { in_flight_max: 10, ..settings(1) };
    let (one, other, peer) = pair(few, settings(2), handler).await;
    linked(&one, peer).await;
    let short = Duration::from_millis(300);
    let asked = futures::future::join_all((0..25).map(|_| one.request(peer, ask(b"x"), short))).await;
    let lost = asked.iter().filter(|asked| **asked == Asked::Lost).count();
    assert_eq!((lost, asked.len() - lost), (10, 15), "{asked:?}");
    assert_eq!(one.request(peer, ask(b"x"), short).await, Asked::NotSent, "their places are taken");
    kept.lock().expect("nobody panics").clear();
    tokio::time::sleep(short).await;
    assert_eq!(one.request(peer, ask(b"x"), short).await, Asked::Lost, "their places are free");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn an_end_that_goes_leaves_nobody_waiting_and_one_that_comes_is_found() {
    let handled = Arc::new(AtomicUsize::new(0));
    let kept: Arc<Mutex<Vec<Responder>>> = Arc::default();
    let (count, keep) = (Arc::clone(&handled), Arc::clone(&kept));
    let handler: Handler = Arc::new(move |_, responder| {
        count.fetch_add(1, Ordering::AcqRel);
        keep.lock().expect("nobody panics").push(responder);
    });
    let first = settings(1);
    let incarnation = first.incarnation;
    let (one, other, peer) = pair(first, settings(2), handler).await;
    linked(&one, peer).await;
    let begun = Instant::now();
    let ((), lost) = tokio::join!(
        async {
            while handled.load(Ordering::Acquire) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other.close().await;
        },
        one.request(peer, ask(b"x"), Duration::from_secs(60)),
    );
    assert_eq!(lost, Asked::Lost);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(one.request(peer, ask(b"x"), SOON).await, Asked::NotSent);

    let again = settings(2);
    let peer = again.incarnation;
    let again = Links::open(again, echo()).await.expect("opens");
    again.expect(vec![Peer { incarnation, address: one.address().to_string() }]);
    one.expect(vec![Peer { incarnation: peer, address: again.address().to_string() }]);
    linked(&one, peer).await;
    one.close().await;
    again.close().await;
}

#[tokio::test]
async fn a_node_with_another_cookie_or_of_another_cluster_is_not_linked_with() {
    let other_cookie =
        LinkSettings { cookie: "another cookie of more than 32 bytes".to_owned(), ..settings(2) };
    let (one, other, peer) = pair(settings(1), other_cookie, echo()).await;
    never_linked(&one, peer).await;
    one.close().await;
    other.close().await;
    let other_cluster = LinkSettings { cluster: Uuid::from_u128(9), ..settings(2) };
    let (one, other, peer) = pair(settings(1), other_cluster, echo()).await;
    never_linked(&one, peer).await;
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_stranger_who_says_nothing_or_garbage_is_cut_off() {
    let hasty = LinkSettings { introduction_timeout: Duration::from_millis(300), ..settings(1) };
    let links = Links::open(hasty, echo()).await.expect("opens");
    let mut silent = TcpStream::connect(links.address()).await.expect("connects");
    let mut babbling = TcpStream::connect(links.address()).await.expect("connects");
    babbling.write_all(&[0xff; 4096]).await.expect("is taken");
    for stranger in [&mut silent, &mut babbling] {
        let mut heard = Vec::new();
        // An end, or a reset: either way it is over.
        let over = timeout(SOON, stranger.read_to_end(&mut heard)).await;
        assert!(over.is_ok(), "the connection is kept");
    }
    links.close().await;
}

/// One authority, and a certificate of `localhost` that it has signed; by the name of the file.
fn certificates(folder: &str) -> HashMap<&'static str, PathBuf> {
    let folder = std::env::temp_dir().join(format!("souk-links-{folder}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut authority = CertificateParams::new(Vec::new()).expect("no name is wrong");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signs itself");
    let key = KeyPair::generate().expect("a key");
    let node = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let node = node.signed_by(&key, &authority).expect("is signed");
    let files = [("authority", authority.pem()), ("certificate", node.pem()), ("key", key.serialize_pem())];
    files
        .into_iter()
        .map(|(name, pem)| {
            let file = folder.join(format!("{name}.pem"));
            std::fs::write(&file, pem).expect("is written");
            (name, file)
        })
        .collect()
}

fn tls(files: &HashMap<&'static str, PathBuf>) -> Option<TlsFiles> {
    let file = |name: &str| files[name].clone();
    Some(TlsFiles { certificate: file("certificate"), key: file("key"), authority: file("authority") })
}

#[tokio::test]
async fn with_certificates_both_ends_show_one_and_whoever_has_none_is_refused() {
    let files = certificates("ours");
    let encrypted = |number| LinkSettings { tls: tls(&files), ..settings(number) };
    let (one, other, peer) = pair(encrypted(1), encrypted(2), echo()).await;
    linked(&one, peer).await;
    let answer = one.request(peer, ask(b"secret"), SOON).await;
    assert_eq!(answer, Asked::Answered(Outcome::Answer(Bytes::from_static(b"secret"))));
    one.close().await;
    other.close().await;

    let (one, other, peer) = pair(settings(1), encrypted(2), echo()).await;
    never_linked(&one, peer).await;
    one.close().await;
    other.close().await;

    let theirs = certificates("theirs");
    let forged = LinkSettings { tls: tls(&theirs), ..settings(1) };
    let (one, other, peer) = pair(forged, encrypted(2), echo()).await;
    never_linked(&one, peer).await;
    one.close().await;
    other.close().await;
}
