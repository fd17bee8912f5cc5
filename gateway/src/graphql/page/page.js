// Starts GraphiQL against this server. The token is typed into the headers below the query, and is stored nowhere.
const query = `# Every request needs an access token. To get one of the demo tenant, run in a shell:
#
#   curl -s ${location.origin}/v1/auth/login -H 'X-Tenant-ID: demo' -H 'Content-Type: application/json' \\
#     -d '{"email":"admin@demo.example","password":"try annals out"}'
#
# Put its access_token into the Headers tab below, in place of TOKEN,
# then re-fetch the schema (the two arrows at the lower left) and run this with Ctrl-Enter.
{
  me { id email name roles }
  customers(first: 5) { totalCount nodes { id name status } }
}
`;
const headers = JSON.stringify({ Authorization: 'Bearer TOKEN' }, null, 2);
// The history of queries holds their headers: it is kept in memory, and ends with the page.
const history = new Map();
const place = (name) => (/:(queries|favorites)$/.test(name) ? history : localStorage);
const storage = {
  getItem: (name) => (place(name) === history ? (history.get(name) ?? null) : localStorage.getItem(name)),
  setItem: (name, value) => {
    if (place(name) === history) history.set(name, value);
    else localStorage.setItem(name, value);
  },
  removeItem: (name) => {
    history.delete(name);
    localStorage.removeItem(name);
  },
  clear: () => {
    history.clear();
    localStorage.clear();
  },
  get length() {
    return history.size + localStorage.length;
  },
};
const { createElement } = React;
ReactDOM.createRoot(document.getElementById('graphiql')).render(
  createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: '/graphql' }),
    defaultQuery: query,
    defaultHeaders: headers,
    defaultEditorToolsVisibility: 'headers',
    shouldPersistHeaders: false,
    storage,
  }),
);
