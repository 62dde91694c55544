// Package client is the wire: the types of the REST and the agent API, and a typed client of both. The server's api
// package and everything that calls it (CLI, agent, tests) share these types.
package client
