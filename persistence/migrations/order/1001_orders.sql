-- An order is written three or four times within milliseconds; see the product database for the reason.
alter table entity set (fillfactor = 50);

-- For people and tools; Souk itself reads the entity table.
create view orders as
select stream as id, owner as customer, view ->> 'status' as status, (view ->> 'amount')::bigint as amount,
       view ->> 'currency_code' as currency_code, view -> 'failure' ->> 'code' as failure, owed,
       created_at, updated_at, version
from entity where kind = 6;
