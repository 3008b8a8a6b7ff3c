-- A product is updated by every purchase of it. With room in each page these updates stay on it and touch
-- no index: at fillfactor 100 3 % of them, at 50 all.
alter table entity set (fillfactor = 50);

-- The public lists, newest first.
create index entity_newest on entity (kind, created_at, stream);

-- For people and tools; Souk itself reads the entity table.
create view products as
select stream as id, view ->> 'name' as name, (view ->> 'price')::bigint as price,
       view ->> 'currency' as currency, (view ->> 'inventory')::bigint as inventory,
       (view ->> 'held')::bigint as held, coalesce((view ->> 'gone')::boolean, false) as withdrawn,
       owner as seller, created_at, updated_at, version
from entity where kind = 5;

create view categories as
select stream as id, view ->> 'name' as name, view ->> 'description' as description,
       coalesce((view ->> 'gone')::boolean, false) as removed, created_at, updated_at, version
from entity where kind = 4;
