-- The sandbox's books. They stand for somebody else's system: nothing of Souk is kept here, and Souk reads
-- them only to compare them with its own.

-- What is known of a key, one row: so whoever comes first decides, whichever node it came to.
create table charge (
  key       uuid        primary key,
  -- When it was captured, declined, or else asked for.
  at        timestamptz not null,
  -- A request came and was lost.
  asked     timestamptz,
  captured  bigint      check (captured >= 0),
  currency  text        check (length(currency) = 3),
  token     text,
  declined  bigint,
  reason    text,
  -- The sum of the refunds: whoever adds one says what it was before, so two at once are not too much.
  refunded  bigint      not null default 0 check (refunded = 0 or refunded <= captured)
);

create table refund (
  key     uuid        not null references charge,
  name    text        not null,
  amount  bigint      not null check (amount >= 0),
  at      timestamptz not null,
  primary key (key, name)
);
