// Documents as a Relay client has them: a list that pages on by itself, and a row that is fetched anew by its id.
import { graphql } from 'relay-runtime';

export const query = graphql`
  query customersQuery($id: ID!) {
    ...customers_list
    node(id: $id) {
      __typename
      ...customers_details @alias(as: "details")
    }
  }
`;

export const list = graphql`
  fragment customers_list on Query
  @refetchable(queryName: "customersPageQuery")
  @argumentDefinitions(
    count: { type: "Int", defaultValue: 20 }
    cursor: { type: "String" }
    status: { type: "CustomerStatus" }
  ) {
    customers(first: $count, after: $cursor, filter: { status: $status }, orderBy: NAME_ASC)
      @connection(key: "customers_list_customers", filters: ["filter"]) {
      edges {
        node {
          name
          ...customers_details
        }
      }
    }
  }
`;

export const details = graphql`
  fragment customers_details on Customer @refetchable(queryName: "customersDetailsQuery") {
    name
    status
    user {
      name
      customer {
        name
      }
    }
  }
`;

export const rename = graphql`
  mutation customersRenameMutation($input: RenameCustomerInput!) {
    renameCustomer(input: $input) {
      outcome
      customer {
        ...customers_details
      }
      userErrors {
        code
        path
      }
    }
  }
`;

export const history = graphql`
  fragment customers_history on Query
  @refetchable(queryName: "customersHistoryQuery")
  @argumentDefinitions(
    id: { type: "ID!" }
    count: { type: "Int", defaultValue: 20 }
    cursor: { type: "String" }
  ) {
    customerHistory(id: $id, first: $count, after: $cursor)
      @connection(key: "customers_history_customerHistory") {
      edges {
        node {
          type
          recordedAt
        }
      }
    }
  }
`;
