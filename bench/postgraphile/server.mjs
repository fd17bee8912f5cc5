// PostGraphile over the schema `peer`: node server.mjs DATABASE_URL PORT PROCESSES. It ends with its standard input.
import cluster from "node:cluster";
import { createServer } from "node:http";

const [url, port, processes] = process.argv.slice(2);
const single = processes === "1";

if (cluster.isPrimary) {
  process.stdin.resume().on("end", () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill("SIGKILL");
    process.exit(0);
  });
}
if (cluster.isPrimary && !single) {
  for (let n = 0; n < Number(processes); n += 1) cluster.fork();
} else {
  const { postgraphile } = await import("postgraphile");
  const { makePgService } = await import("postgraphile/adaptors/pg");
  const { grafserv } = await import("postgraphile/grafserv/node");
  const { PostGraphileAmberPreset } = await import("postgraphile/presets/amber");
  const instance = postgraphile({
    extends: [PostGraphileAmberPreset],
    pgServices: [makePgService({ connectionString: url, schemas: ["peer"] })],
    grafast: { explain: false },
    grafserv: { graphiql: false, watch: false },
  });
  const server = createServer({ keepAliveTimeout: 600_000 });
  await instance.createServ(grafserv).addTo(server);
  server.listen(Number(port), "127.0.0.1");
}
