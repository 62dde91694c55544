// Package sim holds the tests and benchmarks of the whole system: real processes, a real VM, a real browser. They know
// the product by its outside contract (ready file, pages, REST API, the stand-in's control interface) wherever that
// suffices.
package sim
