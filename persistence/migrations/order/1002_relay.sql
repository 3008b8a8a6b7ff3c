-- The order in which the relay reads. Not stream and version too: rows of one transaction are few, and sorted when read.
create index journal_xid on journal (xid);
