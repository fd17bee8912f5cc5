const at = (id) => document.getElementById(id);
const ask = async (query, variables) => {
  const headers = { 'Content-Type': 'application/json' };
  if (at('token').value) headers.Authorization = 'Bearer ' + at('token').value.trim();
  if (at('consistency').value) headers['X-Consistency-Token'] = at('consistency').value.trim();
  const answer = await fetch('/graphql', { method: 'POST', headers, body: JSON.stringify({ query, variables }) });
  return answer.json();
};
const show = async (work) => {
  try { at('answer').textContent = JSON.stringify(await work(), null, 2); }
  catch (error) { at('answer').textContent = String(error); }
};
const run = () => show(() => ask(at('query').value, JSON.parse(at('variables').value || '{}')));
at('run').addEventListener('click', run);
at('query').addEventListener('keydown', (event) => { if (event.ctrlKey && event.key === 'Enter') run(); });
at('schema').addEventListener('click', () => show(async () => {
  const answer = await ask('{ __schema { types { name kind description fields { name description } } } }');
  return answer.data ? answer.data.__schema.types.filter((type) => !type.name.startsWith('__')) : answer;
}));
