-- For people and tools; Souk itself reads the entity table. No fillfactor: on the good way a payment is
-- written once.
create view payments as
select stream as id, owner as customer, view ->> 'status' as status, (view ->> 'amount')::bigint as amount,
       view ->> 'currency_code' as currency_code, (view ->> 'captured_amount')::bigint as captured,
       (view ->> 'refunded_amount')::bigint as refunded, owed, created_at, updated_at, version
from entity where kind = 7;
