// Lints the committed schema with the recommended and the Relay rules of @graphql-eslint.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import graphqlPlugin from '@graphql-eslint/eslint-plugin';
import { ESLint } from 'eslint';

// What docs/adr/0038 refuses of the rules.
const refused = {
  // Only rows have an id: a page, its edges, an event of a history and the result of a command are parts of something.
  '@graphql-eslint/strict-id-in-types': [
    'error',
    { exceptions: { types: ['PageInfo', 'UserError'], suffixes: ['Connection', 'Edge', 'Fact', 'Payload'] } },
  ],
  // Pages have `nodes` beside `edges`, and the entries of a history are no rows.
  '@graphql-eslint/relay-edge-types': [
    'error',
    { withEdgeSuffix: true, listTypeCanWrapOnlyEdgeType: false, shouldImplementNode: false },
  ],
  // A history is read forward.
  '@graphql-eslint/relay-arguments': ['error', { includeBoth: false }],
};
// The library writes the definitions of the specification's own directives into the schema.
const isBuiltIn = ({ message }) => /^Directive `(specifiedBy|oneOf)` is unreachable/.test(message);

const root = join(import.meta.dirname, '../..');
const file = join(root, 'gateway/schema.graphql');
const schema = readFileSync(file, 'utf8');
const { configs, parser } = graphqlPlugin;
const eslint = new ESLint({
  cwd: root,
  overrideConfigFile: true,
  overrideConfig: [
    {
      files: ['**/*.graphql'],
      languageOptions: { parser, parserOptions: { graphQLConfig: { schema: file } } },
      plugins: { '@graphql-eslint': graphqlPlugin },
      rules: {
        ...configs['flat/schema-recommended'].rules,
        ...configs['flat/schema-relay'].rules,
        ...refused,
      },
    },
  ],
});
const results = await eslint.lintText(schema, { filePath: file });
const messages = results.flatMap((result) => result.messages).filter((message) => !isBuiltIn(message));
for (const { line, ruleId, message } of messages) {
  console.error(`${line}: ${ruleId}: ${message}`);
}
process.exitCode = messages.length > 0 ? 1 : 0;
