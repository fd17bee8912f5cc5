// Compiles the documents in `relay` against the committed schema with relay-compiler.
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';

const here = import.meta.dirname;
const folder = mkdtempSync(join(tmpdir(), 'annals-relay-'));
try {
  cpSync(join(here, 'relay'), join(folder, 'src'), { recursive: true });
  cpSync(join(here, '../../gateway/schema.graphql'), join(folder, 'schema.graphql'));
  const config = { src: './src', schema: './schema.graphql', language: 'javascript' };
  writeFileSync(join(folder, 'relay.config.json'), JSON.stringify(config));
  const compiler = join(here, 'node_modules/relay-compiler/cli.js');
  execFileSync(process.execPath, [compiler, 'relay.config.json'], { cwd: folder, stdio: 'inherit' });
} finally {
  rmSync(folder, { recursive: true });
}
