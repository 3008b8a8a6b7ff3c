//! A record that was read, whatever somebody has written.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers, Message as _};

/// A record that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Where it was.
    pub topic: String,
    /// See above.
    pub partition: i32,
    /// See above.
    pub offset: i64,
    /// What it is ordered by.
    pub key: Option<Vec<u8>>,
    /// Names and values, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The name of a header is no text: that one and those behind it are not among the headers.
    pub is_garbled: bool,
    /// What it says.
    pub body: Vec<u8>,
}

impl Incoming {
    /// The last header of a name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(&header.1).ok()
    }
}

impl From<&BorrowedMessage<'_>> for Incoming {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let mut headers = Vec::new();
        // The client's crate panics at a header whose name is not UTF-8, which any writer can write.
        let is_read = catch_unwind(AssertUnwindSafe(|| {
            for header in message.headers().into_iter().flat_map(Headers::iter) {
                headers.push((header.key.to_owned(), header.value.unwrap_or_default().to_vec()));
            }
        }));
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            headers,
            is_garbled: is_read.is_err(),
            body: message.payload().unwrap_or_default().to_vec(),
        }
    }
}
