-- A purchase as one would write it by hand: one function, one transaction, one database. What Souk's saga is
-- measured against, not a part of Souk.
--
-- It writes what a purchase of two products leaves behind in Souk, with the same durability: an order with
-- its view, a payment with its view, the stock of two products, and in the journal two rows of the order, one
-- of the payment and one of each product; keys and indexes likewise. It updates no order, holds no stock
-- and settles nothing, because its transaction spans what Souk keeps in three databases. It calls no
-- payment provider: that could not be taken back with the transaction.

create table product (
  id         uuid   primary key,
  version    int    not null,
  price      bigint not null,
  inventory  bigint not null check (inventory >= 0),
  category   uuid   not null,
  name       text   not null,
  brand      text   not null
-- As in Souk: with room in each page an update stays on it and touches no index.
) with (fillfactor = 50);

create table orders (
  id          uuid        primary key,
  customer    uuid        not null,
  created_at  timestamptz not null,
  view        json        not null
);
create index orders_customer on orders (customer, created_at, id);

create table payment (
  id          uuid        primary key,
  customer    uuid        not null,
  created_at  timestamptz not null,
  view        json        not null
);
create index payment_customer on payment (customer, created_at, id);

create table journal (
  stream   uuid        not null,
  version  int         not null,
  kind     smallint    not null,
  at       timestamptz not null,
  events   json        not null,
  -- An order and its payment have the same id.
  primary key (stream, kind, version)
);

-- The id of the product of a number; souk bench knows it too.
create function product_id(number int) returns uuid language sql immutable as
  $$ select ('00000000-0000-7000-8000-' || lpad(to_hex(number), 12, '0'))::uuid $$;

-- A UUIDv7, for callers that cannot make one: random ids would make the indexes slow.
create function fresh_id() returns uuid language sql volatile as $$
  select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
          || substr(r, 14, 3) || '8' || substr(r, 18, 15))::uuid
  from (select replace(gen_random_uuid()::text, '-', '')) as random(r) $$;

insert into product
select product_id(number), 1, 125, 1000000000000, '00000000-0000-7000-8000-c00000000001', 'Iphone 13', 'Apple'
from generate_series(1, :products) as number;

-- Buys, and says what Souk would say. An error: a product is not for sale, or there is too little of it.
create function buy(purchase uuid, customer uuid, products uuid[], quantities int[])
returns text language plpgsql as $$
declare
  moment      timestamptz := clock_timestamp();
  shown       text := to_char(moment at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  until       text := to_char((moment + interval '10 s') at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  total       bigint := 0;
  ordered     text := '';
  reserved    text := '';
  priced      text := '';
  steps       text;
  comma       text := '';
  wanted      record;
  taken       record;
begin
  -- In one order for everybody: two purchases of the same products must not wait for each other.
  for wanted in select p as id, q as quantity from unnest(products, quantities) as w(p, q) order by p loop
    update product set inventory = inventory - wanted.quantity, version = version + 1
    where id = wanted.id and inventory >= wanted.quantity
    returning version, price, category, name, brand into taken;
    if not found then
      raise exception 'product % cannot be bought', wanted.id;
    end if;
    insert into journal values (wanted.id, taken.version, 5, moment, format(
      '[[0,{"Reserved":{"purchase":"%s","hold":{"quantity":%s,"price":%s}}}]]',
      purchase, wanted.quantity, taken.price)::json);
    total := total + taken.price * wanted.quantity;
    ordered := format('%s%s{"product":"%s","quantity":%s}', ordered, comma, wanted.id, wanted.quantity);
    priced := format('%s%s{"product_id":"%s","quantity":%s,"price":%s}', priced, comma, wanted.id,
      wanted.quantity, taken.price);
    reserved := format('%s%s{"product":"%s","quantity":%s,"price":%s,"category":"%s","name":"%s","brand":"%s"}',
      reserved, comma, wanted.id, wanted.quantity, taken.price, taken.category, taken.name, taken.brand);
    comma := ',';
  end loop;
  steps := format('[{"step":"UPDATE_PRODUCT_INVENTORY","status":"EXECUTE","created_at":"%1$s"},'
    '{"step":"UPDATE_PRODUCT_INVENTORY","status":"SUCCESS","created_at":"%1$s"},'
    '{"step":"CREATE_ORDER","status":"SUCCESS","created_at":"%1$s"},'
    '{"step":"CREATE_PAYMENT","status":"EXECUTE","created_at":"%1$s"},'
    '{"step":"CREATE_PAYMENT","status":"SUCCESS","created_at":"%1$s"}]', shown);
  insert into orders values (purchase, customer, moment, format(
    '{"status":"completed","currency_code":"VND","lines":[%s],"amount":%s,"steps":['
    '["UPDATE_PRODUCT_INVENTORY","EXECUTE",%3$s],["UPDATE_PRODUCT_INVENTORY","SUCCESS",%3$s],'
    '["CREATE_ORDER","SUCCESS",%3$s],["CREATE_PAYMENT","EXECUTE",%3$s],["CREATE_PAYMENT","SUCCESS",%3$s]],'
    '"at_rest":true}', reserved, total, (extract(epoch from moment) * 1000000)::bigint)::json);
  insert into payment values (purchase, customer, moment, format(
    '{"customer_id":"%s","amount":%s,"currency_code":"VND","status":"captured","captured_amount":%2$s,'
    '"refunded_amount":0}', customer, total)::json);
  insert into journal values
    (purchase, 1, 6, moment, format('[[0,{"Accepted":{"definition":1,"customer":"%s","items":[%s],'
      '"currency":"VND","at":"%s","reserve_by":"%s"}}]]', customer, ordered, shown, until)::json),
    (purchase, 2, 6, moment, format('[[0,{"StockReserved":{"lines":[%s],"amount":%s}}],[0,"Completed"]]',
      reserved, total)::json),
    (purchase, 1, 7, moment, format('[[0,{"Captured":{"bill":{"customer":"%s","amount":%s,"currency":"VND",'
      '"reserve_by":"%s"},"reference":"sandbox-%s"}}]]', customer, total, until, purchase)::json);
  return format('{"purchase_id":"%1$s","status":"completed","order_id":"%1$s","payment_id":"%1$s",'
    '"customer_id":"%2$s","order_items":[%3$s],"amount":%4$s,"currency_code":"VND","steps":%5$s,'
    '"timestamp":"%6$s","updated_at":"%6$s"}', purchase, customer, priced, total, steps, shown);
end $$;
