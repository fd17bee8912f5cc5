-- Whether an endpoint gets personal data open: an administrator decides for each, and the default is no.
alter table webhooks add column personal_data boolean not null default false;
