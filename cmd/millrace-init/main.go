// Command millrace-init is PID 1 inside a VM, see package pid1.
package main

import "github.com/millrace-ci/millrace/guest/pid1"

func main() { pid1.Main() }
