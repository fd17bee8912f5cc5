-- Up to this place of the stream a lower position of the tenant may stand behind a higher one, because sending was
-- interrupted before it: docs/adr/0020. Behind it positions follow places.
alter table relay_progress add column disordered_to bigint not null default 0;
