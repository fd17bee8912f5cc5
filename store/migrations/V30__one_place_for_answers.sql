-- Answers to requests on webhooks are kept with those to all other requests, in request_answers.
drop table webhook_receipts;
