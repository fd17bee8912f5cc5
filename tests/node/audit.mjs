// Runs the audits of graphql-http (GraphQL over HTTP) against the server at the URL in the first argument. The access
// token is in the environment variable ACCESS_TOKEN. What the specification demands must hold; the rest is printed.
import { serverAudits } from 'graphql-http';

const fetchFn = (url, init = {}) => {
  const headers = { ...init.headers, authorization: `Bearer ${process.env.ACCESS_TOKEN}` };
  return fetch(url, { ...init, headers });
};
let errors = 0;
for (const audit of serverAudits({ url: process.argv[2], fetchFn })) {
  const result = await audit.fn();
  if (result.status !== 'ok') {
    console.error(`${result.status}: ${result.name}: ${result.reason}`);
  }
  errors += result.status === 'error' ? 1 : 0;
}
process.exitCode = errors > 0 ? 1 : 0;
