#!/usr/bin/env python3
"""A payment service behind Kafka, as a participant of Souk's purchases: it charges and gives back, and answers on `reply`.

    pip install confluent-kafka
    SOUK__KAFKA__BROKERS=… SOUK__KAFKA__OUTSIDE=payment SOUK__KAFKA__PAYMENT_SIGNERS__PAYMENTS=KEY souk serve
    tests/participants/payment.py --brokers … --books FOLDER --source payments --key KEY

What a participant must keep, and this one does:

- A command is named by its purchase. It may come twice, late, or behind its undo, and is answered as it was the first time.
- An undo succeeds even if the charge never came, and leaves a mark that refuses the charge for ever.
- What was decided is in the books, on disk, before it is answered; the offset is committed after that.

The books are SQLite: table `payment` (purchase, amount, currency, state: captured, declined, rolled_back; captured and
refunded in minor units). The token "tok_declined" is declined. What it is to do wrong, a test says:
--duplicate answers twice, --late SECONDS answers late now and then, --wrong-amount adds one to what it says it captured.
"""

import argparse
import hashlib
import hmac
import json
import os
import random
import signal
import sqlite3
import sys
import time
import uuid
from datetime import datetime, timezone

from confluent_kafka import Consumer, Producer


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--prefix", default="", help="before the name of every topic")
    parser.add_argument("--books", required=True, help="a folder")
    parser.add_argument("--source", default="payments", help="ce_source of what it says")
    parser.add_argument("--key", help="of its signatures; without one the topic reply must be trusted")
    parser.add_argument("--duplicate", type=float, default=0.0, metavar="SHARE", help="of answers that are given twice")
    parser.add_argument("--late", type=float, default=0.0, metavar="SECONDS", help="by which every tenth answer is late")
    parser.add_argument("--wrong-amount", type=float, default=0.0, metavar="SHARE", help="of answers that say too much")
    return parser.parse_args()


class Books:
    """Who paid what. One row per purchase, whatever is asked how often in which order."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.db = sqlite3.connect(os.path.join(folder, "payments.db"), isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = full")
        self.db.execute(
            """create table if not exists payment (
                 purchase text primary key, amount integer not null, currency text not null,
                 state text not null check (state in ('captured', 'declined', 'rolled_back')),
                 captured integer not null default 0, refunded integer not null default 0)"""
        )

    def charge(self, command):
        """Decides a charge once. Past its deadline a new one is neither done nor refused: None, and no answer."""
        known = self.find(command["purchase_id"])
        if known is None:
            if moment(command["reserve_by"]) <= datetime.now(timezone.utc):
                return None
            declined = command.get("token") == "tok_declined"
            amount = int(command["amount"])
            state, captured = ("declined", 0) if declined else ("captured", amount)
            self.db.execute(
                "insert or ignore into payment (purchase, amount, currency, state, captured) values (?, ?, ?, ?, ?)",
                (command["purchase_id"], amount, command["currency_code"], state, captured),
            )
            known = self.find(command["purchase_id"])
        amount, currency, state, captured = known
        if state == "captured":
            return {"captured": {"amount": str(captured), "currency_code": currency}}
        reason = "the card was declined" if state == "declined" else "it was taken back before"
        return {"refused": {"code": "payment_declined", "detail": reason}}

    def roll_back(self, command):
        """Gives back what was taken, or leaves a mark that nothing may be taken any more."""
        self.db.execute(
            """insert into payment (purchase, amount, currency, state) values (?, ?, ?, 'rolled_back')
               on conflict (purchase) do update set state = 'rolled_back', refunded = captured""",
            (command["purchase_id"], int(command["amount"]), command["currency_code"]),
        )
        return {"rolled_back": {}}

    def find(self, purchase):
        query = "select amount, currency, state, captured from payment where purchase = ?"
        return self.db.execute(query, (purchase,)).fetchone()


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Answers:
    """Says what was decided, signed."""

    def __init__(self, options):
        self.options = options
        self.topic = f"{options.prefix}reply"
        self.producer = Producer(
            {"bootstrap.servers": options.brokers, "enable.idempotence": True, "linger.ms": 5,
             "partitioner": "murmur2_random"}
        )
        self.late = []

    def give(self, purchase, outcome):
        body = json.dumps({"purchase_id": purchase, "step": "CREATE_PAYMENT", **outcome}).encode()
        if "captured" in outcome and random.random() < self.options.wrong_amount:
            wrong = {"captured": {**outcome["captured"], "amount": str(int(outcome["captured"]["amount"]) + 1)}}
            lie = json.dumps({"purchase_id": purchase, "step": "CREATE_PAYMENT", **wrong}).encode()
            self.send(purchase, lie)
        if self.options.late and random.random() < 0.1:
            self.late.append((time.monotonic() + self.options.late, purchase, body))
            return
        self.send(purchase, body)
        if random.random() < self.options.duplicate:
            self.send(purchase, body)

    def send(self, purchase, body):
        record = str(uuid.uuid4())
        headers = [("ce_specversion", b"1.0"), ("ce_id", record.encode()), ("ce_source", self.options.source.encode()),
                   ("ce_type", b"souk.shop.v1.Reply"), ("content-type", b"application/json")]
        if self.options.key:
            signed = f"{self.topic}\n{self.options.source}\n{record}\n".encode() + body
            digest = hmac.new(self.options.key.encode(), signed, hashlib.sha256).hexdigest()
            headers.append(("souk-signature", b"v1=" + digest.encode()))
        while True:
            try:
                self.producer.produce(self.topic, key=purchase, value=body, headers=headers)
                return
            except BufferError:
                self.producer.poll(0.1)

    def turn(self):
        """Gives what is late by now."""
        now = time.monotonic()
        due, self.late = [l for l in self.late if l[0] <= now], [l for l in self.late if l[0] > now]
        for _, purchase, body in due:
            self.send(purchase, body)

    def flush(self):
        # What is answered now, before its offset is passed. What is late on purpose ends with the process: Souk asks again.
        while self.producer.flush(5) > 0:
            pass


def main():
    options = arguments()
    books, answers = Books(options.books), Answers(options)
    topics = {f"{options.prefix}create-payment": books.charge, f"{options.prefix}rollback-payment": books.roll_back}
    consumer = Consumer(
        {"bootstrap.servers": options.brokers, "group.id": f"{options.prefix}{options.source}",
         "auto.offset.reset": "earliest", "enable.auto.commit": False, "session.timeout.ms": 6000,
         # Souk may yet have to make the topics.
         "topic.metadata.refresh.interval.ms": 1000,
         "partition.assignment.strategy": "cooperative-sticky"}
    )
    consumer.subscribe(list(topics))
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print("the payment service listens", flush=True)
    while running:
        told = consumer.consume(500, timeout=0.1)
        for error in filter(None, (record.error() for record in told)):
            print(error, file=sys.stderr)
        records = [record for record in told if not record.error()]
        for record in records:
            command = json.loads(record.value())
            # 0: it only tells; the payment of that purchase is Souk's own.
            if command["attempt"] == 0:
                continue
            outcome = topics[record.topic()](command)
            if outcome is not None:
                answers.give(command["purchase_id"], outcome)
        answers.turn()
        answers.flush()
        if records:
            consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main()
