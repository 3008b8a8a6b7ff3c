-- For people and tools; Souk itself reads the entity table. Password hashes are in snapshots, not here.
create view accounts as
select stream as id, view ->> 'email' as email, view ->> 'first_name' as first_name,
       view ->> 'last_name' as last_name, (view ->> 'active')::boolean as active,
       created_at, updated_at, version
from entity where kind = 1;
