//! A bank that keeps books, in memory, and whose calls meet the fates that the plot deals out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use souk_actors::fate::Fate;
use souk_actors::{Clock, Timestamp};
use souk_persistence::provider::{
    ChargeRequest, Charged, Found, PaymentProvider, ProviderUnknown, RefundRequest,
};
use uuid::Uuid;

use crate::plot::{self, Action};

/// Pays with nothing.
pub const DECLINED: &str = "tok_declined";
/// The bank says that it declined, and has captured.
pub const CAPTURED_BUT_DECLINED: &str = "tok_captured_but_declined";

const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// What the books say of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Each time that money was taken.
    pub captures: Vec<i64>,
    /// It once said so.
    pub has_declined: bool,
    /// Each refund by its name.
    pub refunds: BTreeMap<String, i64>,
}

impl Account {
    pub fn captured(&self) -> i64 {
        self.captures.iter().sum()
    }

    pub fn refunded(&self) -> i64 {
        self.refunds.values().sum()
    }
}

/// The bank. It pays every refund that has a new name: whoever asks must know.
#[derive(Debug)]
pub struct Bank {
    books: Arc<Mutex<BTreeMap<Uuid, Account>>>,
    clock: Clock,
}

impl Bank {
    pub fn open(clock: Clock) -> Arc<Self> {
        Arc::new(Self { books: Arc::default(), clock })
    }

    pub fn books(&self) -> BTreeMap<Uuid, Account> {
        lock(&self.books).clone()
    }

    /// Executes a request as its fate says, and answers if it does.
    fn meet<T: Send + 'static>(
        &self,
        fate: Fate,
        execute: impl Fn(&mut BTreeMap<Uuid, Account>) -> Result<T, ProviderUnknown> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, ProviderUnknown>> {
        let books = Arc::clone(&self.books);
        let executed = move || execute(&mut lock(&books));
        let lost = || Err(ProviderUnknown("lost".to_owned()));
        match fate {
            Fate::Delivered => std::future::ready(executed()).boxed(),
            Fate::RequestLost => std::future::pending().boxed(),
            Fate::AnswerLost => {
                let _ = executed();
                std::future::pending().boxed()
            }
            Fate::Unknown | Fate::Refused(_) => std::future::ready(lost()).boxed(),
            Fate::DoneUnknown => {
                let _ = executed();
                std::future::ready(lost()).boxed()
            }
            Fate::Twice => {
                let _ = executed();
                std::future::ready(executed()).boxed()
            }
            Fate::RequestLate(late) => {
                // On its way, whether or not somebody still waits.
                let executing = tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    executed()
                });
                executing.map(|executed| executed.expect("a bank does not panic")).boxed()
            }
            Fate::AnswerLate(late) => {
                let answer = executed();
                tokio::time::sleep(late).map(|()| answer).boxed()
            }
            Fate::Then(then) => {
                let _ = executed();
                then();
                std::future::ready(lost()).boxed()
            }
        }
    }
}

fn lock(books: &Mutex<BTreeMap<Uuid, Account>>) -> MutexGuard<'_, BTreeMap<Uuid, Account>> {
    books.lock().expect("a bank does not panic")
}

impl PaymentProvider for Bank {
    fn settles_within(&self) -> Duration {
        SETTLES_WITHIN
    }

    fn remembers_for(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn charge(
        &self,
        request: ChargeRequest,
        expires: Timestamp,
    ) -> BoxFuture<'_, Result<Charged, ProviderUnknown>> {
        let fate = plot::befalls(Action::BankCharge, request.key);
        let clock = self.clock;
        let is_refused = matches!(fate, Fate::Refused(_));
        let fate = if is_refused { Fate::Delivered } else { fate };
        self.meet(fate, move |books| {
            let declined = || Ok(Charged::Declined { reason: "no".to_owned() });
            let account = books.get(&request.key);
            if account.is_some_and(|account| account.captured() > 0) {
                return match request.token.as_str() {
                    CAPTURED_BUT_DECLINED => declined(),
                    _ => Ok(Charged::Captured { reference: "r".to_owned() }),
                };
            }
            if account.is_some_and(|account| account.has_declined) {
                return declined();
            }
            if clock.now() > expires {
                return Err(ProviderUnknown("it came too late".to_owned()));
            }
            let account = books.entry(request.key).or_default();
            if request.token == DECLINED || is_refused {
                account.has_declined = true;
                return declined();
            }
            account.captures.push(request.amount);
            if request.token == CAPTURED_BUT_DECLINED {
                account.has_declined = true;
                return declined();
            }
            Ok(Charged::Captured { reference: "r".to_owned() })
        })
    }

    fn find(&self, key: Uuid) -> BoxFuture<'_, Result<Option<Found>, ProviderUnknown>> {
        let fate = plot::befalls(Action::Look, key);
        self.meet(fate, move |books| {
            let captured = books.get(&key).filter(|account| account.captured() > 0);
            Ok(captured.map(|account| Found { amount: account.captured(), reference: "r".to_owned() }))
        })
    }

    fn refund(&self, request: RefundRequest) -> BoxFuture<'_, Result<(), ProviderUnknown>> {
        let fate = plot::befalls(Action::Refund, request.key);
        self.meet(fate, move |books| {
            match books.get_mut(&request.key).filter(|account| account.captured() > 0) {
                Some(account) => {
                    account.refunds.insert(request.refund_key.clone(), request.amount);
                    Ok(())
                }
                None => Err(ProviderUnknown("nothing was captured".to_owned())),
            }
        })
    }
}
